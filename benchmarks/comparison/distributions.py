"""The distributions of scipy that the comparison uses, with types: scipy ships none."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped, unused-ignore]

__all__ = ["chi2_quantile", "noncentral_t_above", "normal_above", "normal_beyond", "t_above", "t_beyond"]

Floats = NDArray[np.float64]
_STATS: Any = stats


def normal_above(z: float | np.float64) -> float:
    """The chance of a standard normal above `z`."""
    return float(_STATS.norm.sf(z))


def normal_beyond(chance: Floats) -> Floats:
    """The `z` above which a standard normal lies with some chance."""
    return np.asarray(_STATS.norm.isf(chance), dtype=np.float64)


def t_above(t: Floats | np.float64, freedom: int) -> Floats:
    """The chance of Student's t above each value."""
    return np.asarray(_STATS.t.sf(t, freedom), dtype=np.float64)


def t_beyond(chance: float, freedom: int) -> float:
    """The value above which Student's t lies with some chance."""
    return float(_STATS.t.isf(chance, freedom))


def noncentral_t_above(t: float, freedom: int, noncentrality: float) -> float:
    """The chance of a noncentral t above a value."""
    return float(_STATS.nct.sf(t, freedom, noncentrality))


def chi2_quantile(chance: float, freedom: int) -> float:
    """The value below which chi-square lies with some chance."""
    return float(_STATS.chi2.ppf(chance, freedom))

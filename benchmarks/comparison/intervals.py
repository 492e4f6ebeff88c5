"""An interval around the ratio of two medians, by bootstrap over sessions.

Percentiles of resampled medians: at five sessions they are nearly the extremes, and hold the truth as often as they
should (docs/device_lab.md has the simulated coverage; widening them for the small number, as one must for means, only
made them too wide). The interval describes; the permutation test decides.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["COVERAGE", "median_ratio_interval"]

Floats = NDArray[np.float64]
COVERAGE = 0.95
RESAMPLES = 4000


def median_ratio_interval(
    base: Floats, candidate: Floats, *, paired: bool = False, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the median of `candidate - base` (of medians where not paired), all in logarithms."""
    rng = np.random.default_rng(seed)
    draws = _medians(candidate - base, rng) if paired else _medians(candidate, rng) - _medians(base, rng)
    low, high = np.quantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def _medians(values: Floats, rng: np.random.Generator) -> Floats:
    return np.asarray(np.median(rng.choice(values, size=(RESAMPLES, len(values))), axis=1))

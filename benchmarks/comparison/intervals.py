"""An interval around the ratio of two medians, by bootstrap over sessions.

The plain percentile bootstrap is too narrow at few sessions, the more so for medians. Hesterberg's expanded percentiles
(The American Statistician 69, 2015) widen the quantiles by what Student's t and the n / (n - 1) of a variance would
add; docs/device_lab.md has the simulated coverage of both. The interval describes; the permutation test
decides.
"""

import math

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.distributions import normal_above, t_beyond

__all__ = ["COVERAGE", "median_ratio_interval"]

Floats = NDArray[np.float64]
COVERAGE = 0.95
RESAMPLES = 4000


def median_ratio_interval(
    base: Floats, candidate: Floats, *, paired: bool = False, expanded: bool = True, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the median of `candidate - base` (of medians where not paired), both in logarithms."""
    rng = np.random.default_rng(seed)
    draws = _medians(candidate - base, rng) if paired else _medians(candidate, rng) - _medians(base, rng)
    tail = (1 - COVERAGE) / 2
    if expanded:
        tail = _expanded(tail, min(len(base), len(candidate)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _medians(values: Floats, rng: np.random.Generator) -> Floats:
    medians: Floats = np.median(rng.choice(values, size=(RESAMPLES, len(values))), axis=1)
    return medians


def _expanded(tail: float, sessions: int) -> float:
    wider = math.sqrt(sessions / (sessions - 1)) * t_beyond(tail, sessions - 1)
    return normal_above(wider)

"""How small a change some sessions can find, and how many sessions a change takes.

Power comes from the noncentral t distribution on the logarithms of session values. The spread is known only from the
sessions at hand, and five of them know it badly: sizes are computed with the upper 80 % confidence limit of the
standard deviation, so that the number asked for gives at least 80 % power in four plans of five, and on average more.
"""

import math
from dataclasses import dataclass

from benchmarks.comparison.distributions import chi2_quantile, noncentral_t_above, t_beyond

__all__ = ["MIN_SESSIONS", "POWER", "Design", "detectable_change", "power", "sessions_needed", "upper_spread"]

MIN_SESSIONS = 5
POWER = 0.8
SPREAD_CONFIDENCE = 0.8
MAX_SESSIONS = 100_000


@dataclass(frozen=True, kw_only=True)
class Design:
    """How one figure is tested: at which one-sided level, in pairs or not."""

    level: float
    paired: bool = False

    def degrees_of_freedom(self, sessions: int) -> int:
        return sessions - 1 if self.paired else 2 * sessions - 2

    def standard_error(self, sessions: int) -> float:
        """In units of the spread of a session (of a session's difference where paired), `sessions` a side."""
        return math.sqrt((1 if self.paired else 2) / sessions)


def upper_spread(spread: float, degrees_of_freedom: int) -> float:
    """The upper 80 % confidence limit of a standard deviation."""
    return spread * math.sqrt(degrees_of_freedom / chi2_quantile(1 - SPREAD_CONFIDENCE, degrees_of_freedom))


def power(change: float, spread: float, sessions: int, design: Design) -> float:
    """The chance to find a true change, given as a logarithm like the spread, with `sessions` a side."""
    if spread == 0:
        return 1.0 if change > 0 else 0.0
    freedom = design.degrees_of_freedom(sessions)
    noncentrality = change / (spread * design.standard_error(sessions))
    if noncentrality > 30:
        return 1.0
    return noncentral_t_above(t_beyond(design.level, freedom), freedom, noncentrality)


def sessions_needed(change: float, spread: float, design: Design) -> int | None:
    """The fewest sessions a side that find a change with 80 % power; None beyond a hundred thousand."""
    low, high = MIN_SESSIONS, MIN_SESSIONS
    while power(change, spread, high, design) < POWER:
        low, high = high + 1, 2 * high
        if high > MAX_SESSIONS:
            return None
    while low < high:
        middle = (low + high) // 2
        if power(change, spread, middle, design) < POWER:
            low = middle + 1
        else:
            high = middle
    return high


def detectable_change(spread: float, sessions: int, design: Design) -> float:
    """The smallest change, as a logarithm, that so many sessions a side find with 80 % power."""
    if spread == 0:
        return 0.0
    low, high = 0.0, spread
    while power(high, spread, sessions, design) < POWER:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if power(middle, spread, sessions, design) < POWER:
            low = middle
        else:
            high = middle
    return high

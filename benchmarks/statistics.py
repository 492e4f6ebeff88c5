"""Medians and spreads, of one quantity and of the ratio of two that were measured in the same rounds.

On a shared machine the speed of everything drifts; two things measured one after the other drift together. So a ratio
is taken round by round and its median reported, never the ratio of two medians.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "paired_ratio", "spread"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median with the extremes around it."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Median, smallest and largest of at least one value."""
    if not values:
        raise ValueError("no values: nothing was measured")
    return Spread(median=statistics.median(values), low=min(values), high=max(values), count=len(values))


def paired_ratio(ours: Sequence[float], peer: Sequence[float]) -> Spread:
    """The spread of ours over the peer's, round by round."""
    if len(ours) != len(peer):
        raise ValueError(f"{len(ours)} rounds against {len(peer)}: a ratio needs both sides of each round")
    return spread([one / other for one, other in zip(ours, peer, strict=True)])

"""The battery's percentage, where a device shows nothing finer: counted from step to step.

iOS shows whole per cents (some devices five at a time). The level falls somewhere between two looks, so only whole
steps between the first and the last fall are energy that is known to have gone; the window's power is their mean. That
assumes a steady load and needs minutes: with fewer than three falls there is no figure.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.energy.source import EnergyUnavailableError, Integral, Window

__all__ = ["PercentSteps"]

RANK = 3
MIN_FALLS = 3


@dataclass(frozen=True, kw_only=True)
class PercentSteps:
    """Levels in per cent at moments, of a battery that holds `capacity_wh` when full and new."""

    times_ns: Sequence[int]
    percent: Sequence[float]
    capacity_wh: float
    name: str = "battery percentage, step to step"
    rank: int = RANK
    external: bool = False
    sign: int = -1

    @property
    def unit_factor(self) -> float:
        """Joules in one per cent."""
        return self.capacity_wh * 36.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the figure rests on."""
        return (f"capacity taken as {self.capacity_wh:g} Wh; the load is taken as steady",)

    def integral(self, window: Window) -> Integral:
        """The mean power between the first and the last fall in the window, over the window's length."""
        looks = [look for look in zip(self.times_ns, self.percent, strict=True) if window.start_ns <= look[0]]
        looks = [look for look in looks if look[0] <= window.end_ns]
        pairs = list(itertools.pairwise(looks))
        if any(after[1] > before[1] for before, after in pairs):
            raise EnergyUnavailableError(f"{self.name}: the level rose in the window; the battery was charged")
        falls = [(before, after) for before, after in pairs if after[1] < before[1]]
        if len(falls) < MIN_FALLS:
            raise EnergyUnavailableError(
                f"{self.name}: {len(falls)} falls of the level in {window.seconds:.0f} s; {MIN_FALLS} are needed: "
                "measure for a quarter of an hour or longer"
            )
        return self._between(falls[0], falls[-1], len(looks), window)

    def _between(self, first: "Fall", last: "Fall", looks: int, window: Window) -> Integral:
        joules = (first[1][1] - last[1][1]) * self.unit_factor
        seconds = (sum(look[0] for look in last) - sum(look[0] for look in first)) / 2e9
        watts = joules / seconds
        # each fall lies anywhere between the two looks that show it
        moments_s = [(fall[1][0] - fall[0][0]) / 1e9 for fall in (first, last)]
        relative = math.sqrt(sum(moment**2 for moment in moments_s) / 12) / seconds
        total = watts * window.seconds
        median = statistics.median(self._intervals_s())
        return Integral(joules=total, uncertainty_j=total * relative, samples=looks, median_interval_s=median)

    def _intervals_s(self) -> list[float]:
        return [(after - before) / 1e9 for before, after in itertools.pairwise(self.times_ns)]


Look = tuple[int, float]
Fall = tuple[Look, Look]

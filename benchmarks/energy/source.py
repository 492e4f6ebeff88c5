"""What every source of energy answers: how much flowed in a window, and how uncertain that is.

Two shapes of evidence. Samples of power are integrated by the trapezoid rule. Between two samples the power may have
changed at any moment, so each interval adds a variance of (change x interval)^2 / 12, as if a single step lay in it at
random; the step of the counter adds (step x interval)^2 / 12. Counters of energy are read at both ends of the window;
the moment when each end's reading was true lies somewhere within its interval, which adds (its energy)^2 / 12.

Uncertainties are one standard deviation and cover reading and timing, not the calibration of the device's own gauge.
"""

import bisect
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from benchmarks.errors import BenchmarkError

__all__ = [
    "EnergyCounter",
    "EnergySource",
    "EnergyUnavailableError",
    "Integral",
    "PluggedSample",
    "PowerSamples",
    "Window",
    "plugged_in",
]

Value = TypeVar("Value")
MIN_SAMPLES = 8  # fewer say little about a window, and nothing about how it varied
MAX_GAP = 0.2  # of the window: one gap longer than this leaves the window unobserved
# a state holds until the next look, for so long at most
PLUGGED_VALID_NS = 30_000_000_000


class EnergyUnavailableError(BenchmarkError):
    """A source cannot say what a window cost; its text is the reason that is recorded with the null."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """From when to when, on the device's monotonic clock."""

    start_ns: int
    end_ns: int

    def __post_init__(self) -> None:
        if self.end_ns <= self.start_ns:
            raise EnergyUnavailableError(f"the window of {self.end_ns - self.start_ns} ns is empty")

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, kw_only=True)
class Integral:
    """Energy in a window; `uncertainty_j` is one standard deviation."""

    joules: float
    uncertainty_j: float
    samples: int
    median_interval_s: float | None


@dataclass(frozen=True, kw_only=True)
class PluggedSample:
    """Whether external power was there at a moment."""

    at_ns: int
    plugged: bool


class EnergySource(Protocol):
    """One way of knowing what a window cost; a lower rank is believed first."""

    @property
    def name(self) -> str:
        """What the record calls it."""

    @property
    def rank(self) -> int:
        """1 external meter, 2 power rails, 3 battery counters, 4 modelled."""

    @property
    def external(self) -> bool:
        """Whether it measures at the device's supply, so that the battery's charging does not matter."""

    @property
    def unit_factor(self) -> float:
        """What the raw figures were multiplied by to give SI units."""

    @property
    def sign(self) -> int:
        """The sign that the raw figures have while energy is drawn."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figure must know."""

    def integral(self, window: Window) -> Integral:
        """The energy drawn in a window, or `EnergyUnavailableError`."""


@dataclass(frozen=True, kw_only=True)
class PowerSamples:
    """Watts drawn at moments; `step_w` is the smallest change that the counter can show."""

    name: str
    rank: int
    times_ns: Sequence[int]
    watts: Sequence[float]
    step_w: float = 0.0
    unit_factor: float = 1.0
    sign: int = 1
    external: bool = False
    notes: tuple[str, ...] = ()

    def integral(self, window: Window) -> Integral:
        """The trapezoid rule, with power interpolated at the window's ends."""
        inside = _check_cover(self.name, self.times_ns, window)
        times = [window.start_ns, *(self.times_ns[index] for index in inside), window.end_ns]
        watts = [self._at(window.start_ns), *(self.watts[index] for index in inside), self._at(window.end_ns)]
        joules = variance = 0.0
        for (before, after), (low, high) in zip(_pairs(times), _pairs(watts), strict=True):
            seconds = (after - before) / 1e9
            joules += (low + high) / 2 * seconds
            variance += ((high - low) ** 2 + self.step_w**2) * seconds**2 / 12
        return Integral(
            joules=joules,
            uncertainty_j=math.sqrt(variance),
            samples=len(inside),
            median_interval_s=statistics.median(_intervals_s(self.times_ns, inside)),
        )

    def _at(self, moment_ns: int) -> float:
        return _interpolate(self.times_ns, self.watts, moment_ns)


@dataclass(frozen=True, kw_only=True)
class EnergyCounter:
    """Joules since some moment, read now and then."""

    name: str
    rank: int
    times_ns: Sequence[int]
    joules: Sequence[float]
    unit_factor: float = 1.0
    sign: int = 1
    external: bool = False
    notes: tuple[str, ...] = ()

    def integral(self, window: Window) -> Integral:
        """The difference of the readings at both ends, interpolated between the nearest two."""
        inside = _check_cover(self.name, self.times_ns, window)
        if any(after < before for before, after in _pairs([self.joules[index] for index in inside])):
            raise EnergyUnavailableError(f"{self.name}: the counter ran backwards in the window; it was reset")
        joules = _interpolate(self.times_ns, self.joules, window.end_ns)
        joules -= _interpolate(self.times_ns, self.joules, window.start_ns)
        ends = [self._step_at(window.start_ns), self._step_at(window.end_ns)]
        return Integral(
            joules=joules,
            uncertainty_j=math.sqrt(sum(step**2 for step in ends) / 12),
            samples=len(inside),
            median_interval_s=statistics.median(_intervals_s(self.times_ns, inside)),
        )

    def _step_at(self, moment_ns: int) -> float:
        after = min(max(bisect.bisect_right(self.times_ns, moment_ns), 1), len(self.times_ns) - 1)
        return self.joules[after] - self.joules[after - 1]


def plugged_in(samples: Sequence[PluggedSample], window: Window) -> bool | None:
    """Whether external power was there in any part of a window; None where nobody looked often enough to know."""
    ordered = sorted(samples, key=lambda sample: sample.at_ns)
    before = [sample for sample in ordered if sample.at_ns <= window.start_ns]
    during = [sample for sample in ordered if window.start_ns < sample.at_ns < window.end_ns]
    after = [sample for sample in ordered if sample.at_ns >= window.end_ns]
    around = [*before[-1:], *during, *after[:1]]
    if any(sample.plugged for sample in around):
        return True
    looks = [window.start_ns - PLUGGED_VALID_NS if not before else before[-1].at_ns]
    looks += [sample.at_ns for sample in during]
    looks += [window.end_ns + PLUGGED_VALID_NS if not after else after[0].at_ns]
    unseen = max(later - earlier for earlier, later in _pairs(looks))
    return None if not around or unseen > PLUGGED_VALID_NS + 1_000_000_000 else False


def _check_cover(name: str, times_ns: Sequence[int], window: Window) -> range:
    """The samples inside a window, once it is known that they are enough and leave no long gap."""
    if any(after <= before for before, after in _pairs(times_ns)):
        raise EnergyUnavailableError(f"{name}: the times of its samples do not rise")
    inside = range(bisect.bisect_right(times_ns, window.start_ns), bisect.bisect_left(times_ns, window.end_ns))
    if len(inside) < MIN_SAMPLES:
        raise EnergyUnavailableError(
            f"{name}: {len(inside)} samples in a window of {window.seconds:.1f} s; {MIN_SAMPLES} are needed: "
            "measure longer or sample more often"
        )
    edges = [window.start_ns, *(times_ns[index] for index in inside), window.end_ns]
    gap = max(after - before for before, after in _pairs(edges)) / (window.end_ns - window.start_ns)
    if gap > MAX_GAP:
        raise EnergyUnavailableError(f"{name}: no sample for {gap:.0%} of the window, more than {MAX_GAP:.0%}")
    return inside


def _intervals_s(times_ns: Sequence[int], inside: range) -> list[float]:
    return [(after - before) / 1e9 for before, after in _pairs([times_ns[index] for index in inside])]


def _interpolate(times_ns: Sequence[int], values: Sequence[float], moment_ns: int) -> float:
    """The value at a moment, straight between its neighbours and level outside them."""
    after = bisect.bisect_right(times_ns, moment_ns)
    if after == 0:
        return values[0]
    if after == len(times_ns):
        return values[-1]
    share = (moment_ns - times_ns[after - 1]) / (times_ns[after] - times_ns[after - 1])
    return values[after - 1] + share * (values[after] - values[after - 1])


def _pairs(values: Sequence[Value]) -> Iterable[tuple[Value, Value]]:
    return itertools.pairwise(values)

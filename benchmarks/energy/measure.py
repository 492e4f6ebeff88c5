"""Joules a token: the best source that can say, less what the device draws when idle, or null with every reason.

The baseline is measured by the same source in an idle window beside the run and taken off; both are kept. While
anything is plugged in, in any part of either window, a battery's gauge shows the charger and nothing is said. A figure
below its own uncertainty is kept and marked: it shows that the run was too short for the source.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.energy.battery import BatteryGauge
from benchmarks.energy.counters import battery_samples, plugged_samples
from benchmarks.energy.source import EnergySource, EnergyUnavailableError, PluggedSample, Window, plugged_in
from benchmarks.record import Energy
from benchmarks.timeline import Case, Timeline

__all__ = ["IDLE_END", "IDLE_START", "Run", "measure", "measure_case", "windows_of"]

IDLE_START, IDLE_END = "idle_start", "idle_end"
# a gauge that updates once a second and steps in milliamperes cannot do with less
MIN_RUN_S = 5.0
Outcome = tuple[Energy | None, str | None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was done when: `tokens` were generated in `busy`, nothing in `idle`."""

    busy: Window
    idle: Window
    tokens: int


def measure(run: Run, sources: Sequence[EnergySource | BatteryGauge], plugged: Sequence[PluggedSample]) -> Outcome:
    """The energy of a run by the best source that can say; else the reasons of all of them."""
    reasons = []
    for source in sorted(sources, key=lambda source: source.rank):
        try:
            return _by_one(run, source, plugged), None
        except EnergyUnavailableError as error:
            reasons.append(str(error))
    return None, "; ".join(reasons) or "no source of energy was read"


def measure_case(timeline: Timeline, case: Case, sources: Sequence[EnergySource | BatteryGauge] = ()) -> Outcome:
    """The energy of a case by better sources that were read beside it, or by the battery samples in its stream."""
    samples = [*timeline.samples, *case.samples]
    try:
        run = windows_of(timeline, case)
        looks = battery_samples(samples)
    except EnergyUnavailableError as error:
        return None, str(error)
    gauges = [BatteryGauge(name="battery counters in the stream", samples=looks)] if looks else []
    energy, reason = measure(run, [*sources, *gauges], plugged_samples(samples))
    if energy is None and not looks:
        return None, f"{reason}; the stream shows no battery with current and voltage"
    return energy, reason


def windows_of(timeline: Timeline, case: Case) -> Run:
    """From the first prompt of a case to its last stop, and the idle window that markers enclose."""
    done = [generation for generation in case.generations if generation.stop is not None]
    if not done:
        raise EnergyUnavailableError("no generation of this case was finished")
    marks = {marker.name: marker.at_ns for marker in timeline.markers}
    if not {IDLE_START, IDLE_END} <= marks.keys():
        raise EnergyUnavailableError(f"no idle window: the stream lacks the markers {IDLE_START} and {IDLE_END}")
    last = done[-1].stop
    assert last is not None
    return Run(
        busy=Window(start_ns=done[0].submit.at_ns, end_ns=last.at_ns),
        idle=Window(start_ns=marks[IDLE_START], end_ns=marks[IDLE_END]),
        tokens=sum(len(generation.tokens) for generation in done),
    )


def _by_one(run: Run, source: EnergySource | BatteryGauge, plugged: Sequence[PluggedSample]) -> Energy:
    """The energy by one source, or the reason why it cannot be."""
    state = None if source.external else _refuse_plugged(run, source.name, plugged)
    if run.busy.seconds < MIN_RUN_S:
        raise EnergyUnavailableError(f"{source.name}: {run.busy.seconds:.1f} s of work; {MIN_RUN_S:g} s are needed")
    ready = source.judged((run.busy, run.idle)) if isinstance(source, BatteryGauge) else source
    busy, idle = ready.integral(run.busy), ready.integral(run.idle)
    baseline_w = idle.joules / run.idle.seconds
    joules = busy.joules - baseline_w * run.busy.seconds
    uncertainty = math.hypot(busy.uncertainty_j, idle.uncertainty_j * run.busy.seconds / run.idle.seconds)
    notes = [*ready.notes, f"{busy.joules:.4g} J in {run.busy.seconds:.4g} s before the baseline was taken off"]
    if joules <= uncertainty:
        notes.append("not told apart from idle: the figure is within its uncertainty")
    return Energy(
        source=ready.name,
        joules=joules,
        joules_per_token=joules / run.tokens if run.tokens else None,
        baseline_w=baseline_w,
        uncertainty_j=uncertainty,
        samples=busy.samples,
        median_interval_s=busy.median_interval_s,
        unit_factor=ready.unit_factor,
        sign=1 if ready.sign > 0 else -1,
        plugged=state,
        notes=tuple(notes),
    )


def _refuse_plugged(run: Run, name: str, plugged: Sequence[PluggedSample]) -> bool:
    """False where nothing was plugged in; whatever else is a refusal."""
    for what, window in (("the run", run.busy), ("the idle window", run.idle)):
        state = plugged_in(plugged, window)
        if state:
            raise EnergyUnavailableError(f"{name}: the device was plugged in during {what}; its battery was not alone")
        if state is None:
            raise EnergyUnavailableError(f"{name}: whether the device was plugged in during {what} is not known")
    return False

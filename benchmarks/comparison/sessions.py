"""From runs to one value a session: which runs count, which devices can be compared, and why not.

Nothing is left out in silence. A run that isn't valid (wrong tokens make it so), a case that did not end well, ran on
another backend than asked for or was throttled has no value, and the reason stays with the device's result. Runs that
share a session are one observation: their median.
"""

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.metrics import METRICS
from benchmarks.passes import Pass, pass_of
from benchmarks.record import CaseRecord, RunRecord

__all__ = ["BETTER", "GATES", "Figure", "Side", "differences", "gates_of", "gather", "pool_name"]

# which figures decide, by the pass that a case belongs to
GATES: dict[Pass, tuple[str, ...]] = {
    "cold": ("load_cold_ms",),
    "warm": ("ttft_ms", "prefill_tok_s", "decode_tok_s", "joules_per_token"),
    "memory": ("peak_pss_bytes", "peak_phys_footprint_bytes"),
    "sustained": ("sustained_tok_s",),
}
BETTER = {**{name: definition.better for name, definition in METRICS.items()}, "joules_per_token": "lower"}
REAL_KINDS = ("host", "physical")
# what all runs of a comparison must have in common, and what those of one side must
COMMON: dict[str, Callable[[RunRecord], object]] = {
    "series": lambda run: run.series,
    "protocol": lambda run: run.protocol.model_dump_json(),
    "model": lambda run: run.artifact.model,
    "weights": lambda run: run.artifact.weights,
    "context length": lambda run: run.artifact.context_length,
    "os and build": lambda run: (run.device.os, run.device.build),
    "threads and affinity": lambda run: (run.environment.threads, run.environment.affinity),
    "battery saver": lambda run: run.environment.low_power,
    "governor": lambda run: run.environment.governor,
}
OF_ONE_SIDE: dict[str, Callable[[RunRecord], object]] = {
    "backend": lambda run: run.artifact.backend,
    "scheme": lambda run: run.artifact.scheme,
    "method": lambda run: run.artifact.method,
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What is compared: one metric of one case."""

    case: str
    metric: str


@dataclass(frozen=True, kw_only=True)
class Side:
    """The usable values of one side on one device: by figure, by session; and what was left out, counted."""

    values: dict[Figure, dict[str, float]]
    left_out: Counter[str]
    nulls: dict[Figure, str] = field(default_factory=dict)


def gather(runs: Iterable[RunRecord], metrics: Sequence[str] | None) -> Side:
    """One value a session of every figure that decides, or of the metrics asked for."""
    found: dict[Figure, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    left_out: Counter[str] = Counter()
    nulls: dict[Figure, str] = {}
    for run in runs:
        if reason := _unusable_run(run):
            left_out[reason] += 1
            continue
        for case in run.cases:
            if reason := _unusable_case(case):
                left_out[f"{case.case_id}: {reason}"] += 1
                continue
            for name in gates_of(case) if metrics is None else metrics:
                value, why = _value(case, name)
                figure = Figure(case=pool_name(case), metric=name)
                if value is None:
                    nulls[figure] = why
                else:
                    found[figure][run.session_id].append(value)
    values = {figure: {name: statistics.median(many) for name, many in one.items()} for figure, one in found.items()}
    return Side(values=values, left_out=left_out, nulls=nulls)


def differences(base: Sequence[RunRecord], candidate: Sequence[RunRecord]) -> list[str]:
    """Why these runs of one device can't be compared; empty where they can."""
    reasons = [
        f"{name} differs: {_listed(found)}"
        for name, read in COMMON.items()
        if len(found := {str(read(run)) for run in (*base, *candidate)}) > 1
    ]
    for side, runs in (("base", base), ("candidate", candidate)):
        reasons += [
            f"{name} differs within the {side}: {_listed(found)}; choose one"
            for name, read in OF_ONE_SIDE.items()
            if len(found := {str(read(run)) for run in runs}) > 1
        ]
    return reasons


def gates_of(case: CaseRecord) -> tuple[str, ...]:
    """The figures of a case that decide."""
    return GATES[pass_of(case)]


def pool_name(case: CaseRecord) -> str:
    """The name under which repeats of a cold case are one."""
    return re.sub(r"-\d+$", "", case.case_id) if case.kind == "cold" else case.case_id


def _unusable_run(run: RunRecord) -> str | None:
    if run.device.kind not in REAL_KINDS:
        return f"a device of kind {run.device.kind!r} has no speed"
    if not run.validity.valid:
        return f"not valid: {run.validity.violations[0]}"
    return None


def _unusable_case(case: CaseRecord) -> str | None:
    if case.status != "ok":
        return f"{case.status}: {case.reason}"
    if case.requested_backend is not None and case.effective_backend != case.requested_backend:
        return f"backend {case.requested_backend!r} was asked for, {case.effective_backend!r} ran"
    if case.throttled and case.kind != "sustained":
        return "the device was throttled"
    return None


def _value(case: CaseRecord, name: str) -> tuple[float | None, str]:
    """A metric's value, or None and why; figures that are not positive have no ratio."""
    if name == "joules_per_token":
        value = None if case.energy is None else case.energy.joules_per_token
        reason = case.energy_reason or "no token to divide by"
    else:
        metric = case.metrics.get(name)
        value, reason = (None, "not recorded") if metric is None else (metric.value, metric.reason or "")
    if value is not None and not (value > 0 and math.isfinite(value)):
        return None, f"{value:g} is not positive, so there is no ratio"
    return value, reason


def _listed(found: set[str]) -> str:
    return " and ".join(text if len(text) <= 60 else f"{text[:57]}..." for text in sorted(found)[:3])

"""What a case was run for, and so which of its figures may be quoted.

A run measures loads, speed, memory and endurance in passes of their own, since each disturbs the others: reading PSS
takes milliseconds, and a load with an empty page cache is followed by a few tokens only. Every metric is computed for
every case and stays in the record; a report quotes a figure from the pass that was made for it.
"""

from typing import Literal

from benchmarks.record import CaseRecord, Metric

__all__ = ["Pass", "is_timed", "pass_of", "quotable"]

Pass = Literal["cold", "warm", "memory", "sustained"]
# the kernel keeps it itself, without a sample at the right moment
HIGH_WATER_MARK = "peak_vm_hwm_bytes"
ANY_PASS = ("peak_temperature_c",)


def pass_of(case: CaseRecord) -> Pass:
    """A case whose memory was sampled while it generated tokens is one of memory, whatever it is called."""
    sampled = any(metric.value is not None for name, metric in case.metrics.items() if name.startswith("steady_"))
    return "memory" if case.kind == "warm" and sampled else case.kind


def is_timed(case: CaseRecord) -> bool:
    """Whether its speeds are those to quote."""
    return pass_of(case) in ("warm", "sustained")


def quotable(case: CaseRecord) -> dict[str, Metric]:
    """The metrics that the case was made for."""
    made_for = pass_of(case)
    return {name: metric for name, metric in case.metrics.items() if name in ANY_PASS or _belongs(name, made_for)}


def _belongs(name: str, made_for: Pass) -> bool:
    if made_for == "cold":
        return name == "load_cold_ms"
    if made_for == "memory":
        return name.endswith("_bytes")
    return name == HIGH_WATER_MARK or not name.endswith("_bytes")

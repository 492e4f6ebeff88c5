"""From a protocol to cases: which loads and generations a run consists of, in which order.

Cold loads come first, each in a process of its own with the files out of the page cache. Then one warm case a prompt
length, with nothing sampled while it is timed; memory is sampled in a pass of its own, since reading PSS takes
milliseconds. The sustained case is last, since it heats the device. Its sampling (temperature, clocks, battery) reads a
few small files. Energy is a case of its own: an idle window for the baseline, then generations for as long as was asked
for, with the battery read four times a second.
"""

from benchmarks import record
from benchmarks.cases import Case, CaseFile
from benchmarks.stream_events import SampleKind
from benchmarks.workload import Prompt, Workload

__all__ = ["COLD_LOADS", "ENERGY_S", "case_timeout_s", "plan_cases"]

COLD_LOADS = "cold_loads"  # in a protocol's details
ENERGY_S = "energy_s"
COLD_NEW_TOKENS = 8
MAX_IDLE_S = 60
BATTERY_INTERVAL_MS = 250
MEMORY_INTERVAL_MS = 100
MEMORY_REPEATS = 2


def plan_cases(
    protocol: record.Protocol,
    workload: Workload,
    *,
    threads: int | None = None,
    affinity: list[int] | None = None,
) -> list[CaseFile]:
    """One file a process, and so one case a file."""
    longest = workload.prompts[-1]
    cold = int(protocol.details.get(COLD_LOADS, 0))
    cases = [_cold(number, longest, protocol) for number in range(1, cold + 1)]
    cases += [_warm(prompt, protocol) for prompt in workload.prompts]
    cases.append(_memory(longest, protocol))
    if energy_s := float(protocol.details.get(ENERGY_S, 0)):
        cases.append(_energy(longest, protocol, energy_s))
    if protocol.sustained_s:
        cases.append(_sustained(longest, protocol))
    return [CaseFile(threads=threads, affinity=affinity, cases=[case]) for case in cases]


def case_timeout_s(protocol: record.Protocol, cases: CaseFile) -> float:
    """How long a process may take: the protocol's limit on top of what was asked to last."""
    return protocol.timeout_s + sum(((case.duration_ms or 0) + (case.idle_ms or 0)) / 1000 for case in cases.cases)


def _cold(number: int, prompt: Prompt, protocol: record.Protocol) -> Case:
    return Case(
        case=f"cold-{number}",
        kind="cold",
        prompt=prompt.ids,
        text=prompt.text,
        new_tokens=min(COLD_NEW_TOKENS, protocol.new_tokens),
        drop_page_cache=True,
    )


def _warm(prompt: Prompt, protocol: record.Protocol) -> Case:
    return Case(
        case=f"warm-p{len(prompt.ids)}",
        kind="warm",
        prompt=prompt.ids,
        text=prompt.text,
        new_tokens=protocol.new_tokens,
        warm_ups=protocol.warm_ups,
        repeats=protocol.repeats,
    )


def _memory(prompt: Prompt, protocol: record.Protocol) -> Case:
    return Case(
        case=f"memory-p{len(prompt.ids)}",
        kind="warm",
        prompt=prompt.ids,
        text=prompt.text,
        new_tokens=protocol.new_tokens,
        repeats=MEMORY_REPEATS,
        sample_interval_ms=MEMORY_INTERVAL_MS,
        samples=["memory"],
    )


def _energy(prompt: Prompt, protocol: record.Protocol, energy_s: float) -> Case:
    return Case(
        case=f"energy-p{len(prompt.ids)}",
        kind="warm",
        prompt=prompt.ids,
        text=prompt.text,
        new_tokens=protocol.new_tokens,
        warm_ups=protocol.warm_ups,
        duration_ms=round(energy_s * 1000),
        idle_ms=round(min(energy_s, MAX_IDLE_S) * 1000),
        sample_interval_ms=BATTERY_INTERVAL_MS,
        samples=["battery", "thermal"],
    )


def _sustained(prompt: Prompt, protocol: record.Protocol) -> Case:
    kinds: list[SampleKind] = ["thermal", "frequency", "battery", "cpu"]
    return Case(
        case=f"sustained-p{len(prompt.ids)}",
        kind="sustained",
        prompt=prompt.ids,
        text=prompt.text,
        new_tokens=protocol.new_tokens,
        warm_ups=protocol.warm_ups,
        duration_ms=round(protocol.sustained_s * 1000),
        sample_interval_ms=round(1000 / protocol.sample_hz) if protocol.sample_hz else None,
        samples=kinds,
    )

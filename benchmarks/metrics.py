"""Every figure of the lab, defined once, as a pure function of one case of an event stream.

A metric is a value or null with the reason; nothing is guessed, and nothing is computed of a case that was broken off.
Times are differences of the device's monotonic clock. The unit stands at the end of each name. `METRICS` says which way
is better and what the figure means, and docs/device_lab.md prints that table.

Generations are those of the stream: warm-ups emit nothing. Within a case, figures of one generation are summarised by
their median; what belongs to single steps is pooled over generations before its percentiles are taken.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.record import Metric
from benchmarks.timeline import Case, Generation

__all__ = ["METRICS", "MIN_STEPS", "SUSTAINED_S", "Definition", "case_metrics", "percentile", "token_ids"]

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
SUSTAINED_S = 600
MAX_CACHED = 0.05  # share of the files that may be in the page cache before a load that is called cold
MINUTE_NS = 60 * NS_PER_S
# with fewer steps a percentile would be no more than their maximum
MIN_STEPS = {50: 1, 90: 10, 99: 100}
# kinds of memory: what the sample calls it, and the bytes of its unit
MEMORY = {
    "pss": ("Pss_kb", 1024),
    "rss": ("VmRSS_kb", 1024),
    "rss_anon": ("RssAnon_kb", 1024),
    "rss_file": ("RssFile_kb", 1024),
    "vm_hwm": ("VmHWM_kb", 1024),
    "phys_footprint": ("phys_footprint_bytes", 1),
}
HIGH_WATER_MARKS = {"vm_hwm"}  # of the process so far; they only rise, so nothing steady can be read from them


class NotMeasuredError(Exception):
    """Why a figure is null; never leaves this module."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What a metric is: which way is better, what it says, and how it comes from a case."""

    better: Literal["lower", "higher"]
    meaning: str
    compute: Callable[[Case], float]


def case_metrics(case: Case) -> dict[str, Metric]:
    """All metrics of one case."""
    return {name: _evaluate(definition, case) for name, definition in METRICS.items()}


def token_ids(case: Case) -> list[list[int]]:
    """The chosen tokens of each generation, in order."""
    return [[token.token for token in generation.tokens] for generation in case.generations]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the values lie, by linear interpolation between the two nearest."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _evaluate(definition: Definition, case: Case) -> Metric:
    try:
        if case.errors:
            raise NotMeasuredError(f"the runner met an error: {case.errors[0]}"[:1000])
        if case.end_ns is None:
            raise NotMeasuredError("the case was broken off")
        value = float(definition.compute(case))
    except NotMeasuredError as reason:
        return Metric(value=None, reason=str(reason))
    return Metric(value=value)


def _elapsed(start_ns: int, end_ns: int, what: str) -> int:
    """Nanoseconds between two moments; a clock that stands still or runs backwards measures nothing."""
    if end_ns <= start_ns:
        how = "ran backwards" if end_ns < start_ns else "did not advance"
        raise NotMeasuredError(f"the clock {how} during {what}")
    return end_ns - start_ns


def _median(values: Iterable[float], otherwise: str) -> float:
    found = list(values)
    if not found:
        raise NotMeasuredError(otherwise)
    return statistics.median(found)


def _load_cold_ms(case: Case) -> float:
    if case.kind != "cold":
        raise NotMeasuredError(f"a case of kind {case.kind!r} has no cold load")
    if not case.loads:
        raise NotMeasuredError("nothing was loaded")
    load = case.loads[0]
    cached = [
        sample.values["resident_bytes"] / sample.values["file_bytes"]
        for sample in case.samples
        if sample.at_ns <= load.start_ns and "resident_bytes" in sample.values and sample.values.get("file_bytes")
    ]
    if not cached:
        raise NotMeasuredError("no sample says how much of the files was in the page cache")
    if cached[-1] > MAX_CACHED:
        raise NotMeasuredError(
            f"{cached[-1]:.0%} of the files were in the page cache; a cold load allows {MAX_CACHED:.0%}"
        )
    return _elapsed(load.start_ns, load.end_ns, "the load") / NS_PER_MS


def _load_warm_ms(case: Case) -> float:
    if case.kind == "cold":
        raise NotMeasuredError("a case of kind 'cold' has no warm load")
    spans = (_elapsed(load.start_ns, load.end_ns, "the load") for load in case.loads)
    return _median(spans, "nothing was loaded") / NS_PER_MS


def _ttft_ms(case: Case) -> float:
    spans = (
        _elapsed(generation.submit.at_ns, generation.tokens[0].at_ns, "the prompt")
        for generation in case.generations
        if generation.tokens
    )
    return _median(spans, "no token was generated") / NS_PER_MS


def _prefill_rate(generation: Generation) -> float:
    first, last = generation.prefill[0][0], generation.prefill[-1][1]
    tokens = sum(chunk.tokens for chunk, _ in generation.prefill)
    return tokens * NS_PER_S / _elapsed(first.at_ns, last.at_ns, "the prefill")


def _prefill_tok_s(case: Case) -> float:
    rates = (_prefill_rate(generation) for generation in case.generations if generation.submit.prompt_tokens)
    return _median(rates, "no prompt went in")


def _mean_step_ns(generation: Generation) -> float:
    first, last = generation.tokens[0].at_ns, generation.tokens[-1].at_ns
    return _elapsed(first, last, "decoding") / (len(generation.tokens) - 1)


def _tpot_ns(case: Case) -> float:
    means = (_mean_step_ns(generation) for generation in case.generations if len(generation.tokens) > 1)
    return _median(means, "no generation has two tokens, so there is no step between tokens")


def _steps_ns(case: Case) -> list[int]:
    """The time between each token and the one before it, pooled over generations."""
    return [
        later.at_ns - earlier.at_ns
        for generation in case.generations
        for earlier, later in zip(generation.tokens, generation.tokens[1:], strict=False)
    ]


def _step_ns(case: Case, percent: int) -> float:
    steps = _steps_ns(case)
    if any(step < 0 for step in steps):
        raise NotMeasuredError("the clock ran backwards during decoding")
    if len(steps) < MIN_STEPS[percent]:
        raise NotMeasuredError(f"{len(steps)} steps between tokens; a p{percent} needs {MIN_STEPS[percent]}")
    return percentile(steps, percent)


def _step_ms(percent: int) -> Callable[[Case], float]:
    return lambda case: _step_ns(case, percent) / NS_PER_MS


def _step_rate(percent: int) -> Callable[[Case], float]:
    return lambda case: NS_PER_S / _elapsed(0, math.ceil(_step_ns(case, percent)), "decoding")


def _window_rate(case: Case, start_ns: int, end_ns: int) -> float:
    """Tokens per second of decoding, over the steps that end within a window of time."""
    spans = [
        later.at_ns - earlier.at_ns
        for generation in case.generations
        for earlier, later in zip(generation.tokens, generation.tokens[1:], strict=False)
        if start_ns < later.at_ns <= end_ns
    ]
    if any(span < 0 for span in spans) or (spans and not sum(spans)):
        raise NotMeasuredError("the clock ran backwards or stood still during decoding")
    if not spans:
        raise NotMeasuredError("a minute passed without a step between tokens")
    return len(spans) * NS_PER_S / sum(spans)


def _sustained(case: Case) -> tuple[int, int]:
    """The first ten minutes of a sustained case, from its first token on."""
    if case.kind != "sustained":
        raise NotMeasuredError(f"a case of kind {case.kind!r} is not sustained")
    stamps = [token.at_ns for generation in case.generations for token in generation.tokens]
    if not stamps:
        raise NotMeasuredError("no token was generated")
    if stamps[-1] - stamps[0] < SUSTAINED_S * NS_PER_S:
        found_s = (stamps[-1] - stamps[0]) / NS_PER_S
        raise NotMeasuredError(f"tokens came for {found_s:.0f} s; a sustained figure needs {SUSTAINED_S}")
    return stamps[0], stamps[0] + SUSTAINED_S * NS_PER_S


def _sustained_tok_s(case: Case) -> float:
    return _window_rate(case, *_sustained(case))


def _sustained_last_tok_s(case: Case) -> float:
    _, end_ns = _sustained(case)
    return _window_rate(case, end_ns - MINUTE_NS, end_ns)


def _sustained_ratio(case: Case) -> float:
    start_ns, end_ns = _sustained(case)
    return _window_rate(case, end_ns - MINUTE_NS, end_ns) / _window_rate(case, start_ns, start_ns + MINUTE_NS)


def _memory(case: Case, kind: str) -> list[tuple[int, float]]:
    """Moments and bytes of one kind of memory."""
    name, unit_bytes = MEMORY[kind]
    found = [
        (sample.at_ns, sample.values[name] * unit_bytes)
        for sample in case.samples
        if sample.kind == "memory" and name in sample.values
    ]
    if not found:
        raise NotMeasuredError(f"no sample of memory has {name}")
    return found


def _peak_bytes(kind: str) -> Callable[[Case], float]:
    return lambda case: max(value for _, value in _memory(case, kind))


def _load_peak_bytes(kind: str) -> Callable[[Case], float]:
    def compute(case: Case) -> float:
        during = [
            value
            for at_ns, value in _memory(case, kind)
            if any(load.start_ns <= at_ns <= load.end_ns for load in case.loads)
        ]
        if not during:
            raise NotMeasuredError("no sample was taken during a load")
        return max(during)

    return compute


def _steady_bytes(kind: str) -> Callable[[Case], float]:
    def compute(case: Case) -> float:
        windows = [(one.tokens[0].at_ns, one.tokens[-1].at_ns) for one in case.generations if one.tokens]
        samples = _memory(case, kind)
        during = (value for at_ns, value in samples if any(start <= at_ns <= end for start, end in windows))
        return _median(during, "no sample was taken while tokens were generated")

    return compute


def _temperatures_c(case: Case) -> list[float]:
    found = [
        value / 1000
        for sample in case.samples
        for name, value in sample.values.items()
        if sample.kind == "thermal" and name.endswith("temp_millicelsius")
    ]
    if not found:
        raise NotMeasuredError("no sample of temperature")
    return found


def _memory_definitions() -> dict[str, Definition]:
    definitions = {}
    for kind, (name, _) in MEMORY.items():
        definitions[f"peak_{kind}_bytes"] = Definition(
            better="lower",
            meaning=f"largest {name.rpartition('_')[0]} of the case's samples",
            compute=_peak_bytes(kind),
        )
        if kind in HIGH_WATER_MARKS:
            continue
        definitions[f"load_peak_{kind}_bytes"] = Definition(
            better="lower", meaning="the same, of the samples taken during loads", compute=_load_peak_bytes(kind)
        )
        definitions[f"steady_{kind}_bytes"] = Definition(
            better="lower",
            meaning="its median over the samples between first and last token of generations",
            compute=_steady_bytes(kind),
        )
    return definitions


METRICS: dict[str, Definition] = {
    "load_cold_ms": Definition(
        better="lower",
        meaning="opening the artifact, its files proven to be out of the page cache",
        compute=_load_cold_ms,
    ),
    "load_warm_ms": Definition(
        better="lower",
        meaning="opening the artifact where nothing was dropped from the page cache",
        compute=_load_warm_ms,
    ),
    "ttft_ms": Definition(
        better="lower", meaning="from handing over the prompt to its first token, tokenising in", compute=_ttft_ms
    ),
    "prefill_tok_s": Definition(
        better="higher",
        meaning="tokens of the prompt by the time from its first chunk's start to its last chunk's end",
        compute=_prefill_tok_s,
    ),
    "tpot_ms": Definition(
        better="lower",
        meaning="mean time between tokens of a generation, the first token left out",
        compute=lambda case: _tpot_ns(case) / NS_PER_MS,
    ),
    "tpot_p50_ms": Definition(better="lower", meaning="median of the steps between tokens", compute=_step_ms(50)),
    "tpot_p90_ms": Definition(better="lower", meaning="90th percentile of the steps", compute=_step_ms(90)),
    "tpot_p99_ms": Definition(better="lower", meaning="99th percentile of the steps", compute=_step_ms(99)),
    "decode_tok_s": Definition(
        better="higher", meaning="one by the mean time between tokens", compute=lambda case: NS_PER_S / _tpot_ns(case)
    ),
    "decode_p50_tok_s": Definition(
        better="higher", meaning="the speed that half of all steps reach", compute=_step_rate(50)
    ),
    "decode_p90_tok_s": Definition(
        better="higher", meaning="the speed that 90 % of all steps reach", compute=_step_rate(90)
    ),
    "decode_p99_tok_s": Definition(
        better="higher", meaning="the speed that 99 % of all steps reach", compute=_step_rate(99)
    ),
    "sustained_tok_s": Definition(
        better="higher",
        meaning="steps by the time spent on them, over ten minutes from the first token on",
        compute=_sustained_tok_s,
    ),
    "sustained_last_minute_tok_s": Definition(
        better="higher", meaning="the same, over the last of the ten minutes", compute=_sustained_last_tok_s
    ),
    "sustained_ratio": Definition(
        better="higher", meaning="speed of the last of the ten minutes by that of the first", compute=_sustained_ratio
    ),
    **_memory_definitions(),
    "peak_temperature_c": Definition(
        better="lower",
        meaning="hottest reading of any thermal zone during the case",
        compute=lambda case: max(_temperatures_c(case)),
    ),
}

"""Temperature and pace over one run, read from its raw events and thinned to what a chart can show.

The temperature is that of the hottest zone of each sample. The pace is tokens over the time between tokens of one
generation, so that prefill and pauses are left out.
"""

from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from benchmarks.stream_events import Event, Sample, Token, event_adapter

__all__ = ["pace", "read_events", "temperature"]

POINTS = 120
NS_PER_S = 1e9
# zones that report nonsense: an unplugged sensor reads 0 K or 2^15
PLAUSIBLE_C = (-30.0, 150.0)
# the end of a quantity's name, and what one unit of it is in degrees Celsius
SCALES = (("_millicelsius", 1e-3), ("_decicelsius", 0.1), ("_celsius", 1.0), ("_c", 1.0))


def read_events(lines: Iterable[str]) -> list[Event]:
    """The events of raw lines; a line that is none ends the reading."""
    events: list[Event] = []
    for line in lines:
        try:
            event = event_adapter.validate_json(line)
        except ValidationError:
            break
        if event.event != "end":
            events.append(event)
    return events


def temperature(events: Sequence[Event]) -> list[tuple[float, float]]:
    """Pairs of seconds since the first event and degrees Celsius of the hottest zone."""
    found = []
    for event in events:
        if isinstance(event, Sample) and (hottest := _hottest(event)) is not None:
            found.append((_seconds(events, event.at_ns), round(hottest, 2)))
    step = max(1, len(found) // POINTS)
    return found[::step]


def _hottest(sample: Sample) -> float | None:
    degrees = [
        value * scale
        for name, value in sample.values.items()
        if "temp" in name
        for scale in [next((factor for end, factor in SCALES if name.endswith(end)), None)]
        if scale is not None
    ]
    return max((value for value in degrees if PLAUSIBLE_C[0] < value < PLAUSIBLE_C[1]), default=None)


def pace(events: Sequence[Event]) -> list[tuple[float, float]]:
    """Pairs of seconds since the first event and decoded tokens a second, averaged over equal stretches."""
    gaps: list[tuple[int, int]] = []
    before: Token | None = None
    for event in events:
        if not isinstance(event, Token):
            continue
        if before is not None and event.index == before.index + 1:
            gaps.append((event.at_ns, event.at_ns - before.at_ns))
        before = event
    stretch = max(8, -(-len(gaps) // POINTS))
    parts = [gaps[start : start + stretch] for start in range(0, len(gaps), stretch)]
    return [
        (_seconds(events, part[-1][0]), round(len(part) * NS_PER_S / spent, 3))
        for part in parts
        if (spent := sum(gap for _, gap in part)) > 0
    ]


def _seconds(events: Sequence[Event], at_ns: int) -> float:
    return round((at_ns - events[0].at_ns) / NS_PER_S, 2)

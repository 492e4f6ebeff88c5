"""The event stream between a runner and the lab: JSON lines, sealed by a last line that counts and hashes them.

An exit code can lie (adb 29 answers 0 for a command whose daemon was killed), so only a stream whose end line agrees
with every byte before it is a result. What comes from a phone is untrusted: sizes are capped before anything is parsed,
and whatever is wrong is a named error. `benchmarks.stream_events` says what the lines are, `benchmarks.timeline` their
order.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from pydantic import ValidationError

from benchmarks.errors import StreamError, StreamFormatError, StreamOrderError, StreamSizeError, TruncatedStreamError
from benchmarks.stream_events import End, Event, Start, event_adapter
from benchmarks.timeline import Timeline, read_timeline
from runtimes import events as runtime_events

__all__ = [
    "MAX_LINES",
    "MAX_LINE_BYTES",
    "MAX_STREAM_BYTES",
    "Stream",
    "StreamWriter",
    "parse_stream",
    "salvage_stream",
]

MAX_LINE_BYTES = 64 * 1024
MAX_STREAM_BYTES = 64 * 1024 * 1024
MAX_LINES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A parsed stream; `complete` is False for one that was broken off, of which no metric is computed."""

    start: Start
    events: tuple[Event, ...]
    timeline: Timeline
    complete: bool


def parse_stream(data: bytes) -> Stream:
    """Parse a whole stream, or raise the `StreamError` that says why it is none."""
    lines = _split(data)
    if not lines:
        raise TruncatedStreamError("the stream is empty; the runner wrote nothing")
    parsed = [_parse_line(number, line) for number, line in enumerate(lines, start=1)]
    end = parsed[-1]
    if not isinstance(end, End):
        raise TruncatedStreamError(f"the last of {len(lines)} lines is {end.event!r}, not 'end'; the run was cut off")
    before = sum(len(line) for line in lines[:-1])
    if end.lines != len(lines) - 1 or end.sha256 != hashlib.sha256(data[:before]).hexdigest():
        raise TruncatedStreamError(
            f"the end line speaks of {end.lines} lines with SHA-256 {end.sha256[:12]}..., {len(lines) - 1} other lines "
            "or bytes are here; the stream was altered or cut on its way, collect it again"
        )
    return _stream(parsed[:-1], complete=True)


def salvage_stream(data: bytes) -> Stream | None:
    """As many leading lines of a broken stream as make sense, or None: evidence, never a result."""
    events: list[Event] = []
    for number, line in enumerate(data[:MAX_STREAM_BYTES].split(b"\n")[:MAX_LINES], start=1):
        try:
            event = _parse_line(number, line)
        except StreamError:
            break
        if isinstance(event, End):
            break
        events.append(event)
    events = _in_order(events)
    return _stream(events, complete=False) if events and isinstance(events[0], Start) else None


def _in_order(events: list[Event]) -> list[Event]:
    """The events before the first that cannot stand where it does."""
    seen = 0

    def counted() -> Iterator[Event]:
        nonlocal seen
        for event in events:
            seen += 1
            yield event

    try:
        read_timeline(counted(), complete=False)
    except StreamError:
        return events[: seen - 1]
    return events


def _split(data: bytes) -> list[bytes]:
    if len(data) > MAX_STREAM_BYTES:
        raise StreamSizeError(f"the stream has {len(data)} bytes; {MAX_STREAM_BYTES} are allowed")
    count = data.count(b"\n")
    if count > MAX_LINES:
        raise StreamSizeError(f"the stream has {count} lines; {MAX_LINES} are allowed")
    lines = data.split(b"\n")
    if lines.pop() != b"":
        raise TruncatedStreamError("the last line does not end with a newline; the run was cut off")
    return [line + b"\n" for line in lines]


def _parse_line(number: int, line: bytes) -> Event | End:
    if len(line) > MAX_LINE_BYTES:
        raise StreamSizeError(f"line {number} has {len(line)} bytes; {MAX_LINE_BYTES} are allowed")
    try:
        return event_adapter.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:80]
        raise StreamFormatError(f"line {number}: {place!a}: {ascii(first['msg'])[:200]}") from None


def _stream(parsed: Sequence[Event | End], *, complete: bool) -> Stream:
    events = []
    for number, event in enumerate(parsed, start=1):
        if isinstance(event, End):
            raise StreamOrderError(f"line {number}: 'end' stands before the last line")
        events.append(event)
    if not events or not isinstance(start := events[0], Start):
        raise StreamOrderError("the first line is not the 'stream' line")
    timeline = read_timeline(events, complete=complete)
    return Stream(start=start, events=tuple(events), timeline=timeline, complete=complete)


class StreamWriter:
    """Writes a stream to a binary file; threads may share it."""

    def __init__(self, file: IO[bytes], start: Start) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._lines = 0
        self._lock = threading.Lock()
        self.write(start)

    def write(self, event: Event) -> None:
        """Write one event."""
        self._write(event.model_dump_json())

    def sink(self, event: runtime_events.Event) -> None:
        """Write an event of `runtimes`: this is a sink for `runtimes.generate`."""
        self._write(runtime_events.to_json(event))

    def end(self) -> None:
        """Seal the stream; nothing may follow."""
        with self._lock:
            end = End(lines=self._lines, sha256=self._hash.hexdigest())
            self._file.write(end.model_dump_json().encode() + b"\n")
            self._file.flush()

    def _write(self, text: str) -> None:
        line = text.encode() + b"\n"
        with self._lock:
            self._hash.update(line)
            self._lines += 1
            self._file.write(line)

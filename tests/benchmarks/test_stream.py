"""A runner's output is untrusted: what isn't a whole stream in a possible order is refused by name."""

import io
import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import stream as stream_module
from benchmarks.errors import (
    StreamClockError,
    StreamError,
    StreamFormatError,
    StreamOrderError,
    StreamSizeError,
    TruncatedStreamError,
)
from benchmarks.metrics import case_metrics
from benchmarks.stream import MAX_LINE_BYTES, Stream, StreamWriter, parse_stream, salvage_stream
from benchmarks.stream_events import Marker, Sample, Settings, Start
from runtimes import events as runtime_events
from tests.benchmarks.streams import START, Line, at, case, generation, heat, load, memory, sealed, unsealed

WHOLE = case(
    "cold",
    memory(1, resident_bytes=0, file_bytes=1000),
    *load(10, 60),
    *generation(100, [(110, 150, 16), (150, 190, 4)], [200, 220, 240]),
    heat(210, zone0_temp_millicelsius=30_000),
    at(245, "marker", name="idle"),
    *generation(300, [(310, 390, 8)], [400, 420]),
)


def changed(line_number: int, **fields: Any) -> list[Line]:
    return [{**line, **fields} if number == line_number else line for number, line in enumerate(WHOLE)]


def place(event: str) -> int:
    return next(number for number, line in enumerate(WHOLE) if line["event"] == event)


def test_a_whole_stream_is_read() -> None:
    stream = parse_stream(sealed(WHOLE))
    found = stream.timeline.cases[0]
    assert stream.complete
    assert stream.start.runtime == "onnxruntime 1.31.1"
    assert [len(one.tokens) for one in found.generations] == [3, 2]
    assert [marker.name for marker in stream.timeline.markers] == ["idle"]


def test_a_stream_without_cases_is_a_stream() -> None:
    assert parse_stream(sealed([START])).timeline.cases == ()


@pytest.mark.parametrize("cut", [1, 2, 50, 400])
def test_a_stream_that_is_cut_is_truncated(cut: int) -> None:
    with pytest.raises(TruncatedStreamError):
        parse_stream(sealed(WHOLE)[:-cut])


def test_an_empty_stream_is_truncated() -> None:
    with pytest.raises(TruncatedStreamError, match="empty"):
        parse_stream(b"")


def test_a_stream_without_its_end_line_is_truncated() -> None:
    with pytest.raises(TruncatedStreamError, match="the last of 23 lines is 'case_end', not 'end'"):
        parse_stream(unsealed(WHOLE))


def test_every_changed_byte_is_noticed() -> None:
    data = sealed(WHOLE)
    for position in range(0, len(data) - 1, 7):
        damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(StreamError):
            parse_stream(damaged)


def test_a_line_that_was_lost_or_doubled_is_noticed() -> None:
    lines = sealed(WHOLE).split(b"\n")
    for number in range(1, len(lines) - 2):
        for altered in (lines[:number] + lines[number + 1 :], [*lines[: number + 1], *lines[number:]]):
            with pytest.raises(StreamError):
                parse_stream(b"\n".join(altered))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (WHOLE[1:], "the first line"),
        ([START, START], "the first line, and no other"),
        ([START, at(1, "load_start")], "no case has started"),
        ([START, at(1, "token", index=0, token=1)], "no case has started"),
        ([*WHOLE[:-1]], "ended inside case 'case-1' without an error line"),
        ([*WHOLE[:-1], at(1e7, "case_start", case="b", kind="warm")], "case 'case-1' has not ended"),
        ([*WHOLE, *(at(2e7, event, case="case-1", kind="warm") for event in ["case_start"])], "was a case 'case-1'"),
        (changed(len(WHOLE) - 1, case="other"), "is not the one in progress"),
        (case("warm", at(1, "load_end")), "a load starts and ends"),
        (case("warm", at(1, "load_start"), at(2, "load_start")), "a load starts and ends"),
        (case("warm", at(1, "load_start")), "still in progress"),
        (case("warm", at(1, "submit", prompt_tokens=0)), "still in progress"),
        (case("warm", *[at(1, "submit", prompt_tokens=0)] * 2), "still in progress"),
        (case("warm", at(1, "prefill_start", position=0, tokens=1)), "no prompt is going in"),
        (case("warm", at(1, "submit", prompt_tokens=1), at(1, "prefill_end", position=1, tokens=1)), "no chunk has"),
        (changed(place("prefill_end"), tokens=17), "the chunk started with 16 tokens at 0"),
        (changed(place("prefill_end"), position=15), "the chunk started with 16 tokens at 0"),
        (changed(place("prefill_start") + 2, position=17), "ended at position 16"),
        (changed(place("submit"), prompt_tokens=21), "20 tokens of a prompt of 21 went in"),
        (changed(place("token"), index=1), "it counts 1, there were 0"),
        (changed(place("stop"), tokens=4), "it counts 4, there were 3"),
        (case("warm", *generation(1, [(1, 2, 1)], [3]), at(4, "token", index=1, token=1)), "no generation is past"),
    ],
)
def test_an_order_that_cannot_happen_is_refused(lines: list[Line], message: str) -> None:
    with pytest.raises(StreamOrderError, match=message):
        parse_stream(sealed(lines))


def test_each_clock_must_not_run_backwards() -> None:
    with pytest.raises(StreamClockError, match="marker is stamped 9000000 ns, 1000000 ns before"):
        parse_stream(sealed([START, at(10, "marker", name="a"), at(9, "marker", name="b")]))
    with pytest.raises(StreamClockError, match="sample"):
        parse_stream(sealed([START, heat(10, t=1), heat(9, t=1)]))
    with pytest.raises(StreamClockError, match="before what came before it"):
        parse_stream(sealed([{**START, "at_ns": 5}, {**heat(0, t=1), "at_ns": 4}]))


def test_a_sample_may_be_overtaken_by_an_event() -> None:
    assert parse_stream(sealed([START, at(10, "marker", name="a"), heat(9, t=1)])).timeline.samples


@pytest.mark.parametrize(
    ("index", "fields"),
    [
        (0, {"version": 2}),
        (0, {"series": "simulator"}),
        (0, {"clock": "realtime"}),
        (0, {"runtime": "\x1b]0;owned\x07"}),
        (0, {"runner": "x" * 201}),
        (0, {"requested": {"threads": 0}}),
        (0, {"requested": {"shell": "rm -rf"}}),
        (1, {"case": "../../etc/passwd"}),
        (1, {"case": "/etc/passwd"}),
        (1, {"case": "a\x00b"}),
        (1, {"case": "C:\\x"}),
        (1, {"case": ".."}),
        (1, {"case": "a\n"}),
        (1, {"kind": "hot"}),
        (1, {"at_ns": -1}),
        (1, {"at_ns": 2**63}),
        (1, {"at_ns": 1.5}),
        (1, {"at_ns": "1"}),
        (1, {"at_ns": True}),
        (1, {"unheard_of": 1}),
        (1, {"event": "exec"}),
        (2, {"values": {"rss_kb": 10**400}}),
        (2, {"values": {"rss_kb": "1"}}),
        (2, {"values": {"rss_kb": None}}),
        (2, {"values": {"<script>": 1}}),
        (2, {"values": {f"v{number}_kb": 1 for number in range(513)}}),
        (2, {"source": "\u202e"}),
        (5, {"prompt_tokens": 2**24 + 1}),
        (place("token"), {"token": -1}),
        (place("token"), {"token": 2**31}),
        (place("stop"), {"reason": "bored"}),
    ],
)
def test_a_hostile_field_is_refused(index: int, fields: dict[str, Any]) -> None:
    with pytest.raises(StreamFormatError, match=f"line {index + 1}: ") as raised:
        parse_stream(sealed(changed(index, **fields)))
    assert str(raised.value).isascii()
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"token"',
        b"{'event': 'marker'}",
        b'{"event":"marker","at_ns":1,"name":"\xff"}',
        b'{"event":"marker","at_ns":1,"name":"\\ud800"}',
        b'{"event":"marker","at_ns":NaN,"name":"a"}',
        b'{"event":"sample","at_ns":1,"kind":"memory","source":"a","values":{"a":NaN}}',
        b'{"event":"sample","at_ns":1,"kind":"memory","source":"a","values":{"a":1e999}}',
        b'{"event":"marker","at_ns":1,"name":"a"} {"event":"marker","at_ns":1,"name":"b"}',
        b"[" * 60_000,
        b'{"event":' * 6_000,
        b"Segmentation fault (core dumped)",
    ],
)
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(StreamFormatError, match="line 2"):
        parse_stream(unsealed([START]) + line + b"\n")


def test_sizes_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StreamSizeError, match="line 1 has 65538 bytes; 65536 are allowed"):
        parse_stream(b"x" * (MAX_LINE_BYTES + 1) + b"\n")
    monkeypatch.setattr(stream_module, "MAX_LINES", 3)
    with pytest.raises(StreamSizeError, match="23 lines; 3 are allowed"):
        parse_stream(unsealed(WHOLE))
    monkeypatch.setattr(stream_module, "MAX_STREAM_BYTES", 100)
    with pytest.raises(StreamSizeError, match="100 are allowed"):
        parse_stream(unsealed(WHOLE))


def test_an_end_line_in_the_middle_is_refused() -> None:
    end = json.loads(sealed([START]).split(b"\n")[1])
    with pytest.raises(StreamOrderError, match="line 2: 'end' stands before the last line"):
        parse_stream(sealed([START, end]))


def test_an_error_ends_what_was_in_progress_and_excuses_an_open_case() -> None:
    lines = [START, at(0, "case_start", case="a", kind="warm"), *load(1, 2), at(3, "submit", prompt_tokens=4)]
    found = parse_stream(sealed([*lines, at(9, "error", what="no memory")])).timeline.cases[0]
    assert found.errors == ("no memory",)
    assert found.end_ns is None
    assert found.generations[0].stop is None


def test_what_makes_sense_of_a_broken_stream_is_salvaged() -> None:
    data = unsealed(WHOLE[:12])
    found = salvage_stream(data + b'{"event":"tok')
    assert found is not None
    assert len(found.events) == 12
    assert not found.complete
    assert salvage_stream(b"adb: error: device offline\n") is None
    assert salvage_stream(b"") is None


def many_cases(count: int) -> list[Line]:
    bounds = [
        (at(one, "case_start", case=f"c{one}", kind="warm"), at(one, "case_end", case=f"c{one}"))
        for one in range(count)
    ]
    return [START, *itertools.chain.from_iterable(bounds)]


def wrong_in_the_middle(count: int) -> list[Line]:
    idle = [at(1, "marker", name="idle")]
    return [START, *idle * count, at(1, "case_end", case="none"), *idle * count]


@pytest.mark.parametrize(
    ("make", "whole"),
    [
        (many_cases, True),
        (wrong_in_the_middle, False),
        (lambda count: case("warm", *generation(1, [(1, 1, 1)] * (count // 2), [1] * count)), True),
    ],
    ids=["many cases", "wrong in the middle", "a prompt in many chunks"],
)
def test_a_hostile_stream_costs_time_by_its_length_and_no_more(make: Callable[[int], list[Line]], whole: bool) -> None:
    data = sealed(make(20_000))
    began = time.process_time()
    if whole:
        parse_stream(data)
    found = salvage_stream(data)
    assert time.process_time() - began < 10  # a step for each pair of lines takes longer
    assert found is not None
    assert len(found.events) == (data.count(b"\n") - 1 if whole else 20_001)


def test_the_writer_seals_what_several_threads_wrote() -> None:
    file = io.BytesIO()
    start = Start(at_ns=0, runner="r 1", runtime="x 1", series="host", requested=Settings(), effective=Settings())
    writer = StreamWriter(file, start)

    def write() -> None:
        for _ in range(200):
            writer.write(Sample(at_ns=7, kind="memory", source="s", values={"rss_kb": 1}))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.write(Marker(at_ns=9, name="done"))
    writer.end()
    assert len(parse_stream(file.getvalue()).timeline.samples) == 800


def test_events_of_runtimes_are_events_of_a_stream() -> None:
    file = io.BytesIO()
    settings_ = Settings(threads=2, affinity=[0, 1], details={"tokenizer": "none"})
    writer = StreamWriter(
        file, Start(at_ns=0, runner="r 1", runtime="x 1", series="host", requested=settings_, effective=settings_)
    )
    for event in (runtime_events.LoadStart(at_ns=1), runtime_events.LoadEnd(at_ns=2)):
        writer.sink(event)
    writer.end()
    with pytest.raises(StreamOrderError, match="line 2: load_start can't stand here: no case has started"):
        parse_stream(file.getvalue())


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def read_or_refusal(data: bytes) -> Stream | str:
    try:
        return parse_stream(data)
    except StreamError as error:
        return str(error)


def holds(data: bytes) -> None:
    """A stream is refused in one printable line or read, and whatever was read has metrics."""
    found = read_or_refusal(data)
    salvaged = salvage_stream(data)
    if isinstance(found, str):
        assert found.isprintable()
        assert len(found) < 500
    else:
        assert salvaged is not None
        assert salvaged.events == found.events
    for one in [found, salvaged]:
        if isinstance(one, Stream):
            for measured in one.timeline.cases:
                assert all((metric.value is None) == bool(metric.reason) for metric in case_metrics(measured).values())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    holds(data)


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, len(WHOLE) - 1),
    st.sampled_from(sorted({key for line in WHOLE for key in line})),
    ANYTHING,
    st.booleans(),
)
def test_any_field_may_be_anything(index: int, key: str, value: Any, drop: bool) -> None:
    line = {name: old for name, old in WHOLE[index].items() if name != key}
    holds(sealed([*WHOLE[:index], line if drop else {**line, key: value}, *WHOLE[index + 1 :]]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, len(WHOLE) - 1), max_size=30), st.lists(st.integers(0, 10**9), max_size=30))
def test_lines_in_any_order_at_any_time(order: list[int], stamps: list[int]) -> None:
    lines = [{**WHOLE[index], "at_ns": stamp} for index, stamp in zip(order, stamps, strict=False)]
    holds(sealed(lines))
    holds(sealed([START, *sorted(lines, key=lambda line: int(line["at_ns"]))]))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_cut_and_splice_of_the_bytes_is_refused(data: st.DataObject) -> None:
    whole = sealed(WHOLE)
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:]
    holds(damaged)
    if damaged != whole and json.loads(whole.rstrip().rpartition(b"\n")[2])["sha256"].encode() in damaged:
        assert isinstance(read_or_refusal(damaged), str)

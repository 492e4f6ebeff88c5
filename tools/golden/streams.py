"""Event streams of the device lab: their events, the very bytes of their lines, and every figure computed of them.

A reader makes its own events of `events`, writes them with times as given and must get `lines`, the sealing line
included; from the same events it must get `metrics` (null: the figure does not exist, with the reason in Python only).
These are the figures that an app shows; the lab computes the others from the stream.
"""

import hashlib
import io
import json
from typing import Any

from benchmarks.metrics import case_metrics
from benchmarks.stream import StreamWriter, parse_stream
from benchmarks.stream_events import Start, event_adapter

MS = 1_000_000
SHOWN = (
    "load_cold_ms", "load_warm_ms", "ttft_ms", "prefill_tok_s", "tpot_ms", "tpot_p50_ms", "tpot_p90_ms", "tpot_p99_ms",
    "decode_tok_s",
)  # fmt: skip
SETTINGS: dict[str, Any] = {"backend": None, "threads": None, "affinity": None, "details": {}}
START = {
    "event": "stream",
    "at_ns": 5,
    "version": 1,
    "runner": "qwen-edge android 1",
    "runtime": "onnxruntime 1.31.1",
    "series": "app",
    "clock": "monotonic",
    "requested": SETTINGS | {"backend": "onnx", "threads": 2},
    "effective": SETTINGS | {"backend": "onnx", "threads": 2, "affinity": [4, 5], "details": {"tokenizer": "own 1"}},
}


def content() -> dict[str, Any]:
    """The streams."""
    return {"streams": [_stream(name, events) for name, events in _streams().items()]}


def _at(ms: float, event: str, **fields: Any) -> dict[str, Any]:
    return {"event": event, "at_ns": round(ms * MS), **fields}


def _generation(start_ms: float, chunks: list[int], steps_ms: list[float], reason: str) -> list[dict[str, Any]]:
    events = [_at(start_ms, "submit", prompt_tokens=sum(chunks))]
    at, position = start_ms + 0.25, 0
    for tokens in chunks:
        events.append(_at(at, "prefill_start", position=position, tokens=tokens))
        position, at = position + tokens, at + tokens * 1.5
        events.append(_at(at, "prefill_end", position=position, tokens=tokens))
    for index, step_ms in enumerate(steps_ms):
        at += step_ms
        events.append(_at(at, "token", index=index, token=1000 + index))
    return [*events, _at(at, "stop", reason=reason, tokens=len(steps_ms))]


def _memory(ms: float, rss_kb: int) -> dict[str, Any]:
    values = {"VmRSS_kb": rss_kb, "VmHWM_kb": 900_000, "RssAnon_kb": rss_kb // 2, "Pss_kb": rss_kb - 1}
    return _at(ms, "sample", kind="memory", source="/proc/self/status", values=values)


def _streams() -> dict[str, list[dict[str, Any]]]:
    steps = [0.125 * (8 + index % 5) for index in range(12)]
    warm = [
        START,
        _at(1, "case_start", case="warm-p48", kind="warm"),
        _memory(2, 100_000),
        _at(3, "load_start"),
        _memory(4, 700_000),
        _at(153.5, "load_end"),
        _at(154, "marker", name="warm_up_start"),
        _at(155, "marker", name="warm_up_end"),
        *_generation(200, [32, 16], steps, "max_tokens"),
        *_generation(500, [48], steps[:7], "eos"),
        _memory(520, 650_000),
        *_generation(700, [32, 16], [2.0] * 4, "cancelled"),
        _at(800, "sample", kind="thermal", source="PowerManager", values={"battery_temp_millicelsius": 36500}),
        _at(801, "sample", kind="battery", source="BatteryManager", values={"current_ua": -412000, "level": 87.5}),
        _at(900, "case_end", case="warm-p48"),
    ]  # fmt: skip
    cold = [
        START,
        _at(1, "case_start", case="cold-1", kind="cold"),
        _at(2, "sample", kind="memory", source="mincore", values={"resident_bytes": 10, "file_bytes": 1000}),
        _at(3, "load_start"),
        _at(903, "load_end"),
        *_generation(1000, [5], [1.0], "max_tokens"),
        _at(2000, "case_end", case="cold-1"),
    ]
    failed = [
        START,
        _at(1, "case_start", case="broken", kind="warm"),
        _at(2, "load_start"),
        _at(3, "error", what='RuntimeFailed: no "operator" \\ ü 😀'),
    ]
    return {"a warm case": warm, "a cold case": cold, "nothing at all": [START], "an error": failed}


def _stream(name: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    data = _written(events)
    parsed = parse_stream(data)
    metrics = {case.name: {key: case_metrics(case)[key].value for key in SHOWN} for case in parsed.timeline.cases}
    digest = hashlib.sha256(data).hexdigest()
    return {"name": name, "events": events, "lines": data.decode().splitlines(), "sha256": digest, "metrics": metrics}


def _written(events: list[dict[str, Any]]) -> bytes:
    """The stream as the lab's own writer writes it."""
    file = io.BytesIO()
    first, *rest = [event_adapter.validate_json(json.dumps(event)) for event in events]
    assert isinstance(first, Start)
    writer = StreamWriter(file, first)
    for event in rest:
        assert event.event != "end"
        writer.write(event)
    writer.end()
    return file.getvalue()

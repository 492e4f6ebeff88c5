"""Event streams made by hand, in milliseconds, for tests of what is computed of them."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

Line = dict[str, Any]
SETTINGS = {"backend": "cpu", "threads": 2}
START: Line = {
    "event": "stream",
    "version": 1,
    "runner": "by hand 1",
    "runtime": "onnxruntime 1.31.1",
    "series": "host",
    "clock": "monotonic",
    "requested": SETTINGS,
    "effective": SETTINGS,
    "at_ns": 0,
}


def at(ms: float, event: str, **fields: Any) -> Line:
    """One event at a time in milliseconds."""
    return {"event": event, "at_ns": round(ms * 1_000_000), **fields}


def case(kind: str, *lines: Line, name: str = "case-1", end_ms: float = 10_000_000) -> list[Line]:
    """A case around some lines."""
    return [START, at(0, "case_start", case=name, kind=kind), *lines, at(end_ms, "case_end", case=name)]


def generation(submit_ms: float, prefill: Sequence[tuple[float, float, int]], tokens_ms: Sequence[float]) -> list[Line]:
    """A generation: chunks as (start, end, tokens), then the moment of each token; it stops with its last."""
    lines = [at(submit_ms, "submit", prompt_tokens=sum(tokens for _, _, tokens in prefill))]
    position = 0
    for start, end, tokens in prefill:
        lines.append(at(start, "prefill_start", position=position, tokens=tokens))
        position += tokens
        lines.append(at(end, "prefill_end", position=position, tokens=tokens))
    lines += [at(ms, "token", index=index, token=100 + index) for index, ms in enumerate(tokens_ms)]
    last = max([submit_ms, *(end for _, end, _ in prefill), *tokens_ms])
    return [*lines, at(last, "stop", reason="max_tokens", tokens=len(tokens_ms))]


def load(start_ms: float, end_ms: float) -> list[Line]:
    """One opening of the artifact."""
    return [at(start_ms, "load_start"), at(end_ms, "load_end")]


def memory(ms: float, **values: float) -> Line:
    """A sample of memory."""
    return at(ms, "sample", kind="memory", source="/proc/self/status", values=values)


def heat(ms: float, **values: float) -> Line:
    """A sample of temperatures."""
    return at(ms, "sample", kind="thermal", source="/sys/class/thermal", values=values)


def unsealed(lines: Sequence[Line]) -> bytes:
    """The lines without an end line."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def sealed(lines: Sequence[Line]) -> bytes:
    """The lines with the end line that fits them."""
    body = unsealed(lines)
    end = {"event": "end", "lines": len(lines), "sha256": hashlib.sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"

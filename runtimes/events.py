"""What happened and when: raw monotonic timestamps, from which `benchmarks` computes every figure.

A run emits events to a sink; it never measures itself. `at_ns` is `time.monotonic_ns`, so only differences mean
something. A token's event is stamped when the token is known, before its text is decoded and the next step begins.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import IO, Literal

StopReason = Literal["eos", "max_tokens", "stop_string", "context", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class LoadStart:
    """Opening the artifact begins."""

    at_ns: int = field(default_factory=time.monotonic_ns)


@dataclass(frozen=True, kw_only=True)
class LoadEnd:
    """The artifact is open and can run."""

    at_ns: int = field(default_factory=time.monotonic_ns)


@dataclass(frozen=True, kw_only=True)
class PrefillStart:
    """One chunk of the prompt goes in after `position` tokens."""

    position: int
    tokens: int
    at_ns: int = field(default_factory=time.monotonic_ns)


@dataclass(frozen=True, kw_only=True)
class PrefillEnd:
    """One chunk of the prompt went in; `position` tokens are in the sequence now."""

    position: int
    tokens: int
    at_ns: int = field(default_factory=time.monotonic_ns)


@dataclass(frozen=True, kw_only=True)
class TokenChosen:
    """A token was chosen; the first has index 0."""

    index: int
    token: int
    at_ns: int = field(default_factory=time.monotonic_ns)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Generation ended after `tokens` chosen tokens, the end token included."""

    reason: StopReason
    tokens: int
    at_ns: int = field(default_factory=time.monotonic_ns)


Event = LoadStart | LoadEnd | PrefillStart | PrefillEnd | TokenChosen | Stop
Sink = Callable[[Event], None]

EVENT_NAMES: dict[type, str] = {
    LoadStart: "load_start",
    LoadEnd: "load_end",
    PrefillStart: "prefill_start",
    PrefillEnd: "prefill_end",
    TokenChosen: "token",
    Stop: "stop",
}


def ignore(_event: Event) -> None:
    """The sink of those who do not listen."""


def to_json(event: Event) -> str:
    """One event as one line of JSON."""
    return json.dumps({"event": EVENT_NAMES[type(event)], **asdict(event)})


def json_lines(file: IO[str]) -> Sink:
    """A sink that writes a line for each event."""

    def write(event: Event) -> None:
        file.write(to_json(event) + "\n")

    return write

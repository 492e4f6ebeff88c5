"""The lines of an event stream: raw facts with the device's monotonic clock, of which `benchmarks` makes every figure.

Generation events are written as `runtimes.events` writes them. Counts and times are bounded, strings are harmless
(`benchmarks.text`), and unknown fields are refused: a runner that says more than this is of another version.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from benchmarks.text import Label, Name, Sha256, Text

__all__ = [
    "VERSION",
    "CaseEnd",
    "CaseKind",
    "CaseStart",
    "End",
    "Event",
    "Failure",
    "LoadEnd",
    "LoadStart",
    "Marker",
    "PrefillEnd",
    "PrefillStart",
    "Sample",
    "SampleKind",
    "Series",
    "Settings",
    "Start",
    "Stop",
    "Submit",
    "Timed",
    "Token",
    "event_adapter",
]

VERSION: Final = 1
Series = Literal["adb-shell", "app", "host"]
CaseKind = Literal["cold", "warm", "sustained"]
SampleKind = Literal["memory", "thermal", "frequency", "battery", "cpu"]
StopReason = Literal["eos", "max_tokens", "stop_string", "context", "cancelled"]

MAX_TOKENS = 2**24
Nanoseconds = Annotated[int, Field(ge=0, lt=2**63)]
TokenCount = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
# a quantity with its unit, such as rss_kb or zone3_temp_millicelsius
Quantity = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,79}$")]
Number = Annotated[int, Field(gt=-(2**63), lt=2**63)] | Annotated[float, Field(allow_inf_nan=False)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Timed(_Line):
    """A line with the device's monotonic clock, in nanoseconds since some moment."""

    at_ns: Nanoseconds


class Settings(_Line):
    """What a runner was asked for, or what it found itself running with; null is 'not said'."""

    backend: Label | None = None
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    affinity: Annotated[list[Annotated[int, Field(ge=0, le=4095)]], Field(max_length=4096)] | None = None
    details: Annotated[dict[Quantity, Number | Label], Field(max_length=64)] = {}


class Start(Timed):
    """The first line."""

    event: Literal["stream"] = "stream"
    version: Literal[1] = VERSION
    runner: Label
    runtime: Label
    series: Series
    clock: Literal["monotonic"] = "monotonic"
    requested: Settings
    effective: Settings


class CaseStart(Timed):
    """A case begins."""

    event: Literal["case_start"] = "case_start"
    case: Name
    kind: CaseKind


class CaseEnd(Timed):
    """The case ended."""

    event: Literal["case_end"] = "case_end"
    case: Name


class LoadStart(Timed):
    """Opening the artifact begins."""

    event: Literal["load_start"] = "load_start"


class LoadEnd(Timed):
    """The artifact is open and can run."""

    event: Literal["load_end"] = "load_end"


class Submit(Timed):
    """A prompt is handed over, before it is tokenised; `prompt_tokens` is what it turned out to have."""

    event: Literal["submit"] = "submit"
    prompt_tokens: TokenCount


class PrefillStart(Timed):
    """A chunk of the prompt goes in after `position` tokens."""

    event: Literal["prefill_start"] = "prefill_start"
    position: TokenCount
    tokens: TokenCount


class PrefillEnd(Timed):
    """A chunk of the prompt went in; `position` tokens are in the sequence now."""

    event: Literal["prefill_end"] = "prefill_end"
    position: TokenCount
    tokens: TokenCount


class Token(Timed):
    """A token was chosen; the first of a generation has index 0."""

    event: Literal["token"] = "token"
    index: TokenCount
    token: Annotated[int, Field(ge=0, lt=2**31)]


class Stop(Timed):
    """The generation ended after `tokens` chosen tokens."""

    event: Literal["stop"] = "stop"
    reason: StopReason
    tokens: TokenCount


class Sample(Timed):
    """What a counter of the device said; each value's name ends with its unit."""

    event: Literal["sample"] = "sample"
    kind: SampleKind
    source: Label
    values: Annotated[dict[Quantity, Number], Field(max_length=512)]


class Marker(Timed):
    """A named moment, such as the start of an idle window."""

    event: Literal["marker"] = "marker"
    name: Label


class Failure(Timed):
    """The runner met an error; the generation in progress is over."""

    event: Literal["error"] = "error"
    what: Text


class End(_Line):
    """The last line: the number of lines before it and the SHA-256 of their bytes, newlines in."""

    event: Literal["end"] = "end"
    lines: Annotated[int, Field(ge=0)]
    sha256: Sha256


Event = (
    Start
    | CaseStart
    | CaseEnd
    | LoadStart
    | LoadEnd
    | Submit
    | PrefillStart
    | PrefillEnd
    | Token
    | Stop
    | Sample
    | Marker
    | Failure
)
event_adapter: TypeAdapter[Event | End] = TypeAdapter(Annotated[Event | End, Field(discriminator="event")])

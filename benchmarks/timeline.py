"""Events in their order: which generations a case holds, and whether the order can have happened.

The order, checked here: one case after the other; in a case loads and generations; in a generation the prompt is handed
over, goes in chunk by chunk, then tokens are chosen, then it stops. A count that is said twice must agree. Samples and
markers may lie anywhere. An error ends the generation or the load in progress; what it broke off counts for nothing.

Two clocks are checked, that of the samples and that of everything else: a sampling thread stamps before it may write.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.errors import StreamClockError, StreamOrderError
from benchmarks.stream_events import (
    CaseEnd,
    CaseKind,
    CaseStart,
    Event,
    Failure,
    LoadEnd,
    LoadStart,
    Marker,
    PrefillEnd,
    PrefillStart,
    Sample,
    Start,
    Stop,
    Submit,
    Token,
)

__all__ = ["Case", "Generation", "Load", "Timeline", "read_timeline"]


@dataclass(frozen=True, kw_only=True)
class Load:
    """One opening of the artifact, in nanoseconds of the device's clock."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One prompt and what was written after it; `stop` is None where it was broken off."""

    submit: Submit
    prefill: tuple[tuple[PrefillStart, PrefillEnd], ...]
    tokens: tuple[Token, ...]
    stop: Stop | None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case: its loads, generations, and the samples taken meanwhile; `end_ns` is None where it was broken off."""

    name: str
    kind: CaseKind
    start_ns: int
    end_ns: int | None
    loads: tuple[Load, ...]
    generations: tuple[Generation, ...]
    samples: tuple[Sample, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All cases of a stream, and the samples, markers and errors outside of them."""

    cases: tuple[Case, ...]
    samples: tuple[Sample, ...]
    markers: tuple[Marker, ...]
    errors: tuple[str, ...]


def read_timeline(events: Iterable[Event], *, complete: bool = True) -> Timeline:
    """The cases of a stream; of a complete one, every case that met no error must have ended."""
    reader = _Reader()
    for number, event in enumerate(events, start=1):
        reader.read(number, event)
    return reader.finish(complete=complete)


class _Reader:
    def __init__(self) -> None:
        self.line = 0
        self.clock: dict[str, int] = {}
        self.cases: list[Case] = []
        self.names: set[str] = set()
        self.samples: list[Sample] = []
        self.markers: list[Marker] = []
        self.errors: list[str] = []
        self.case: CaseStart | None = None
        self._begin_case()

    def _begin_case(self) -> None:
        self.loads: list[Load] = []
        self.generations: list[Generation] = []
        self.case_samples: list[Sample] = []
        self.case_errors: list[str] = []
        self.load: LoadStart | None = None
        self._begin_generation(None)

    def _begin_generation(self, submit: Submit | None) -> None:
        self.submit = submit
        self.chunk: PrefillStart | None = None
        self.prefill: list[tuple[PrefillStart, PrefillEnd]] = []
        self.prefilled = 0
        self.tokens: list[Token] = []

    def read(self, line: int, event: Event) -> None:
        self.line = line
        self._check_clock(event)
        if (line == 1) != isinstance(event, Start):
            self._refuse(event, "the first line, and no other, is the 'stream' line")
        match event:
            case Start():
                pass
            case Sample():
                (self.samples if self.case is None else self.case_samples).append(event)
            case Marker():
                self.markers.append(event)
            case Failure():
                self._fail(event)
            case CaseStart() | CaseEnd():
                self._bound(event)
            case _ if self.case is None:
                self._refuse(event, "no case has started")
            case LoadStart() | LoadEnd():
                self._load(event)
            case Submit() | PrefillStart() | PrefillEnd():
                self._prompt(event)
            case Token() | Stop():
                self._written(event)

    def finish(self, *, complete: bool) -> Timeline:
        if self.case is not None:
            if complete and not self.case_errors:
                raise StreamOrderError(f"the stream ended inside case {self.case.case!r} without an error line")
            self._end_generation(None)
            self._end_case(None)
        return Timeline(
            cases=tuple(self.cases),
            samples=tuple(self.samples),
            markers=tuple(self.markers),
            errors=tuple(self.errors),
        )

    def _check_clock(self, event: Event) -> None:
        lane = "sample" if isinstance(event, Sample) else "run"
        before = self.clock.get(lane, self.clock.get("start", 0))
        if event.at_ns < before:
            raise StreamClockError(
                f"line {self.line}: {event.event} is stamped {event.at_ns} ns, {before - event.at_ns} ns before what "
                "came before it; use one monotonic clock for the whole stream"
            )
        self.clock[lane] = event.at_ns
        self.clock.setdefault("start", event.at_ns)

    def _fail(self, event: Failure) -> None:
        (self.errors if self.case is None else self.case_errors).append(event.what)
        self._end_generation(None)
        self.load = None

    def _bound(self, event: CaseStart | CaseEnd) -> None:
        if isinstance(event, CaseStart):
            if self.case is not None:
                self._refuse(event, f"case {self.case.case!r} has not ended")
            if event.case in self.names:
                self._refuse(event, f"there was a case {event.case!r} already")
            self.names.add(event.case)
            self.case = event
            self._begin_case()
            return
        if self.case is None or self.case.case != event.case:
            self._refuse(event, f"case {event.case!r} is not the one in progress")
        if self.submit is not None or self.load is not None:
            self._refuse(event, "a load or a generation is still in progress")
        self._end_case(event)

    def _load(self, event: LoadStart | LoadEnd) -> None:
        if self.submit is not None or (self.load is None) != isinstance(event, LoadStart):
            self._refuse(event, "a load starts and ends between generations")
        if isinstance(event, LoadStart):
            self.load = event
        elif self.load is not None:
            self.loads.append(Load(start_ns=self.load.at_ns, end_ns=event.at_ns))
            self.load = None

    def _prompt(self, event: Submit | PrefillStart | PrefillEnd) -> None:
        if isinstance(event, Submit):
            if self.submit is not None or self.load is not None:
                self._refuse(event, "a load or a generation is still in progress")
            self._begin_generation(event)
        elif self.submit is None or self.tokens:
            self._refuse(event, "no prompt is going in")
        elif isinstance(event, PrefillStart):
            if self.chunk is not None:
                self._refuse(event, "the chunk before it has not ended")
            if self.prefill and self.prefill[-1][1].position != event.position:
                self._refuse(event, f"the chunk before it ended at position {self.prefill[-1][1].position}")
            self.chunk = event
        else:
            if self.chunk is None:
                self._refuse(event, "no chunk has started")
            elif (event.tokens, event.position) != (self.chunk.tokens, self.chunk.position + self.chunk.tokens):
                self._refuse(event, f"the chunk started with {self.chunk.tokens} tokens at {self.chunk.position}")
            else:
                self.prefill.append((self.chunk, event))
                self.prefilled += event.tokens
            self.chunk = None

    def _written(self, event: Token | Stop) -> None:
        if self.submit is None or self.chunk is not None:
            self._refuse(event, "no generation is past its prompt")
        elif self.prefilled != self.submit.prompt_tokens:
            self._refuse(event, f"{self.prefilled} tokens of a prompt of {self.submit.prompt_tokens} went in")
        said = event.index if isinstance(event, Token) else event.tokens
        if said != len(self.tokens):
            self._refuse(event, f"it counts {said}, there were {len(self.tokens)} tokens before it")
        if isinstance(event, Token):
            self.tokens.append(event)
        else:
            self._end_generation(event)

    def _end_generation(self, stop: Stop | None) -> None:
        if self.submit is not None:
            self.generations.append(
                Generation(submit=self.submit, prefill=tuple(self.prefill), tokens=tuple(self.tokens), stop=stop)
            )
        self._begin_generation(None)

    def _end_case(self, end: CaseEnd | None) -> None:
        if self.case is not None:
            self.cases.append(
                Case(
                    name=self.case.case,
                    kind=self.case.kind,
                    start_ns=self.case.at_ns,
                    end_ns=None if end is None else end.at_ns,
                    loads=tuple(self.loads),
                    generations=tuple(self.generations),
                    samples=tuple(self.case_samples),
                    errors=tuple(self.case_errors),
                )
            )
        self.case = None

    def _refuse(self, event: Event, why: str) -> None:
        raise StreamOrderError(f"line {self.line}: {event.event} can't stand here: {why}")

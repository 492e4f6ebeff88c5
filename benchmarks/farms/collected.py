"""Records of jobs that ran somewhere else: of the streams that came back, or of the reason why none did.

What a farm's phone wrote goes through the same session as what a phone on the desk writes: streams are parsed as
untrusted, tokens are compared with the oracle here, metrics are computed here, a missing stream is a row with a status.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks import devices, record
from benchmarks.cases import CaseFile
from benchmarks.devices import DeviceError, NotRunError, Report
from benchmarks.farms import Work
from benchmarks.oracle import Oracle
from benchmarks.record import CaseStatus, RunRecord, new_run_id
from benchmarks.session import Run, measure
from benchmarks.stream import MAX_LINE_BYTES
from benchmarks.stream_events import CaseKind, Series
from runtimes.artifact import Artifact

__all__ = ["Borrowed", "case_streams", "failed_record", "record_of"]

NOT_TOLD = "the farm does not tell"
NOTHING_TO_CHECK = Oracle(name="none", positions=0, max_error=0.0, fault=None, answers=[])


@dataclass(frozen=True, kw_only=True)
class Borrowed:
    """A device that is somewhere else: what is known of it, and what it wrote, by case."""

    device: record.Device
    series: Series
    farm: str
    streams: Mapping[str, bytes] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    failure: DeviceError | None = None

    def describe(self) -> record.Device:
        """What it is."""
        return self.device

    def tools(self) -> dict[str, str]:
        """The programs between us and it."""
        return dict(self.programs)

    def environment(self) -> record.Environment:
        """Nothing is known but what its samples say."""
        return record.Environment(unknown={"all": NOT_TOLD})

    def prepare(self) -> list[str]:
        """Nothing to be done from here."""
        if self.failure is not None:
            raise self.failure
        return []

    def push(self, artifact: Artifact, report: Report) -> None:
        """The farm did that."""

    def run(self, cases: CaseFile, timeout_s: float) -> bytes:
        """The stream that came back for these cases."""
        del timeout_s
        case = cases.cases[0].case
        if case not in self.streams:
            raise NotRunError(f"{self.farm} handed back no stream of case {case!r}")
        return self.streams[case]

    def partial(self) -> bytes:
        """Nothing beyond what `run` gave."""
        return b""

    def clean_up(self, *, keep: bool) -> list[str]:
        """The farm did that."""
        del keep
        return []


class _Unwritten:
    """The journal of a run that ended long ago: its record is stored whole."""

    def begin_run(self, record: RunRecord) -> None: ...

    def case_begin(self, run_id: str, case_id: str, kind: CaseKind) -> None: ...

    def case_done(self, run_id: str, case: record.CaseRecord) -> None: ...

    def finish_run(self, record: RunRecord) -> None: ...


def record_of(work: Work, borrowed: Borrowed) -> RunRecord:
    """The record of what came back."""
    return _measured(work, borrowed, None)


def _measured(work: Work, borrowed: Borrowed, oracle: Oracle | None) -> RunRecord:
    # nothing rests or cools down here: that was done, or wasn't, where the phone is
    at_once = work.protocol.model_copy(update={"settle_s": 0.0, "cool_down_s": 0.0})
    run = Run(
        artifact=work.artifact,
        protocol=at_once,
        cases=work.cases,
        run_id=new_run_id(),
        session_id=work.session_id,
        oracle=oracle,
    )
    made = measure(borrowed, run, _Unwritten(), _silent, warn=_unheard)
    return made.model_copy(update={"protocol": work.protocol, "farm": borrowed.farm})


def failed_record(work: Work, borrowed: Borrowed, status: CaseStatus, reason: str) -> RunRecord:
    """The record of a job of which nothing came back: every case with this status and reason."""
    return _measured(work, replace(borrowed, streams={}, failure=_failure(status, reason)), NOTHING_TO_CHECK)


def case_streams(contents: Iterable[bytes]) -> dict[str, bytes]:
    """Streams by the case they tell of; one content may hold several streams one after the other."""
    streams: dict[str, bytes] = {}
    for content in contents:
        begun: list[bytes] = []
        for line in content.splitlines(keepends=True):
            event = _event(line)
            if event.get("event") == "stream":
                begun = []
            begun.append(line)
            if event.get("event") == "end":
                streams.update(dict.fromkeys(_case_names(begun), b"".join(begun)))
                begun = []
    return streams


def _event(line: bytes) -> Mapping[str, object]:
    """A line that may begin, name or end a stream; the stream itself is checked where it is used."""
    if len(line) > MAX_LINE_BYTES or not any(word in line for word in (b'"stream"', b'"end"', b'"case_start"')):
        return {}
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _case_names(lines: Sequence[bytes]) -> list[str]:
    events = (_event(line) for line in lines)
    return [str(event.get("case")) for event in events if event.get("event") == "case_start"]


def _failure(status: CaseStatus, reason: str) -> DeviceError:
    kinds = {kind.status: kind for kind in DeviceError.__subclasses__() if kind.__module__ == devices.__name__}
    return kinds.get(status, DeviceError)(reason)


def _silent(_what: str, _done: int, _whole: int) -> None:
    """Nobody watches."""


def _unheard(_problem: str) -> None:
    """There is nothing to clean up."""

"""One run: prepare the device, push, run case after case, collect, clean up, and write down whatever happened.

A case that fails is a row with its status and the reason, and the run goes on. A device that is lost for good, or an
artifact that can't be brought to it, makes rows of all that remain. Only where there is no device to begin with is
there no record. Each phase has a time limit, in the driver or here.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import record
from benchmarks.cases import CaseFile
from benchmarks.devices import CorruptError, Device, DeviceError, LostDeviceError, Report, TooHotError
from benchmarks.errors import StreamError
from benchmarks.metrics import case_metrics, token_ids
from benchmarks.oracle import Oracle, OracleError, ask_oracle, compare_tokens
from benchmarks.protocol import case_timeout_s
from benchmarks.runner_end import named_failure
from benchmarks.stream import Stream, parse_stream, salvage_stream
from benchmarks.stream_events import Series
from runtimes.artifact import Artifact

__all__ = ["Journal", "Run", "measure"]

COOL_POLL_S = 5.0
COOL = (None, "none")  # thermal states in which a case may start; None where a device doesn't tell
MAX_REASON = 2000
GIT_TIMEOUT_S = 20
NO_ENERGY = "no source of energy was asked for"
PRETENDED = ("vm", "emulator")
REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Journal:
    """Told of each case before it runs and after it, so that a crash loses the one in flight at most."""

    begin: Callable[[str], None] = lambda _case: None
    done: Callable[[record.CaseRecord], None] = lambda _case: None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be run, and as what it is recorded."""

    artifact: Artifact
    protocol: record.Protocol
    cases: Sequence[CaseFile]
    run_id: str
    session_id: str
    keep: bool = False


@dataclass(kw_only=True)
class _Progress:
    """What is known so far."""

    violations: list[str] = field(default_factory=list)
    rows: list[record.CaseRecord] = field(default_factory=list)
    oracle: Oracle | None = None
    no_oracle: str = ""
    lost: str | None = None
    runtime: dict[str, str] = field(default_factory=dict)


def measure(
    device: Device, run: Run, report: Report, *, journal: Journal | None = None, warn: Callable[[str], None]
) -> record.RunRecord:
    """Run everything on a device that is there; `warn` is told what can't stand in a record."""
    started_at = datetime.now(UTC)
    described = device.describe()
    state = _Progress()
    if described.kind in PRETENDED:
        state.violations.append(f"the device is a pretended one ({described.kind}): its speed says nothing of a phone")
    journal = Journal() if journal is None else journal
    environment = record.Environment(unknown={"all": "the device was never ready"})
    with _cleaned(device, run, warn):
        try:
            _ask(run, state, report)
            report("preparing the device", 0, 0)
            state.violations += device.prepare()
            environment = device.environment()
            device.push(run.artifact, report)
        except DeviceError as error:
            _all_fail(run, state, journal, error)
        else:
            for number, cases in enumerate(run.cases):
                report(f"running {cases.cases[0].case}", number, len(run.cases))
                _one_row(device, run, cases, state, journal)
            report("running", len(run.cases), len(run.cases))
    return record.RunRecord(
        run_id=run.run_id,
        session_id=run.session_id,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        git=_git(),
        tools={"qwen-edge": version("qwen-edge"), **device.tools(), **state.runtime},
        artifact=_describe(run.artifact),
        device=described,
        series=device.series,
        protocol=run.protocol,
        environment=environment,
        cases=tuple(state.rows),
        validity=record.Validity(valid=not state.violations, violations=tuple(state.violations)),
    )


@contextmanager
def _cleaned(device: Device, run: Run, warn: Callable[[str], None]) -> Iterator[None]:
    """Clean up whatever happens, an interrupt included."""
    try:
        yield
    finally:
        try:
            for problem in device.clean_up(keep=run.keep):
                warn(f"clean-up: {problem}")
        except DeviceError as error:
            warn(f"clean-up: {error}")


def _ask(run: Run, state: _Progress, report: Report) -> None:
    report("asking the oracle", 0, 0)
    limit_s = sum(case_timeout_s(run.protocol, cases) for cases in run.cases)
    with tempfile.TemporaryDirectory(prefix="qwen-edge-oracle-") as work:
        try:
            state.oracle = ask_oracle(run.artifact, run.cases, Path(work), timeout_s=limit_s)
        except OracleError as error:
            state.no_oracle = str(error)
            state.violations.append(_cut(f"tokens are unchecked: {error}"))
            return
    if state.oracle.fault is not None:
        state.violations.append(f"the oracle disagrees with reference.safetensors: {state.oracle.fault}")


def _all_fail(run: Run, state: _Progress, journal: Journal, error: DeviceError) -> None:
    for cases in run.cases:
        journal.begin(cases.cases[0].case)
        row = _failure(cases, error.status, str(error))
        state.rows.append(row)
        journal.done(row)


def _one_row(device: Device, run: Run, cases: CaseFile, state: _Progress, journal: Journal) -> None:
    journal.begin(cases.cases[0].case)
    row = _attempt(device, run, cases, state)
    state.rows.append(row)
    journal.done(row)


def _attempt(device: Device, run: Run, cases: CaseFile, state: _Progress) -> record.CaseRecord:
    """One row, whatever happens to the device meanwhile."""
    if state.lost is not None:
        return _failure(cases, "lost_device", state.lost)
    before: record.Environment | None = None
    try:
        time.sleep(run.protocol.settle_s)
        before = _cooled(device, run.protocol)
        data = device.run(cases, case_timeout_s(run.protocol, cases))
        row = _success(cases, _parsed(data, device.series), data, state)
        hot = _hot(before) or _hot(device.environment())
        return row.model_copy(update={"environment": before, "throttled": hot})
    except DeviceError as error:
        if isinstance(error, LostDeviceError) and not _answers(device):
            state.lost = f"the device was lost in case {cases.cases[0].case!r} and did not come back"
        row = _failure(cases, error.status, str(error), _evidence(device, state))
        return row.model_copy(update={"environment": before})


def _cooled(device: Device, protocol: record.Protocol) -> record.Environment:
    """The device's state once it is cool enough, or the error that it did not become so in time."""
    deadline = time.monotonic() + protocol.cool_down_s
    while True:
        found = device.environment()
        limit_c = protocol.max_start_temperature_c
        too_warm = limit_c is not None and found.temperature_c is not None and found.temperature_c > limit_c
        if not too_warm and found.thermal_status in COOL:
            return found
        if time.monotonic() >= deadline:
            raise TooHotError(
                f"{found.temperature_c} C with thermal status {found.thermal_status!r} after waiting "
                f"{protocol.cool_down_s:g} s for {limit_c} C; cool the device, or allow more with --max-temperature"
            )
        time.sleep(min(COOL_POLL_S, max(0.1, deadline - time.monotonic())))


def _hot(environment: record.Environment) -> bool | None:
    return None if environment.thermal_status is None else environment.thermal_status not in COOL


def _parsed(data: bytes, series: Series) -> Stream:
    try:
        stream = parse_stream(data)
    except StreamError as error:
        raise CorruptError(f"the runner's output is no result: {error}") from error
    if stream.start.series != series:
        raise CorruptError(f"the runner's series is {stream.start.series!r}, the device's {series!r}: never mixed")
    return stream


def _success(cases: CaseFile, stream: Stream, data: bytes, state: _Progress) -> record.CaseRecord:
    """The row of a sealed stream, which may still tell of an error."""
    wanted = cases.cases[0]
    found = next((case for case in stream.timeline.cases if case.name == wanted.case), None)
    errors = [*stream.timeline.errors, *(found.errors if found is not None else ())]
    if errors:
        raise named_failure(errors[0])
    if found is None or found.kind != wanted.kind or found.end_ns is None:
        raise CorruptError(f"the stream has no finished case {wanted.case!r} of kind {wanted.kind!r}")
    _check_counts(cases, [len(one.tokens) for one in found.generations])
    state.runtime[stream.start.runtime.partition(" ")[0]] = stream.start.runtime
    tokens = token_ids(found)
    parity = _parity(state, wanted.case, tokens)
    return record.CaseRecord(
        case_id=wanted.case,
        kind=wanted.kind,
        status="ok",
        events=tuple(data.decode().split("\n")[:-1]),
        metrics=case_metrics(found),
        token_ids_sha256=record.token_ids_sha256(tokens),
        parity=parity,
        parity_reason=None if parity is not None else _cut(state.no_oracle),
        energy_reason=NO_ENERGY,
        requested_backend=stream.start.requested.backend,
        effective_backend=stream.start.effective.backend,
    )


def _check_counts(cases: CaseFile, counts: Sequence[int]) -> None:
    """A runner that did less than it was asked for measured something else."""
    wanted = cases.cases[0]
    enough = len(counts) == wanted.repeats if wanted.duration_ms is None else bool(counts)
    if not enough or set(counts) != {wanted.new_tokens}:
        raise CorruptError(
            f"generations of {list(counts)[:8]} tokens; asked were {wanted.repeats} of {wanted.new_tokens} tokens"
        )


def _parity(state: _Progress, case: str, tokens: list[list[int]]) -> record.Parity | None:
    if state.oracle is None:
        return None
    parity, right = compare_tokens(state.oracle, case, tokens)
    if not right:
        state.violations.append(_cut(f"case {case!r}: {parity.reason}"))
    return parity


def _failure(cases: CaseFile, status: record.CaseStatus, reason: str, events: Sequence[str] = ()) -> record.CaseRecord:
    case = cases.cases[0]
    return record.CaseRecord(
        case_id=case.case, kind=case.kind, status=status, reason=_cut(reason), events=tuple(events)
    )


def _evidence(device: Device, state: _Progress) -> Sequence[str]:
    """The lines of a broken stream that make sense, if they can be had: evidence, never a result."""
    if state.lost is not None:
        return ()
    try:
        data = device.partial()
    except DeviceError:
        return ()
    salvaged = salvage_stream(data)
    return () if salvaged is None else data.decode("utf-8", "replace").split("\n")[: len(salvaged.events)]


def _answers(device: Device) -> bool:
    try:
        device.environment()
    except DeviceError:
        return False
    return True


def _describe(artifact: Artifact) -> record.Artifact:
    manifest = artifact.manifest
    return record.Artifact(
        sha256=manifest.artifact_hash(),
        model=manifest.model,
        backend=manifest.backend,
        runtime=f"{manifest.runtime.name} {manifest.runtime.version}",
        scheme=manifest.scheme,
        method=manifest.method,
        context_length=manifest.context_length,
        weights=manifest.weights,
        size_bytes=sum(entry.bytes for entry in manifest.files),
        bytes_read_per_token=manifest.bytes_read_per_decoded_token,
    )


def _git() -> record.Git | None:
    """The commit of this program, where it runs from a clone."""
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S)
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return record.Git(commit=commit.stdout.strip(), dirty=bool(changes.stdout.strip()))


def _cut(text: str) -> str:
    """A reason that a record can hold: printable, and not endless."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:MAX_REASON]

"""One run: prepare the device, push, run case after case, collect, clean up, and write down whatever happened.

A case that fails is a row with its status and the reason, and the run goes on. A device that is lost for good, or an
artifact that can't be brought to it, makes rows of all that remain. Only where there is no device to begin with is
there no record. Each phase has a time limit, in the driver or here.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from benchmarks import record
from benchmarks.cases import CaseFile
from benchmarks.devices import CorruptError, Device, DeviceError, LostDeviceError, Report, TooHotError
from benchmarks.energy.measure import measure_case
from benchmarks.energy.predicted import predict
from benchmarks.errors import StreamError
from benchmarks.metrics import case_metrics, token_ids
from benchmarks.oracle import Oracle, OracleError, ask_oracle, compare_tokens
from benchmarks.protocol import case_timeout_s
from benchmarks.runner_end import named_failure
from benchmarks.stream import Stream, parse_stream, salvage_stream
from benchmarks.stream_events import CaseKind, Series
from runtimes.artifact import Artifact
from runtimes.errors import ArtifactError

__all__ = ["Journal", "Run", "measure"]

COOL_POLL_S = 5.0
COOL = (None, "none")  # thermal states in which a case may start; None where a device doesn't tell
MAX_REASON = 2000
GIT_TIMEOUT_S = 20
PRETENDED = ("vm", "emulator")
REPOSITORY = Path(__file__).parents[1]


class Journal(Protocol):
    """Told of a run as it goes, so that a crash loses the case in flight at most; `RecordStore` is one."""

    def begin_run(self, record: record.RunRecord) -> None:
        """A run begins; the record has no cases yet."""

    def case_begin(self, run_id: str, case_id: str, kind: CaseKind) -> None:
        """A case begins."""

    def case_done(self, run_id: str, case: record.CaseRecord) -> None:
        """It ended, well or badly."""

    def finish_run(self, record: record.RunRecord) -> None:
        """The run is over."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be run, and as what it is recorded."""

    artifact: Artifact
    protocol: record.Protocol
    cases: Sequence[CaseFile]
    run_id: str
    session_id: str
    keep: bool = False
    oracle: Oracle | None = None  # its answers to these cases, where they are known already


@dataclass(kw_only=True)
class _State:
    """What is known so far."""

    started_at: datetime
    device: record.Device
    tools: dict[str, str]
    series: Series
    environment: record.Environment
    violations: list[str] = field(default_factory=list)
    rows: list[record.CaseRecord] = field(default_factory=list)
    oracle: Oracle | None = None
    no_oracle: str = "the oracle was not asked"
    lost: str | None = None


def measure(
    device: Device, run: Run, journal: Journal, report: Report, *, warn: Callable[[str], None]
) -> record.RunRecord:
    """Run everything on a device that is there; `warn` is told what can't stand in a record."""
    with _cleaned(device, run, warn):
        state = _begin(device)
        failed = _get_ready(device, run, state, report)
        journal.begin_run(_record(run, state))
        for number, cases in enumerate(run.cases):
            report(f"running {cases.cases[0].case}", number, len(run.cases))
            journal.case_begin(run.run_id, cases.cases[0].case, cases.cases[0].kind)
            row = _attempt(device, run, cases, state) if failed is None else _failure(cases, failed.status, str(failed))
            journal.case_done(run.run_id, row)
            state.rows.append(row)
    made = _record(run, state, finished_at=datetime.now(UTC))
    journal.finish_run(made)
    return made


def _begin(device: Device) -> _State:
    described = device.describe()
    state = _State(
        started_at=datetime.now(UTC),
        device=described,
        tools={"qwen-edge": version("qwen-edge"), **device.tools()},
        series=device.series,
        environment=record.Environment(unknown={"all": "the device was never ready"}),
    )
    if described.kind in PRETENDED:
        state.violations.append(f"the device is a pretended one ({described.kind}): its speed says nothing of a phone")
    return state


def _get_ready(device: Device, run: Run, state: _State, report: Report) -> DeviceError | None:
    """Everything before the first case; what makes all cases fail, if anything does."""
    _ask(run, state, report)
    report("preparing the device", 0, 0)
    try:
        state.violations += device.prepare()
        state.environment = device.environment()
        device.push(run.artifact, report)
    except DeviceError as error:
        return error
    except ArtifactError as error:
        return CorruptError(str(error))
    return None


def _record(run: Run, state: _State, finished_at: datetime | None = None) -> record.RunRecord:
    return record.RunRecord(
        run_id=run.run_id,
        session_id=run.session_id,
        started_at=state.started_at,
        finished_at=finished_at,
        git=_git(),
        tools=state.tools,
        artifact=_describe(run.artifact),
        device=state.device,
        series=state.series,
        protocol=run.protocol,
        environment=state.environment,
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


def _ask(run: Run, state: _State, report: Report) -> None:
    if run.oracle is not None:
        state.oracle = run.oracle
        return
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


def _attempt(device: Device, run: Run, cases: CaseFile, state: _State) -> record.CaseRecord:
    """One row, whatever happens to the device meanwhile."""
    if state.lost is not None:
        return _failure(cases, "lost_device", state.lost)
    before: record.Environment | None = None
    try:
        time.sleep(run.protocol.settle_s)
        before = _cooled(device, run.protocol)
        data = device.run(cases, case_timeout_s(run.protocol, cases))
        stream = _parsed(data, device.series)
        row = _success(run, cases, stream, data, state)
        hot = _hot(before) or _hot(device.environment())
        state.environment = _as_run(state.environment, stream)
        return row.model_copy(update={"environment": _as_run(before, stream), "throttled": hot})
    except DeviceError as error:
        if isinstance(error, LostDeviceError) and not _answers(device):
            state.lost = f"the device was lost in case {cases.cases[0].case!r} and did not come back"
        row = _failure(cases, error.status, str(error), _evidence(device, state))
        return row.model_copy(update={"environment": before})


def _as_run(environment: record.Environment, stream: Stream) -> record.Environment:
    """The device's state with the threads and CPUs that the runner itself had."""
    had = stream.start.effective
    affinity = environment.affinity if had.affinity is None else tuple(had.affinity)
    return environment.model_copy(update={"threads": had.threads, "affinity": affinity})


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


def _success(run: Run, cases: CaseFile, stream: Stream, data: bytes, state: _State) -> record.CaseRecord:
    """The row of a sealed stream, which may still tell of an error."""
    wanted = cases.cases[0]
    found = next((case for case in stream.timeline.cases if case.name == wanted.case), None)
    errors = [*stream.timeline.errors, *(found.errors if found is not None else ())]
    if errors:
        raise named_failure(errors[0])
    if found is None or found.kind != wanted.kind or found.end_ns is None:
        raise CorruptError(f"the stream has no finished case {wanted.case!r} of kind {wanted.kind!r}")
    _check_counts(cases, [len(one.tokens) for one in found.generations])
    state.tools |= {"runtime": stream.start.runtime, "runner": stream.start.runner}
    requested, effective = stream.start.requested.backend, stream.start.effective.backend
    if requested != effective:
        state.violations.append(f"case {wanted.case!r}: backend {requested!r} was asked for, {effective!r} ran")
    tokens = token_ids(found)
    parity = _parity(state, wanted.case, tokens)
    energy, no_energy = measure_case(stream.timeline, found)
    return record.CaseRecord(
        case_id=wanted.case,
        kind=wanted.kind,
        status="ok",
        events=tuple(data.decode().split("\n")[:-1]),
        metrics=case_metrics(found),
        token_ids_sha256=record.token_ids_sha256(tokens),
        parity=parity,
        parity_reason=None if parity is not None else _cut(state.no_oracle),
        energy=energy,
        energy_reason=None if no_energy is None else _cut(no_energy),
        predicted_energy=predict(run.artifact.manifest, position=len(wanted.prompt) + wanted.new_tokens / 2),
        requested_backend=requested,
        effective_backend=effective,
    )


def _check_counts(cases: CaseFile, counts: Sequence[int]) -> None:
    """A runner that did less than it was asked for measured something else."""
    wanted = cases.cases[0]
    enough = len(counts) == wanted.repeats if wanted.duration_ms is None else bool(counts)
    if not enough or set(counts) != {wanted.new_tokens}:
        raise CorruptError(
            f"generations of {list(counts)[:8]} tokens; asked were {wanted.repeats} of {wanted.new_tokens} tokens"
        )


def _parity(state: _State, case: str, tokens: list[list[int]]) -> record.Parity | None:
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


def _evidence(device: Device, state: _State) -> Sequence[str]:
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
        quality=_quality(manifest.measured.quality),
    )


def _quality(measured: Mapping[str, Any] | None) -> dict[str, float]:
    """The figures of `measured.quality`, without their errors; nothing where the exporter measured none."""
    figures = (measured or {}).get("figures")
    found = {name: figure.get("value") for name, figure in figures.items()} if isinstance(figures, dict) else {}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


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

"""One night: export what is needed, hand each job to its farm, wait, collect, keep.

Devices work side by side, each through its own jobs in turn. Whatever goes wrong with a job is its own affair: it
becomes a row with a status and a reason, and the night goes on. A night that is started again goes on where it was:
what is done stays done, what a farm has already is not handed to it twice.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.devices import DeviceError
from benchmarks.farms import Farm, FarmError, Work, open_farm
from benchmarks.farms.collected import Borrowed, failed_record
from benchmarks.nightly.config import NightlyConfig, resolved
from benchmarks.nightly.exports import make_bundle
from benchmarks.nightly.ledger import JobState, Ledger
from benchmarks.nightly.plan import ExportJob, Job
from benchmarks.protocol import plan_cases
from benchmarks.record import Device, RunRecord, device_id
from benchmarks.store import RecordStore
from benchmarks.stream_events import Series
from benchmarks.workload import make_workload
from runtimes.artifact import Artifact
from runtimes.errors import ProjectError

__all__ = ["Night", "run_night"]

EXPORTS = "exports"
MOST_REASON = 2000


@dataclass(frozen=True, kw_only=True)
class Night:
    """What a night works with; `say` is told what happens, `limit_s` is how long a farm may take for one job."""

    config: NightlyConfig
    store: RecordStore
    store_url: str | None
    root: Path
    say: Callable[[str], None]
    limit_s: float = 8 * 3600.0
    export: Callable[[ExportJob, Path, Callable[[str], None]], Mapping[str, Artifact | str]] = make_bundle


def run_night(night: Night, jobs: Sequence[Job]) -> list[JobState]:
    """Do all jobs of one night and give what became of each, in order."""
    ledger = Ledger(night.root / jobs[0].night) if jobs else Ledger(night.root / "none")
    with ledger.held():
        open_jobs = [job for job in jobs if ledger.read(job.job_id).state not in ("done", "failed")]
        artifacts = _export_all(night, open_jobs)
        devices = sorted({job.device for job in open_jobs})
        with ThreadPoolExecutor(max_workers=max(1, len(devices))) as pool:
            turns = [
                pool.submit(_device_turn, night, ledger, [job for job in open_jobs if job.device == name], artifacts)
                for name in devices
            ]
            for turn in turns:
                turn.result()
        return [ledger.read(job.job_id) for job in jobs]


def _export_all(night: Night, jobs: Sequence[Job]) -> dict[tuple[str, str], Artifact | str]:
    artifacts: dict[tuple[str, str], Artifact | str] = {}
    for export in dict.fromkeys(job.export for job in jobs):
        made = night.export(export, night.root / EXPORTS, night.say)
        artifacts.update({(export.name, backend): found for backend, found in made.items()})
    return artifacts


def _device_turn(
    night: Night, ledger: Ledger, jobs: Sequence[Job], artifacts: Mapping[tuple[str, str], Artifact | str]
) -> None:
    for job in jobs:
        state = _do(night, ledger, job, artifacts[job.export.name, job.backend])
        told = ", ".join(f"{count} {status}" for status, count in sorted(state.cases.items()))
        night.say(
            f"{job.job_id}: {state.state}{f' ({told})' if told else ''}{f': {state.reason}' if state.reason else ''}"
        )


def _do(night: Night, ledger: Ledger, job: Job, artifact: Artifact | str) -> JobState:
    """One job to its end, whatever that is."""
    state = ledger.read(job.job_id)
    if isinstance(artifact, str):  # no artifact, so no record: only the night's own summary can tell of it
        return ledger.write(state.model_copy(update={"state": "failed", "reason": artifact[:MOST_REASON]}))
    work: Work | None = None
    try:
        work = _work(night, ledger, job, artifact)
        farm = open_farm(job.farm, resolved(night.config.farms.get(job.farm, {}), f"[farms.{job.farm}]"))
        made = _run(night, ledger, farm, work, state)
    except (ProjectError, OSError) as error:
        if work is None:
            return ledger.write(state.model_copy(update={"state": "failed", "reason": str(error)[:MOST_REASON]}))
        status = error.status if isinstance(error, FarmError | DeviceError) else "failed"
        made = failed_record(work, _absent(job, work), status, str(error)[:MOST_REASON])
    night.store.append(made)
    counts = Counter(case.status for case in made.cases)
    ended = "done" if set(counts) == {"ok"} else "failed"
    reason = next((case.reason for case in made.cases if case.reason), "") or ""
    update = {"state": ended, "run_id": made.run_id, "cases": dict(counts), "reason": reason}
    return ledger.write(ledger.read(job.job_id).model_copy(update=update))


def _run(night: Night, ledger: Ledger, farm: Farm, work: Work, state: JobState) -> RunRecord:
    if state.handle is None:
        handle = farm.submit(work)
        ledger.write(state.model_copy(update={"state": "submitted", "handle": handle}))
    else:
        handle = state.handle
    deadline = time.monotonic() + night.limit_s
    while (poll := farm.poll(work, handle)).state == "running":
        if time.monotonic() >= deadline:
            raise FarmError(f"the farm was not done within {night.limit_s:g} s; its handle is {handle}", "timeout")
        time.sleep(farm.poll_s)
    if poll.state == "failed":
        raise FarmError(poll.reason, poll.status)
    return farm.collect(work, handle)


def _work(night: Night, ledger: Ledger, job: Job, artifact: Artifact) -> Work:
    protocol = night.config.protocol.protocol()
    workload = make_workload(
        artifact.tokenizer_file,
        prompt_tokens=list(protocol.prompt_tokens),
        decode_tokens=protocol.new_tokens,
        context_length=artifact.manifest.context_length,
    )
    settings: dict[str, Any] = resolved(night.config.devices[job.device].settings(), f"[devices.{job.device}]")
    return Work(
        job_id=job.job_id,
        session_id=f"{job.night}-{job.device}"[:80],
        artifact=artifact,
        protocol=protocol,
        cases=plan_cases(protocol, workload, threads=settings.get("threads")),
        settings=settings,
        device=job.device,
        folder=ledger.folder(job.job_id),
        store_url=night.store_url,
    )


def _absent(job: Job, work: Work) -> Borrowed:
    """A device of which nothing is known but its name in the matrix."""
    kind = work.settings.get("device") if job.farm == "local" else None
    in_app = job.farm == "browserstack" or kind in ("android_app", "ios")
    series: Series = "host" if kind == "host" else "app" if in_app else "adb-shell"
    name = device_id(f"{job.farm} {job.device}")
    device = Device(id=name, kind="host" if kind == "host" else "physical", model=job.device)
    return Borrowed(device=device, series=series, farm=job.farm)

"""From a matrix to jobs: pure, so the same file and the same night always give the same jobs in the same order.

A job's name holds a hash of everything that determines it, so a night that is started again finds its own jobs and no
others. The order of jobs on one device is drawn anew each night by hash: what runs after what, and so how warm the
device is, is not the same every time.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from benchmarks.nightly.config import Block, NightlyConfig

__all__ = ["ExportJob", "Job", "plan"]


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """One bundle: one model in one scheme, in all backends that the night wants of it."""

    model: str
    checkpoint: str | None
    target: str
    scheme: str
    method: str | None
    backends: tuple[str, ...]

    @property
    def name(self) -> str:
        """A name for its directory."""
        return f"{self.model}-{self.target}-{self.scheme}-{_hash(asdict(self))}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One artifact on one device."""

    job_id: str
    night: str
    export: ExportJob
    backend: str
    device: str
    farm: str


def plan(config: NightlyConfig, night: str) -> list[Job]:
    """All jobs of a night: device by device, in the order in which each device takes them."""
    exports = _exports(config)
    jobs = {}
    for block in config.matrix:
        for device in block.devices:
            for model in block.models:
                for scheme in block.schemes:
                    for backend in block.backends:
                        made = _job(config, night, exports[_key(block, model, scheme)], backend, device)
                        jobs[made.job_id] = made
    return sorted(jobs.values(), key=lambda job: (job.device, _hash(job.job_id)))


def _exports(config: NightlyConfig) -> dict[tuple[str | None, ...], ExportJob]:
    """Blocks that want the same model in the same scheme share one bundle: it is quantized once."""
    backends: dict[tuple[str | None, ...], set[str]] = {}
    for block in config.matrix:
        for model in block.models:
            for scheme in block.schemes:
                backends.setdefault(_key(block, model, scheme), set()).update(block.backends)
    return {
        key: ExportJob(
            model=str(key[0]),
            checkpoint=key[1],
            target=str(key[2]),
            scheme=str(key[3]),
            method=key[4],
            backends=tuple(sorted(found)),
        )
        for key, found in backends.items()
    }


def _key(block: Block, model: str, scheme: str) -> tuple[str | None, ...]:
    return (model, block.checkpoint, block.target, scheme, block.method)


def _job(config: NightlyConfig, night: str, export: ExportJob, backend: str, device: str) -> Job:
    entry = config.devices[device]
    whole = {
        "night": night,
        "export": [export.model, export.checkpoint, export.target, export.scheme, export.method],
        "backend": backend,
        "device": [device, entry.farm, entry.settings()],
        "protocol": config.protocol.model_dump(mode="json"),
    }
    words = "-".join((night, device, export.model, backend, export.scheme))
    return Job(
        job_id=f"{words[:60]}-{_hash(whole)}",
        night=night,
        export=export,
        backend=backend,
        device=device,
        farm=entry.farm,
    )


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]

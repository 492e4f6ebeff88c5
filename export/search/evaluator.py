"""What a trial needs: the model opened where it runs, traced once, and layouts measured; here or on Ray's workers.

A job is plain data, so the same code runs in this process and, with `--workers ray`, in as many as Ray has: on one
machine, or on the cluster that RAY_ADDRESS names. Every machine must see the checkpoint under the same path.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.config import ModelConfig
from export.errors import MissingPackageError, SpecError
from export.schemes import Format, Layout
from export.search.measure import measured_klds
from export.search.rounding import Made, open_rounding
from export.search.sensitivity import Progress, Subject, Trace, trace
from export.sequence import check_finite

LOCAL, RAY = "local", "ray"
WORKERS = (LOCAL, RAY)

Evaluate = Callable[[Sequence[Layout]], list[float]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model and the tokens (N, T) on which its layouts are judged; `made` is what `method` made of it by format."""

    checkpoint: Path
    config: ModelConfig
    tokens: Tensor
    method: str
    made: Mapping[Format, Made] = field(default_factory=dict)


def open_subject(job: Job) -> Subject:
    """The model of a job; tables stay in memory, blocks do not."""
    weights = FloatWeights(checkpoint=Checkpoint.open(job.checkpoint), config=job.config)
    tables: dict[str, Tensor] = {}

    def table(unit: str) -> Tensor:
        if unit not in tables:
            tables[unit] = weights.weight(unit)
        return tables[unit]

    rounding = open_rounding(job.method, job.made, job.config)
    return Subject(model=CheckpointModel(weights=weights), table=table, rounding=rounding)


def traced(subject: Subject, tokens: Tensor, progress: Progress) -> Trace:
    """The float pass that everything else compares with; NaN is refused here, at its first block."""
    seen = trace(subject, tokens, progress)
    check_finite("the last block", seen.last, 0)
    return seen


class Evaluator:
    """Measures layouts; made once a process."""

    def __init__(self, job: Job) -> None:
        torch.manual_seed(0)
        self._subject = open_subject(job)
        self._seen = traced(self._subject, job.tokens, _silent)

    def measure(self, layouts: Sequence[Layout]) -> list[float]:
        """Mean divergence of each layout, nats a token."""
        return measured_klds(self._subject, self._seen, layouts, _silent)


def evaluate_here(job: Job) -> Evaluate:
    """Measure in this process; the model is opened at the first call."""
    made: list[Evaluator] = []

    def measure(layouts: Sequence[Layout]) -> list[float]:
        if not made:
            made.append(Evaluator(job))
        return made[0].measure(layouts)

    return measure


def evaluate_on_ray(job: Job) -> Evaluate:
    """Measure on Ray's workers, a share of the layouts each."""
    ray = _ray()
    actors: list[Any] = []

    def measure(layouts: Sequence[Layout]) -> list[float]:
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        if not actors:
            count = max(1, min(len(layouts), int(ray.cluster_resources().get("CPU", 1))))
            actors.extend(ray.remote(Evaluator).remote(job) for _ in range(count))
        shares = [list(layouts[start :: len(actors)]) for start in range(len(actors))]
        waiting = [actor.measure.remote(share) for actor, share in zip(actors, shares, strict=True)]
        found = ray.get(waiting)
        return [found[index % len(actors)][index // len(actors)] for index in range(len(layouts))]

    return measure


def evaluator(workers: str, job: Job) -> Evaluate:
    """The way to measure that `--workers` names."""
    return evaluate_on_ray(job) if workers == RAY else evaluate_here(job)


def check_workers(workers: str) -> None:
    """Refuse what cannot be asked for, before any work."""
    if workers not in WORKERS:
        raise SpecError(f"--workers {workers!r}: unknown; use {' or '.join(WORKERS)}")
    if workers == RAY:
        _ray()


def _ray() -> Any:
    if find_spec("ray") is None:
        raise MissingPackageError(
            "--workers ray needs the package 'ray', which is not installed; run `make venv`, or leave --workers out"
        )
    return importlib.import_module("ray")


def _silent(_: str, __: int) -> None:
    """Trials report as a whole."""

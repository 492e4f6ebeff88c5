"""A training run, read from top to bottom: checkpoint, data, student, train, write a checkpoint.

Everything is judged before the first step; a killed run, started again with the same command, goes on from its last
save; a finished one is not done twice.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from export import catalog, user_cache
from export.calibration import Request, calibrate
from export.checkpoint import Checkpoint, check_tensors
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.config import ModelConfig, parse_config
from export.errors import SpecError
from export.finetune.adapters import LoraStudent
from export.finetune.data import TrainingData, own_text, user_text
from export.finetune.qat import CodesStudent, QatStudent
from export.finetune.recovered import read_provenance, write_recovered
from export.finetune.spec import FinetuneSpec
from export.finetune.start import Start, start_from
from export.finetune.subject import Subject, best_device, load_subject
from export.finetune.train import Recipe, SavedState, train
from export.output import OTHER_CACHE, OTHER_OUT, check_space, disk_errors, own_directory
from export.progress import Progress
from export.quantize_checkpoint import Job, load_method, quantize_checkpoint
from export.quantized import QuantizedCheckpoint
from export.schemes import FLOAT, Format, Layout, Scheme, layout
from export.sources import check_same_model, read_model_entry, resolve
from export.spec import DEFAULT_MODEL
from export.tensors import text_tensors
from export.text_files import TextFiles, read_text_files
from export.weights import units

STATE_FILE = ".training.pt"
STATE_COPIES = 3  # values and two moments of AdamW, float32 each
LAST_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is trained: a checked checkpoint."""

    checkpoint: Checkpoint
    config: ModelConfig
    text: TextFiles
    layout: Layout
    content_hash: str
    trained: bool


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """A finished run; `loss` is the mean of the last steps, nats per token."""

    path: Path
    loss: float
    steps: int
    provenance: Mapping[str, Any]


def finetune(spec: FinetuneSpec, progress: Progress) -> Recovered:
    """Train what `spec` asks for and write the recovered checkpoint."""
    return recover(spec, open_base(spec), progress)


def recover(spec: FinetuneSpec, base: Base, progress: Progress) -> Recovered:
    """Train an opened checkpoint, whose layout may be another than the scheme's, and write what comes out."""
    with own_directory(spec.out), disk_errors(spec.out, OTHER_OUT):
        subject = load_subject(base.checkpoint, base.config, best_device())
        data = training_data(spec, base, subject, progress)
        key = spec.key(base.content_hash, data.sha256, {unit: str(form) for unit, form in base.layout.items()})
        done = read_provenance(spec.out)
        if done.get("key") == key:
            progress.note(f"up to date in {spec.out}")
            return _recovered(spec, done)
        _check_space(spec, base)
        provenance = _train(spec, base, subject, data, key, progress)
        (spec.out / STATE_FILE).unlink(missing_ok=True)
        return _recovered(spec, provenance)


def open_base(spec: FinetuneSpec) -> Base:
    """The checkpoint that the spec names, checked, and what its scheme makes of each matrix."""
    entry = read_model_entry(spec.model or DEFAULT_MODEL)
    resolved = resolve(entry, spec.checkpoint, spec.source)
    if spec.model is not None:
        check_same_model(entry, resolved)
    checkpoint = Checkpoint.open(resolved.path)
    config = parse_config(checkpoint.config, f"{resolved.path}/config.json")
    check_tensors(checkpoint, text_tensors(config))
    if spec.out.resolve() == resolved.path.resolve():
        raise SpecError(f"--out {spec.out} is the checkpoint itself; choose another directory")
    return Base(
        checkpoint=checkpoint,
        config=config,
        text=read_text_files(resolved.path, config.vocab_size),
        layout=trained_layout(spec, config),
        content_hash=checkpoint.content_hash(),
        trained=resolved.weights == "trained",
    )


def trained_layout(spec: FinetuneSpec, config: ModelConfig) -> dict[str, Format]:
    """The format of every matrix while training.

    A matrix that each backend holds in an 8-bit format of its own stays float here: no one grid is right for all, and 8
    bits lose next to nothing.
    """
    scheme: Scheme = catalog.load("schemes", spec.scheme).SCHEME.with_group_size(spec.group_size)
    if scheme.is_searched:
        raise SpecError(
            f"--scheme {spec.scheme} finds its formats by search; train for a scheme that has them, as int4"
        )
    found = layout(scheme, config, finest={8: FLOAT})
    if all(form.is_float for form in found.values()):
        raise SpecError(f"--scheme {spec.scheme} leaves every matrix float: nothing to recover; use int4")
    return found


def training_data(spec: FinetuneSpec, base: Base, subject: Subject, progress: Progress) -> TrainingData:
    """The user's text, or the model's own."""
    if spec.data is None:
        return own_text(subject, base.text, base.content_hash, spec.seed, progress)
    return user_text(spec.data, base.text, base.checkpoint, base.trained)


def _train(
    spec: FinetuneSpec, base: Base, subject: Subject, data: TrainingData, key: str, progress: Progress
) -> dict[str, Any]:
    start = start_from(subject, starting_codes(spec, base, progress))
    student = _student(spec, subject, start)
    recipe = Recipe(steps=spec.steps, learning_rate=spec.rate, nll_share=spec.nll_share, seed=spec.seed)
    saved = SavedState(file=spec.out / STATE_FILE, key=key)
    losses = train(subject, student, data.tokens, recipe, saved, progress)
    provenance = _provenance(spec, base, data, key, losses)
    names = {unit.name: unit.tensor for unit in units(base.config)}
    floats = {tensor: value.cpu() for tensor, value in start.floats.items()}
    if isinstance(student, LoraStudent) and spec.keep_adapters:
        student.save_adapters(spec.out)
    weights = student.weights(spec.keep_adapters) if isinstance(student, LoraStudent) else student.weights()
    trained = {names[unit]: weight for unit, weight in weights.items()} | floats
    write_recovered(spec.out, base.checkpoint, trained, provenance)
    return provenance


def _student(spec: FinetuneSpec, subject: Subject, start: Start) -> QatStudent | CodesStudent | LoraStudent:
    if spec.kind == "qlora":
        return LoraStudent(subject, start, spec.rank, spec.seed)
    return QatStudent(subject, start) if spec.kind == "qat" else CodesStudent(subject, start)


def starting_codes(spec: FinetuneSpec, base: Base, progress: Progress) -> QuantizedCheckpoint:
    """The checkpoint as the method that training starts from quantizes it."""
    method = load_method(spec.method)
    model = CheckpointModel(weights=FloatWeights(checkpoint=base.checkpoint, config=base.config))
    request = Request(model=model, text=base.text, checkpoint_hash=base.content_hash, trained=base.trained)
    job = Job(
        checkpoint=base.checkpoint,
        checkpoint_hash=base.content_hash,
        config=base.config,
        layout=base.layout,
        method=method,
        tokens=calibrate(request, progress).tokens if method.needs_calibration else None,
    )
    progress.stage(f"quantize ({spec.method})")
    root = user_cache.directory("quantized")
    with disk_errors(root, OTHER_CACHE):
        found = quantize_checkpoint(job, root, lambda name, _: progress.step(name))
    progress.end()
    return found


def _provenance(spec: FinetuneSpec, base: Base, data: TrainingData, key: str, losses: list[float]) -> dict[str, Any]:
    last = losses[-LAST_STEPS:]
    return {
        "kind": spec.kind,
        "key": key,
        "base_sha256": base.content_hash,
        "data": {"source": data.source, "sha256": data.sha256, "tokens": data.tokens.numel()},
        "scheme": spec.scheme,
        "method": spec.method,
        "group_size": spec.group_size,
        "formats": {unit: str(form) for unit, form in base.layout.items()},
        "steps": spec.steps,
        "learning_rate": spec.rate,
        "nll_share": spec.nll_share,
        "rank": spec.rank if spec.kind == "qlora" else None,
        "adapters": "beside" if spec.keep_adapters else "merged" if spec.kind == "qlora" else None,
        "seed": spec.seed,
        "last_loss": sum(last) / len(last),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def _recovered(spec: FinetuneSpec, provenance: Mapping[str, Any]) -> Recovered:
    return Recovered(
        path=spec.out, loss=float(provenance["last_loss"]), steps=int(provenance["steps"]), provenance=provenance
    )


def _check_space(spec: FinetuneSpec, base: Base) -> None:
    trained = sum(unit.num_weights for unit in units(base.config) if not base.layout[unit.name].is_float)
    stored = sum(file.stat().st_size for file in base.checkpoint.files())
    needed = stored + trained * 4 * (1 + 2 * STATE_COPIES)  # a save is written beside the one that it replaces
    check_space({spec.out: needed}, {spec.out: OTHER_OUT})

"""What can be measured: an artifact (or each one of a bundle), a quantized checkpoint, or another float checkpoint.

An artifact packs codes that lie in the quantized checkpoint it was made from; its reference file names them, and the
layer-by-layer figures come from there. Where that was deleted, the artifact can still be measured in its own runtime.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open

from export import user_cache
from export.checkpoint import Checkpoint, check_tensors
from export.checkpoint_blocks import FloatWeights
from export.config import ModelConfig, parse_config
from export.decoder import Activations
from export.errors import QualityError, StoreError
from export.quality.evaluate import Subject
from export.quality.reading import ModelWeights, Reading
from export.quantized import QuantizedCheckpoint, open_quantized
from export.schemes import FLOAT, Format, Layout, parse_format
from export.shards import ShardError, read_header
from export.sizes import model_bytes
from export.sources import model_names, read_model_entry, resolve
from export.tensors import text_tensors
from export.text_files import TextFiles, read_text_files
from export.weights import EMBEDDING, units
from runtimes.artifact import MANIFEST_NAME, Artifact, artifact_manifests

Kind = Literal["artifact", "quantized checkpoint", "checkpoint"]

# what the backends declare (a test compares), written here since importing a backend takes seconds
EMULATIONS: Mapping[str, Activations] = {
    "none": Activations(),
    "int8_group": Activations(kind="int8_group", group_cap=32),
    "int8_token": Activations(kind="int8_token"),
}
SAME = ("vocab_size", "num_layers", "hidden_size", "intermediate_size", "layer_types")  # of two checkpoints of a model
BLOCK_FILE = f"{EMBEDDING}.safetensors"
SCALE_BYTES = 2  # bfloat16, as quantized checkpoints hold them


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The float checkpoint that everything is measured against."""

    path: Path
    checkpoint: Checkpoint
    config: ModelConfig
    text: TextFiles
    subject: Subject


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One thing to measure: `subject` where its weights can be read, `artifact` where it can be run."""

    name: str
    path: Path
    kind: Kind
    formats: Layout
    bytes_per_token: int
    subject: Subject | None
    artifact: Artifact | None
    calibration: str | None = None  # sha256 of the token ids that it was calibrated on
    warnings: tuple[str, ...] = ()


def open_reference(name: str) -> Reference:
    """The checkpoint of a directory, or of the catalog's model of that name."""
    path = Path(name)
    if not path.is_dir():
        if name not in model_names() and "/" not in name:
            known = ", ".join(model_names())
            raise QualityError(f"--against {name}: neither a checkpoint directory nor a model; known models: {known}")
        path = resolve(read_model_entry(name)).path
    subject, checkpoint, config = float_subject("float", path)
    return Reference(
        path=path,
        checkpoint=checkpoint,
        config=config,
        text=read_text_files(path, config.vocab_size),
        subject=subject,
    )


def float_subject(name: str, path: Path) -> tuple[Subject, Checkpoint, ModelConfig]:
    """A float checkpoint as something to measure."""
    checkpoint = Checkpoint.open(path)
    config = parse_config(checkpoint.config, f"{path}/config.json")
    check_tensors(checkpoint, text_tensors(config))
    reading = Reading(name=name, weights=FloatWeights(checkpoint=checkpoint, config=config))
    return Subject(reading=reading, identity=checkpoint.content_hash()), checkpoint, config


def quantized_subject(name: str, store: QuantizedCheckpoint, activations: Activations) -> Subject:
    """A quantized checkpoint as something to measure; its directory's name is the hash of its content."""
    scales = sorted((one, float(scale)) for one, scale in store.cache_scales.items())
    grids = sorted((one, grid.tolist()) for one, grid in store.grids.items() if one in activations.static)
    identity = store.path.name + (f" cache {scales}" if scales else "") + (f" grids {grids}" if grids else "")
    return Subject(reading=Reading(name=name, weights=store, activations=activations), identity=identity)


def open_candidates(name: str, reference: Reference, activations: str | None) -> list[Candidate]:
    """What a path holds: one candidate, or one for each artifact of a bundle.

    `activations` None emulates what an artifact's own runtime does, and nothing for plain weights.
    """
    path = Path(name)
    if not path.is_dir():
        raise QualityError(f"{name}: no such directory; name an artifact, a bundle or a checkpoint")
    if (path / MANIFEST_NAME).is_file():
        return [_artifact(path, reference, activations)]
    if (path / BLOCK_FILE).is_file():
        return [_store(path, reference, activations)]
    if (path / "config.json").is_file():
        return [_checkpoint(path, reference)]
    found = [_artifact(manifest.parent, reference, activations) for manifest in artifact_manifests(path)]
    if not found:
        raise QualityError(
            f"{name}: holds no {MANIFEST_NAME}, {BLOCK_FILE} or config.json, so it is no artifact, bundle or checkpoint"
        )
    return found


def _artifact(path: Path, reference: Reference, activations: str | None) -> Candidate:
    artifact = Artifact.open(path)
    manifest = artifact.manifest
    if manifest.vocab_size != reference.config.vocab_size:
        raise QualityError(
            f"{path}: a vocabulary of {manifest.vocab_size}, {reference.path} has {reference.config.vocab_size}; "
            "compare an artifact with the checkpoint it was made from"
        )
    warnings = []
    if manifest.inputs.checkpoint_hash != reference.checkpoint.content_hash():
        warnings.append(
            f"{path.name} was made from other weights than {reference.path}: fine-tuning counts as loss here"
        )
    learned, metadata = manifest.inputs.calibration, _reference_metadata(artifact)
    formats = {unit: parse_format(text) for unit, text in json.loads(metadata.get("formats", "{}")).items()}
    name = f"{manifest.scheme}/{manifest.method}/{manifest.backend}"
    emulation = EMULATIONS.get(activations or metadata.get("emulation", "none"))
    if emulation is None:
        raise QualityError(
            f"{path}: was recorded with activations {metadata['emulation']!r}, unknown here; update this"
        )
    return Candidate(
        name=name,
        path=path,
        kind="artifact",
        formats=formats,
        bytes_per_token=manifest.bytes_read_per_decoded_token,
        subject=_cached(name, metadata, formats, reference, emulation),
        artifact=artifact,
        calibration=None if learned is None else str(learned["sha256"]),
        warnings=tuple(warnings),
    )


def _cached(
    name: str, metadata: Mapping[str, str], formats: Layout, reference: Reference, emulation: Activations
) -> Subject | None:
    """The quantized checkpoint that an artifact was made from, if it is still in the cache."""
    codes = metadata.get("codes")
    if not codes or Path(codes).name != codes:
        return None
    try:
        store = open_quantized(user_cache.directory("quantized") / codes, reference.config, formats)
    except StoreError:
        return None
    scales = json.loads(metadata.get("cache_scales", "{}"))
    if scales:
        scales = {one: torch.tensor([float(value)]) for one, value in scales.items()}
        store, emulation = replace(store, cache_scales=scales), replace(emulation, cache="int8")
    grids = {one: torch.tensor(values) for one, values in json.loads(metadata.get("grids", "{}")).items()}
    if grids and emulation.kind == metadata.get("emulation"):  # not where another emulation was asked for
        store, emulation = replace(store, grids=grids), replace(emulation, static=frozenset(grids))
    return quantized_subject(name, store, emulation)


def _store(path: Path, reference: Reference, activations: str | None) -> Candidate:
    formats = stored_layout(path, reference.config)
    store = open_quantized(path, reference.config, formats)
    return Candidate(
        name=path.resolve().name[:12],
        path=path,
        kind="quantized checkpoint",
        formats=formats,
        bytes_per_token=weight_bytes(formats, reference.config),
        subject=quantized_subject(path.resolve().name[:12], store, EMULATIONS[activations or "none"]),
        artifact=None,
    )


def _checkpoint(path: Path, reference: Reference) -> Candidate:
    subject, _, config = float_subject(path.resolve().name, path)
    for name in SAME:
        ours, theirs = getattr(config, name), getattr(reference.config, name)
        if ours != theirs:
            raise QualityError(
                f"{path}: {name} is {ours}, that of {reference.path} is {theirs}; compare two checkpoints of one model"
            )
    formats = {unit.name: FLOAT for unit in units(config)}
    return Candidate(
        name=subject.name,
        path=path,
        kind="checkpoint",
        formats=formats,
        bytes_per_token=weight_bytes(formats, config),
        subject=subject,
        artifact=None,
    )


def stored_layout(path: Path, config: ModelConfig) -> Layout:
    """The format of each matrix, from the tensors that a quantized checkpoint's files hold."""
    try:
        entries = {entry.name: entry for file in sorted(path.glob("*.safetensors")) for entry in read_header(file)}
    except ShardError as error:
        raise QualityError(f"{path}: {error}") from error
    formats: dict[str, Format] = {}
    for unit in units(config):
        codes, scales = entries.get(f"{unit.name}.codes"), entries.get(f"{unit.name}.scales")
        weight = entries.get(f"{unit.name}.weight")
        if weight is not None and weight.shape == (unit.out_features, unit.in_features):
            formats[unit.name] = FLOAT
        elif codes is not None and scales is not None and codes.shape[0] == scales.shape[0] == unit.out_features:
            groups = scales.shape[1]
            bits = 4 if codes.dtype == "U8" else 8
            formats[unit.name] = Format(bits=bits, group_size=None if groups == 1 else unit.in_features // groups)
        else:
            raise QualityError(f"{path}: holds no {unit.name}; it is of another model, or its export was interrupted")
    return formats


def weight_bytes(layout: Layout, config: ModelConfig) -> int:
    """Bytes of weights that one decoded token reads: everything but an embedding that is not also the head."""
    total = model_bytes(layout, config, scale_bytes=SCALE_BYTES, row_block=None)
    if config.tie_word_embeddings:
        return total
    table = next(unit for unit in units(config) if unit.name == EMBEDDING)
    return total - unit_bytes(table.out_features, table.in_features, layout[EMBEDDING])


def unit_bytes(out_features: int, in_features: int, form: Format) -> int:
    """Bytes of one matrix in a quantized checkpoint; floats are counted as float32, which backends hold."""
    if form.is_float:
        return out_features * in_features * 4
    return out_features * in_features * form.bits // 8 + out_features * form.groups(in_features) * SCALE_BYTES


def _reference_metadata(artifact: Artifact) -> dict[str, str]:
    name = artifact.manifest.reference_file
    if name is None:
        return {}
    try:
        with safe_open(artifact.file(name), framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise QualityError(f"{artifact.path / name}: cannot be read ({error}); export it again") from error


def noise_subjects(reference: Reference) -> list[Subject]:
    """The float model computed a little differently: what no quantization should be blamed for."""
    base = reference.subject
    return [
        replace(base, reading=replace(base.reading, name="float, calls of 100 tokens", tokens_at_once=100)),
        replace(base, reading=replace(base.reading, name="float, bf16 between layers", hidden_dtype=torch.bfloat16)),
    ]


def weights_of(candidate: Candidate) -> ModelWeights:
    """The weights of a candidate whose layers can be read."""
    if candidate.subject is None:
        raise QualityError(
            f"{candidate.path}: the codes it was made from are not in the cache any more; add --runtime to measure the "
            "artifact in its runtime, or run its export again"
        )
    return candidate.subject.reading.weights

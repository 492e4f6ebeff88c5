"""Write `manifest.json`: what was made, from what, with which tools, and how it was checked.

The reader, and the one definition of a manifest, is runtimes/artifact.py.
"""

import os
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import distributions, version
from math import prod
from pathlib import Path
from typing import Any, cast

from export.backends import Lowered, WrittenState
from export.calibration import Calibration
from export.decoder import input_grid_name
from export.output import flush_directory
from export.plan import Build, Plan
from export.sources import ResolvedCheckpoint
from export.spec import digest
from export.text_files import CHAT_TEMPLATE, TOKENIZER, TextFiles
from export.user_cache import file_sha256, write_atomically
from export.vision.request import VisionRequest
from runtimes.artifact import (
    DTYPE_BYTES,
    MANIFEST_NAME,
    FileEntry,
    Inputs,
    Manifest,
    Measured,
    Quantization,
    RuntimeVersion,
    Source,
    StateKind,
    StateTensor,
    read_manifest,
    sha256_of,
)
from runtimes.errors import ProjectError

EXPORTER_VERSION = 4  # raise when the same inputs give other files
UNSEALED_NAME = "manifest.unsealed.json"
ACTIVATIONS = {
    "int8_group": "int8, dynamic: symmetric for each block of inputs; behind 4 bits on ARM asymmetric for each token",
    "int8_token": "int8, dynamic: asymmetric for each token",
}
STATIC_ACTIVATIONS = {
    "int8_group": "uint8, static: asymmetric, one grid for each input, MatMulIntegerToFloat",
    "int8_token": "int8, static: asymmetric, one grid for each input and one for each product, which is int8 too, qs8",
}
TOOLCHAIN = ("torch", "onnx_ir", "onnxruntime", "executorch", "torchao", "coremltools", "safetensors", "tokenizers")


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """What an artifact is made from: `checkpoint` stands for the weights, `inputs` for everything beside them."""

    inputs: str
    checkpoint: str


def inputs_hash(
    plan: Plan,
    build: Build,
    resolved: ResolvedCheckpoint,
    text: TextFiles,
    calibration: object = None,
    vision: VisionRequest | None = None,
) -> str:
    """The hash of everything beside the weights that determines an artifact's files and what its manifest says.

    `calibration` is what determines the text to learn from (`Request.identity`), None for a method that needs none.
    """
    return digest(
        {
            "exporter": EXPORTER_VERSION,
            "model": plan.model,
            "source": [resolved.source, resolved.hub_id, resolved.revision, resolved.weights],
            "text": text.content(),
            "backend": build.backend,
            "scheme": plan.spec.scheme,
            "layout": {name: str(form) for name, form in build.layout.items()},
            "method": [plan.method.name, plan.method.version],
            "calibration": calibration,
            "context_length": plan.spec.context_length,
            "modality": plan.spec.modality,
            "threads": plan.threads,
            "toolchain": toolchain(),
            **({} if vision is None else {"vision": [asdict(vision.images), str(vision.weights.form)]}),
        }
    )


def toolchain() -> dict[str, str]:
    """Versions of what makes the files."""
    installed = {found.name.lower().replace("-", "_") for found in distributions()}
    return {"python": platform.python_version(), **{name: version(name) for name in TOOLCHAIN if name in installed}}


def is_up_to_date(place: Path, wanted: Hashes) -> bool:
    """Whether a sealed artifact made from these inputs lies there, its files what its manifest says."""
    try:
        manifest = read_manifest(place)
    except ProjectError:
        return False
    if (manifest.inputs.spec_hash, manifest.inputs.checkpoint_hash) != (wanted.inputs, wanted.checkpoint):
        return False
    if manifest.measured.parity is None or any(_length(place / entry.path) != entry.bytes for entry in manifest.files):
        return False
    return all(file_sha256(place / entry.path) == entry.sha256 for entry in manifest.files)


def artifact_manifest(
    plan: Plan,
    build: Build,
    resolved: ResolvedCheckpoint,
    text: TextFiles,
    lowered: Lowered,
    hashes: Hashes,
    calibration: Calibration | None = None,
) -> Manifest:
    """The manifest of the files in an artifact's directory, not yet verified."""
    module = build.module
    return Manifest(
        model=plan.model,
        source=_source(resolved, hashes.checkpoint),
        weights=resolved.weights,
        scheme=plan.spec.scheme,
        method=plan.method.name,
        backend=build.backend,
        runtime=RuntimeVersion(
            name=module.RUNTIME,
            version=version(getattr(module, "PACKAGE", module.RUNTIME)),
            oldest_version=module.OLDEST_RUNTIME,
        ),
        context_length=plan.spec.context_length,
        prefill_chunk=lowered.prefill_chunk,
        vocab_size=plan.config.vocab_size,
        eos_token_ids=text.eos_token_ids,
        pad_token_id=text.pad_token_id,
        model_file=lowered.model_file,
        tokenizer_file=TOKENIZER,
        chat_template_file=CHAT_TEMPLATE if text.chat_template is not None else None,
        reference_file="reference.safetensors",
        modalities=("text",) if lowered.vision is None else ("text", "image"),
        threads=plan.threads,
        state=tuple(_state(entry) for entry in lowered.state),
        files=file_entries(lowered.files[0].parent),
        bytes_read_per_decoded_token=lowered.bytes_read_per_token,
        toolchain=toolchain(),
        inputs=Inputs(
            spec_hash=hashes.inputs,
            checkpoint_hash=hashes.checkpoint,
            calibration=None if calibration is None else calibration.to_dict(),
        ),
        quantization=Quantization(
            formats={unit: str(form) for unit, form in build.layout.items()},
            activations=_activations(build, lowered),
            search=build.search,
        ),
        vision=lowered.vision,
        measured=Measured(parity=None, quality=None),
    )


def _activations(build: Build, lowered: Lowered) -> str:
    """What the runtime really does to the inputs of quantized matrices."""
    if lowered.activations.kind == "none" or all(form.is_float for form in build.layout.values()):
        return lowered.float_activations
    dynamic = ACTIVATIONS[lowered.activations.kind]
    static = {unit for unit in build.layout if input_grid_name(unit) in lowered.activations.static}
    if not static:
        return dynamic
    quantized = [unit for unit, form in build.layout.items() if not form.is_float]
    kinds = ", ".join(sorted({unit.rpartition(".")[2] for unit in static}))
    how = STATIC_ACTIVATIONS[lowered.activations.kind]
    return f"{len(static)} of {len(quantized)} quantized matrices ({kinds}) {how}; the others {dynamic}"


def write_unsealed(directory: Path, manifest: Manifest) -> Path:
    """Write the manifest of a directory that is still to be verified, under a name that seals nothing."""
    place = directory / UNSEALED_NAME
    write_atomically(place, manifest.to_json().encode())
    return place


def seal(directory: Path, manifest: Manifest, parity: dict[str, Any], quality: dict[str, Any] | None = None) -> None:
    """Put `manifest.json` in place in one step, after the files it names are on the disk, and see it onto the disk."""
    for entry in manifest.files:
        _flush(directory / entry.path)
    (directory / UNSEALED_NAME).unlink()
    measured = replace(manifest.measured, parity=parity, quality=quality)
    write_atomically(directory / MANIFEST_NAME, replace(manifest, measured=measured).to_json().encode())
    _flush(directory / MANIFEST_NAME)
    flush_directory(directory)


def file_entries(directory: Path) -> tuple[FileEntry, ...]:
    """Every file of the directory but the manifest, with length and sha256."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    return tuple(
        FileEntry(path=path.relative_to(directory).as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in files
    )


def _source(resolved: ResolvedCheckpoint, checkpoint_hash: str) -> Source:
    kind = cast(Any, resolved.source)
    return Source(
        kind=kind,
        id=resolved.hub_id or resolved.path.resolve().name,
        revision=resolved.revision,
        sha256=checkpoint_hash if resolved.source in ("local", "random") else None,
    )


def _state(entry: WrittenState) -> StateTensor:
    return StateTensor(
        name=entry.name,
        kind=cast(StateKind, entry.kind),
        layer=entry.layer,
        shape=entry.shape,
        dtype=cast(Any, entry.dtype),
        bytes=prod(entry.shape) * DTYPE_BYTES[entry.dtype],
        input_name=entry.input_name,
        output_name=entry.output_name,
        token_axis=entry.token_axis,
    )


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1

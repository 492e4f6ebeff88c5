"""An ONNX artifact that takes adapters, made from a sealed one: same weights, a graph with optional inputs.

It is verified as any artifact is before it is sealed: without an active adapter it must still be what its reference
says.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open

from export import catalog
from export.checkpoint import Checkpoint
from export.config import parse_config
from export.finetune import FinetuneError
from export.finetune.adapters import ADAPTERS
from export.finetune.onnx_adapters import accept_adapters, read_adapters, write_adapter
from export.manifest import file_entries, seal, write_unsealed
from export.output import OTHER_OUT, disk_errors, own_directory, partial_directory, put_in_place
from export.pipeline import verify
from export.plan import Build
from export.progress import Progress
from export.schemes import Layout, parse_format
from export.spec import RECOVERED_METHOD, digest
from runtimes.artifact import Artifact, FileEntry, Manifest

RUNTIME = "onnxruntime"
SUFFIX = ".onnx_adapter"


def adapt(artifact_dir: Path, checkpoint_dir: Path, out: Path, progress: Progress) -> Path:
    """Write the artifact again with optional inputs, a fine-tune's adapters beside it; returns the adapters' file."""
    artifact, checkpoint = Artifact.open(artifact_dir), Checkpoint.open(checkpoint_dir)
    _check_pair(artifact, checkpoint)
    manifest, config, layout = artifact.manifest, parse_config(checkpoint.config), _layout(artifact)
    corrections = read_adapters(checkpoint_dir / ADAPTERS, config)
    with own_directory(out), disk_errors(out, OTHER_OUT):
        partial = partial_directory(out, manifest.backend)
        for entry in manifest.files:
            _copy(artifact, entry, partial)
        accept_adapters(artifact.model_file, partial / manifest.model_file, config, layout)
        file = Path(ADAPTERS) / f"{checkpoint_dir.resolve().name}{SUFFIX}"
        (partial / ADAPTERS).mkdir()
        write_adapter(partial / manifest.model_file, corrections, layout, config, partial / file)
        _seal(partial, manifest, layout, progress)
        put_in_place(partial, out / manifest.backend)
    return out / manifest.backend / file


def _check_pair(artifact: Artifact, checkpoint: Checkpoint) -> None:
    """Adapters correct the very codes that they were trained over, so the artifact must hold these."""
    manifest = artifact.manifest
    if manifest.runtime.name != RUNTIME:
        raise FinetuneError(
            f"{artifact.path}: runs on {manifest.runtime.name}, which loads no adapters; name the ONNX artifact, or "
            "merge the adapters (finetune without --keep-adapters)"
        )
    if manifest.inputs.checkpoint_hash != checkpoint.content_hash() or manifest.method != RECOVERED_METHOD:
        raise FinetuneError(
            f"{artifact.path}: was not exported with --method {RECOVERED_METHOD} from {checkpoint.path}, so it holds "
            "other codes than the adapters were trained over; export that checkpoint first"
        )


def _layout(artifact: Artifact) -> Layout:
    """The format of each matrix, as the reference names it."""
    if artifact.manifest.reference_file is None:
        raise FinetuneError(f"{artifact.path}: has no reference file that names its formats; export it again")
    with safe_open(artifact.file(artifact.manifest.reference_file), framework="numpy") as file:
        named = json.loads((file.metadata() or {}).get("formats", "{}"))
    return {unit: parse_format(text) for unit, text in named.items()}


def _copy(artifact: Artifact, entry: FileEntry, into: Path) -> None:
    if entry.path != artifact.manifest.model_file:
        place = into / entry.path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.file(entry.path), place)


def _seal(directory: Path, manifest: Manifest, layout: Layout, progress: Progress) -> None:
    files = file_entries(directory)
    inputs = replace(manifest.inputs, spec_hash=digest([manifest.inputs.spec_hash, [entry.sha256 for entry in files]]))
    changed = replace(manifest, files=files, inputs=inputs)
    module = catalog.load("backends", manifest.backend)
    build = Build(backend=manifest.backend, module=module, layout=layout, model_bytes=0)
    parity = verify(write_unsealed(directory, changed), build, progress)
    seal(directory, changed, parity)

"""The checkpoint that training leaves: the base's files, with the trained matrices in their place.

Trained matrices are stored in float32, whatever the base holds: their values lie on the grid of the scheme (a code of
up to 8 bits times a bfloat16 scale), which float32 represents exactly. In bfloat16 they would be rounded off the grid,
and an export's codes would differ from those that training saw. Everything else keeps the bytes of the base: plain
tensors, the vision tower, the MTP layer, tokenizer and configs.

config.json is written last: without it a directory is no checkpoint.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from export import user_cache
from export.checkpoint import INDEX_FILE, Checkpoint
from export.errors import SpecError
from export.schemes import FLOAT, Format, Layout, parse_format

CONFIG = "config.json"
PROVENANCE = "finetune.json"
PROVENANCE_BYTES = 16 << 20  # a 9B's is 20 kB
COPIED = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
    "preprocessor_config.json", "video_preprocessor_config.json", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "LICENSE",
)  # fmt: skip


def write_recovered(
    out: Path, checkpoint: Checkpoint, trained: Mapping[str, Tensor], provenance: Mapping[str, Any]
) -> None:
    """Write the base checkpoint with some tensors, by canonical name, replaced; one shard in memory at a time."""
    for name in (CONFIG, PROVENANCE):
        (out / name).unlink(missing_ok=True)  # what is replaced stops being a checkpoint first
    stored = {entry.name: trained[name] for name, entry in checkpoint.entries.items() if name in trained}
    total_bytes = sum(_write_shard(file, out / file.name, stored) for file in checkpoint.files())
    _write_index(checkpoint.path / INDEX_FILE, out, total_bytes)
    for name in COPIED:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, out / name)
    user_cache.write_atomically(out / PROVENANCE, (json.dumps(provenance, indent=2) + "\n").encode())
    user_cache.write_atomically(out / CONFIG, (checkpoint.path / CONFIG).read_bytes())


def read_provenance(out: Path) -> Mapping[str, Any]:
    """What a complete checkpoint in `out` was made from, empty where there is none."""
    place = out / PROVENANCE
    try:
        if place.stat().st_size > PROVENANCE_BYTES:
            return {}
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and (out / CONFIG).is_file() else {}


def is_on_grid(path: Path) -> bool:
    """Whether a directory is a checkpoint whose matrices training left on their grid: not one with merged adapters."""
    found = read_provenance(path)
    return bool(found) and found.get("adapters") != "merged"


def check_formats(path: Path, layout: Layout) -> None:
    """Raise SpecError where a checkpoint was trained in formats that say little of the ones wanted.

    Finer groups of as many bits hold the trained codes exactly, and 8 bits all but exactly.
    """
    trained = read_provenance(path).get("formats")
    if not isinstance(trained, dict):
        raise SpecError(
            f"{path}: no readable {PROVENANCE} says in which formats it was trained, so there are no codes to read "
            "back; leave --method out"
        )
    for unit, wanted in layout.items():
        if wanted.bits < 8 and not _holds(wanted, parse_format(str(trained.get(unit, FLOAT)))):
            raise SpecError(
                f"{path}: {unit} was trained as {trained.get(unit, FLOAT)}, and this export wants {wanted}; use the "
                f"--scheme and --group-size of finetune ({PROVENANCE} has them), or another --method"
            )


def _holds(wanted: Format, trained: Format) -> bool:
    """Whether a grid has every value of a trained one."""
    if wanted.bits != trained.bits or trained.group_size is None:
        return wanted.bits == trained.bits
    return wanted.group_size is not None and trained.group_size % wanted.group_size == 0


def _write_shard(source: Path, place: Path, stored: Mapping[str, Tensor]) -> int:
    """Write one file of the base with its trained tensors, in one rename; returns the bytes of its tensors."""
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: stored[name].contiguous() if name in stored else file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        save_file(tensors, partial, metadata=metadata)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.chmod(0o644)  # safetensors makes it readable by its owner only
        partial.replace(place)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _write_index(source: Path, out: Path, total_bytes: int) -> None:
    if not source.is_file():
        return
    index = json.loads(source.read_text(encoding="utf-8"))
    index["metadata"] = {**index.get("metadata", {}), "total_size": total_bytes}
    user_cache.write_atomically(out / INDEX_FILE, (json.dumps(index, indent=2) + "\n").encode())

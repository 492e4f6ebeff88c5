"""A checkpoint directory, opened without reading its weights: names, shapes and types first, bytes on demand.

Only safetensors are read, never pickle. Every name in the directory is checked against the headers when it is opened,
so a damaged download fails in milliseconds. Tensors go by the names of `Qwen3_5ForConditionalGeneration`
(`model.language_model.layers.0...`, `lm_head.weight`, `model.visual...`, `mtp...`), whichever class saved them:
`LAYOUTS` is the one table of what the others write instead.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from export import user_cache
from export.config import read_config
from export.shards import CheckpointError, DuplicateTensorError, TensorEntry, read_header, read_rows

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_INDEX_BYTES = 64 << 20
COMPARE_ROWS = 8192
NAMES_IN_MESSAGES = 3

TEXT_PREFIX = "model.language_model."
VISION_PREFIX = "model.visual."
MTP_PREFIX = "mtp."
HEAD = "lm_head.weight"
EMBEDDING = TEXT_PREFIX + "embed_tokens.weight"

LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "Qwen3_5ForConditionalGeneration": {TEXT_PREFIX: TEXT_PREFIX, VISION_PREFIX: VISION_PREFIX},
    "Qwen3_5Model": {"language_model.": TEXT_PREFIX, "visual.": VISION_PREFIX},
    "Qwen3_5ForCausalLM": {"model.": TEXT_PREFIX},
    "Qwen3_5TextModel": {"": TEXT_PREFIX},
}


class CheckpointNotFoundError(CheckpointError):
    """The path is no directory, or holds no weights."""


class PickleOnlyError(CheckpointError):
    """The directory holds pickled weights only."""


class IndexFileError(CheckpointError):
    """`model.safetensors.index.json` is malformed or points outside its directory."""


class MissingShardError(CheckpointError):
    """The index names a file that is not there."""


class IndexMismatchError(CheckpointError):
    """The index and the headers of the shards name different tensors."""


class LayoutError(CheckpointError):
    """The tensor names fit none, or more than one, of the known layouts."""


class MissingTensorError(CheckpointError):
    """A tensor that the config asks for is not in the checkpoint."""


class ExtraTensorError(CheckpointError):
    """The checkpoint holds a tensor that no part of the model knows."""


class TensorShapeError(CheckpointError):
    """A tensor's shape differs from what the config says."""


class UntiedHeadError(CheckpointError):
    """The config ties head and embedding, yet the checkpoint holds two different ones."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint; `entries` goes by canonical name, each entry's own `name` is the stored one."""

    path: Path
    config: dict[str, Any]
    layout: str
    entries: Mapping[str, TensorEntry]

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Read the config and every header of a checkpoint directory; no weight is read."""
        path = Path(path)
        if not path.is_dir():
            raise CheckpointNotFoundError(f"{path}: no such directory; give the one that holds config.json")
        stored = _stored_entries(path)
        config = read_config(path)
        layout = _layout(path, stored)
        return cls(path=path, config=config, layout=layout, entries=MappingProxyType(_canonical(path, stored, layout)))

    def names(self) -> list[str]:
        """Return the canonical names, sorted."""
        return sorted(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype(self, name: str) -> str:
        """Return the stored type in safetensors' spelling, such as 'BF16'."""
        return self._entry(name).dtype

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """Read one tensor, or a block of its rows, into memory of its own; NaN and infinity are errors."""
        return read_rows(self._entry(name), rows)

    def files(self) -> list[Path]:
        """Return the safetensors files, sorted."""
        return sorted({entry.file for entry in self.entries.values()})

    def content_hash(self) -> str:
        """Return a sha256 over config.json and the shards, by content: moving or renaming the directory keeps it."""
        digest = hashlib.sha256()
        for file in [self.path / "config.json", *self.files()]:
            digest.update(f"{file.name} {user_cache.file_sha256(file)}\n".encode())
        return digest.hexdigest()

    def _entry(self, name: str) -> TensorEntry:
        if name not in self.entries:
            raise MissingTensorError(f"{self.path}: tensor {name!r} is missing; fetch the whole checkpoint again")
        return self.entries[name]


def check_tensors(
    checkpoint: Checkpoint,
    expected: Mapping[str, tuple[int, ...]],
    ignorable_prefixes: tuple[str, ...] = (VISION_PREFIX, MTP_PREFIX),
) -> None:
    """Compare the checkpoint with the tensors that its config asks for: none missing, none extra, none misshapen."""
    missing = [name for name in expected if name not in checkpoint.entries]
    if missing:
        raise MissingTensorError(
            f"{checkpoint.path}: {_listed(missing)} missing of {len(expected)} tensors that config.json asks for; "
            "fetch the whole checkpoint again"
        )
    if HEAD in checkpoint.entries and HEAD not in expected:
        _check_tied_head(checkpoint)
    known = (*expected, HEAD)
    extra = [name for name in checkpoint.names() if name not in known and not name.startswith(ignorable_prefixes)]
    if extra:
        raise ExtraTensorError(
            f"{checkpoint.path}: {_listed(extra)} not part of a Qwen3.5 model of this config; merge adapters or "
            "remove these tensors, and check config.json"
        )
    for name, shape in expected.items():
        if checkpoint.shape(name) != tuple(shape):
            raise TensorShapeError(
                f"{checkpoint.path}: {name} has shape {checkpoint.shape(name)}, expected {tuple(shape)} "
                "from config.json; the config belongs to another checkpoint"
            )


def _check_tied_head(checkpoint: Checkpoint) -> None:
    """Accept a stored head beside a tied embedding only where both hold the same values."""
    head, embedding = checkpoint.entries[HEAD], checkpoint.entries.get(EMBEDDING)
    if embedding is None:
        return
    same = head.shape == embedding.shape and head.dtype == embedding.dtype
    for start in range(0, head.shape[0] if same else 0, COMPARE_ROWS):
        rows = slice(start, start + COMPARE_ROWS)
        same = same and torch.equal(read_rows(head, rows), read_rows(embedding, rows))
    if not same:
        raise UntiedHeadError(
            f"{checkpoint.path}: config.json says tie_word_embeddings true, but {HEAD} differs from {EMBEDDING}; "
            "set tie_word_embeddings to false, or remove the head if it is stale"
        )


def _stored_entries(path: Path) -> dict[str, TensorEntry]:
    single, index = path / SINGLE_FILE, path / INDEX_FILE
    if single.exists() and index.exists():
        raise IndexFileError(f"{path}: holds both {SINGLE_FILE} and {INDEX_FILE}; remove the one that is stale")
    if single.exists():
        return {entry.name: entry for entry in read_header(single)}
    if index.exists():
        return _sharded_entries(path, _read_index(index))
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise PickleOnlyError(
            f"{path}: holds pickled weights only ({_listed(pickles)}); pickle can run code when read, so convert "
            "first: load it with transformers and call save_pretrained, which writes safetensors"
        )
    raise CheckpointNotFoundError(
        f"{path}: neither {SINGLE_FILE} nor {INDEX_FILE} found; is this a checkpoint directory?"
    )


def _read_index(index: Path) -> dict[str, str]:
    """Return the index's map from tensor to file, with every file name checked to stay in the directory."""
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise IndexFileError(f"{index}: {index.stat().st_size} bytes, more than {MAX_INDEX_BYTES}; this is no index")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, RecursionError) as error:
        raise IndexFileError(f"{index}: not valid JSON ({error}); download it again") from error
    except (KeyError, TypeError) as error:
        raise IndexFileError(f"{index}: no 'weight_map' object in it; download it again") from error
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(file, str) for file in weight_map.values())
    ):
        raise IndexFileError(f"{index}: 'weight_map' must map tensor names to file names; download it again")
    for name, file in weight_map.items():
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise IndexFileError(
                f"{index}: {name!r} points to {file!r}; a shard must be a .safetensors file in the same directory, "
                "so do not trust this checkpoint"
            )
    return weight_map


def _sharded_entries(path: Path, weight_map: dict[str, str]) -> dict[str, TensorEntry]:
    stored: dict[str, TensorEntry] = {}
    for file in sorted(set(weight_map.values())):
        if not (path / file).is_file():
            raise MissingShardError(f"{path / file}: named by {INDEX_FILE} but not there; resume the download")
        for entry in read_header(path / file):
            if entry.name in stored:
                raise DuplicateTensorError(
                    f"{path}: {entry.name!r} stands in {stored[entry.name].file.name} and in {file}; "
                    "write the shards again"
                )
            stored[entry.name] = entry
    _check_index(path, weight_map, stored)
    return stored


def _check_index(path: Path, weight_map: dict[str, str], stored: dict[str, TensorEntry]) -> None:
    for name, file in weight_map.items():
        if name not in stored or stored[name].file.name != file:
            where = f"in {stored[name].file.name}" if name in stored else "in no shard"
            raise IndexMismatchError(
                f"{path / INDEX_FILE}: says {name!r} is in {file}, found it {where}; the index is stale, "
                "so download both again"
            )
    unlisted = sorted(set(stored) - set(weight_map))
    if unlisted:
        raise IndexMismatchError(
            f"{path / INDEX_FILE}: does not list {_listed(unlisted)}, found in the shards; download both again"
        )


def _layout(path: Path, stored: Mapping[str, TensorEntry]) -> str:
    """Name the layout whose embedding is in the header: exactly one must fit."""
    probes = {layout: _stored_text_prefix(layout) + "embed_tokens.weight" for layout in LAYOUTS}
    fitting = [layout for layout, probe in probes.items() if probe in stored]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise LayoutError(f"{path}: holds text models of {' and '.join(fitting)}; keep the tensors of one")
    raise LayoutError(
        f"{path}: no token embedding found under any known name ({', '.join(probes.values())}); "
        f"first tensors: {_listed(sorted(stored))}"
    )


def _stored_text_prefix(layout: str) -> str:
    return next(prefix for prefix, canonical in LAYOUTS[layout].items() if canonical == TEXT_PREFIX)


def _canonical(path: Path, stored: Mapping[str, TensorEntry], layout: str) -> dict[str, TensorEntry]:
    renamed: dict[str, TensorEntry] = {}
    for name, entry in stored.items():
        canonical = _canonical_name(name, LAYOUTS[layout])
        if canonical in renamed:
            raise DuplicateTensorError(
                f"{path}: {name!r} and {renamed[canonical].name!r} both mean {canonical!r}; keep one"
            )
        renamed[canonical] = entry
    return renamed


def _canonical_name(name: str, prefixes: Mapping[str, str]) -> str:
    if name == HEAD or name.startswith(MTP_PREFIX):
        return name
    for prefix, canonical in prefixes.items():
        if name.startswith(prefix):
            return canonical + name.removeprefix(prefix)
    return name


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMES_IN_MESSAGES])
    rest = len(names) - NAMES_IN_MESSAGES
    return f"{shown} and {rest} more" if rest > 0 else shown

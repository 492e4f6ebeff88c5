"""Which checkpoint a command means: a local directory, a hub, the tiny model beside the code, or random weights.

A model of the catalog is one JSON file of `export/models`: hub ids, the pinned revision and a copy of the config, or
the `path` of a checkpoint beside the file. What a name resolves to is recorded, never guessed from a path.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from export import user_cache
from export.checkpoint import INDEX_FILE, SINGLE_FILE
from export.config import ModelConfig, parse_config, read_config
from export.errors import ExportError, SpecError, UnknownNameError
from export.hubs import HubAccess, PartialDownloadError, Repository
from export.qwen_tokenizer import write_qwen_tokenizer
from export.random_checkpoint import MARK, Progress, RandomSpec, write_random_checkpoint

Weights = Literal["trained", "random"]

MODELS = Path(__file__).parent / "models"
HUBS = Path(__file__).parent / "hubs"
CHAT_TEMPLATE = MODELS / "tiny" / "chat_template.jinja"
RANDOM = "random"
DEFAULT_SOURCE = "huggingface"
REVISION = re.compile(r"[0-9a-f]{40}")
REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class ModelEntryError(ExportError):
    """A file of export/models is malformed."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model of the catalog; either `path`, or ids with a revision and a config.

    `image_grids` are rows and columns of tokens that a tower of fixed grids is built for, None for the family's.
    """

    name: str
    hub_id: str | None = None
    modelscope_id: str | None = None
    revision: str | None = None
    config: Mapping[str, Any] | None = None
    path: Path | None = None
    image_grids: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ResolvedCheckpoint:
    """A checkpoint directory on this machine and where it came from; `source` is a hub, 'local' or 'random'."""

    path: Path
    hub_id: str | None
    revision: str | None
    source: str
    weights: Weights


def model_names(directory: Path = MODELS) -> list[str]:
    """Return the names of the catalog, sorted."""
    return sorted(file.stem for file in directory.glob("*.json"))


def source_names() -> list[str]:
    """Return the hubs that `--source` may name."""
    return sorted(file.stem for file in HUBS.glob("*.py") if not file.stem.startswith("_"))


def read_model_entry(name: str, directory: Path = MODELS) -> ModelEntry:
    """Read one model of the catalog by name, or by the id it has on a hub."""
    entries = {known: directory / f"{known}.json" for known in model_names(directory)}
    if name in entries:
        return _parse_entry(name, entries[name])
    if "/" in name:
        for known, file in entries.items():
            entry = _parse_entry(known, file)
            if name in (entry.hub_id, entry.modelscope_id):
                return entry
    raise UnknownNameError("model", name, list(entries))


def resolve(
    entry: ModelEntry,
    checkpoint: str | None = None,
    source: str = DEFAULT_SOURCE,
    *,
    access: HubAccess | None = None,
    progress: Progress | None = None,
    vision: bool = False,
) -> ResolvedCheckpoint:
    """Return the checkpoint that `--model`, `--checkpoint` and `--source` mean, on this machine's disk.

    `vision` is whether random weights shall have a vision tower; others have what they have.
    """
    if source not in source_names():
        raise UnknownNameError("source", source, source_names())
    if checkpoint == RANDOM:
        return _random(entry, progress, vision)
    if checkpoint is not None:
        return _local(Path(checkpoint))
    if entry.path is not None:
        return _local(entry.path)
    return _from_hub(entry, source, access or HubAccess())


def check_same_model(entry: ModelEntry, checkpoint: ResolvedCheckpoint) -> None:
    """Refuse a local checkpoint whose dimensions are not those of the model that was named."""
    named = parse_config(entry.config if entry.config is not None else read_config(_entry_path(entry)), entry.name)
    found = parse_config(read_config(checkpoint.path), str(checkpoint.path / "config.json"))
    differing = [field for field in _DIMENSIONS if getattr(named, field) != getattr(found, field)]
    if differing:
        field = differing[0]
        raise SpecError(
            f"--model {entry.name} has {field} {getattr(named, field)!r}, --checkpoint {checkpoint.path} has "
            f"{getattr(found, field)!r}; leave out --model, or name the model that the checkpoint is of"
        )


# a fine-tune may change its context length or untie its head; these make it another model
_DIMENSIONS = tuple(
    field
    for field in ModelConfig.__dataclass_fields__
    if field not in ("max_position_embeddings", "tie_word_embeddings", "rms_norm_eps", "rope_theta", "vocab_size")
)


def _parse_entry(name: str, file: Path) -> ModelEntry:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelEntryError(f"{file}: not valid JSON ({error}); restore it from the repository") from error
    known = {"hub_id", "modelscope_id", "revision", "config", "path", "image_grids"}
    if not isinstance(raw, dict) or set(raw) - known:
        extra = sorted(set(raw) - known) if isinstance(raw, dict) else type(raw).__name__
        raise ModelEntryError(f"{file}: unknown fields {extra}; known: {', '.join(sorted(known))}")
    grids = _grids(file, raw.pop("image_grids", None))
    if "path" in raw:
        return ModelEntry(name=name, path=file.parent / raw["path"], image_grids=grids)
    if not isinstance(raw.get("config"), dict):
        raise ModelEntryError(f"{file}: config is {raw.get('config')!r}; expected a copy of the model's config.json")
    for field, pattern in (("hub_id", REPOSITORY_ID), ("modelscope_id", REPOSITORY_ID), ("revision", REVISION)):
        if not isinstance(raw.get(field), str) or not pattern.fullmatch(raw[field]):
            raise ModelEntryError(f"{file}: {field} is {raw.get(field)!r}; expected {_EXPECTED[field]}")
    return ModelEntry(name=name, image_grids=grids, **raw)


def _grids(file: Path, raw: Any) -> tuple[tuple[int, int], ...] | None:
    if raw is None:
        return None
    grids = []
    for pair in raw if isinstance(raw, list) and raw else [raw]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
            raise ModelEntryError(f"{file}: image_grids holds {pair!r}; expected rows and columns of tokens, [8, 8]")
        grids.append((pair[0], pair[1]))
    return tuple(grids)


_EXPECTED = {
    "hub_id": "'owner/name'",
    "modelscope_id": "'owner/name'",
    "revision": "40 hexadecimal digits, since a branch changes under the reader",
}


def _local(path: Path) -> ResolvedCheckpoint:
    weights: Weights = "random" if path.is_dir() and MARK in read_config(path) else "trained"
    return ResolvedCheckpoint(path=path, hub_id=None, revision=None, source="local", weights=weights)


def _random(entry: ModelEntry, progress: Progress | None, vision: bool) -> ResolvedCheckpoint:
    config = entry.config if entry.config is not None else read_config(_entry_path(entry))
    fingerprint = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    directory = user_cache.directory("random") / f"{entry.name}-{'vision-' if vision else ''}{fingerprint}"
    write_random_checkpoint(directory, RandomSpec(config=config, vision=vision), progress)
    _write_tokenizer(entry, directory)
    return ResolvedCheckpoint(
        path=directory, hub_id=entry.hub_id, revision=entry.revision, source=RANDOM, weights="random"
    )


def _write_tokenizer(entry: ModelEntry, directory: Path) -> None:
    """Give random weights the tokenizer of their model: the one beside it, or Qwen's own."""
    if (directory / "tokenizer.json").is_file():
        return
    if entry.path is None:
        write_qwen_tokenizer(directory, CHAT_TEMPLATE.read_text(encoding="utf-8"))
        return
    for file in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        user_cache.write_atomically(directory / file, (entry.path / file).read_bytes())


def _entry_path(entry: ModelEntry) -> Path:
    if entry.path is None:
        raise ModelEntryError(f"model {entry.name!r} has neither a config nor a path; restore export/models")
    return entry.path


def _from_hub(entry: ModelEntry, source: str, access: HubAccess) -> ResolvedCheckpoint:
    hub = importlib.import_module(f"export.hubs.{source}")
    if entry.hub_id is None or entry.revision is None:
        raise ModelEntryError(f"model {entry.name!r} has no id on {source}; use --checkpoint PATH")
    repository = Repository(
        hub=source, repository_id=getattr(entry, hub.ID_FIELD), revision=hub.revision(entry.revision)
    )
    path = hub.cached(repository, access)
    if path is None or not _is_complete(path):
        path = hub.download(repository, access)
    if not _is_complete(path):
        raise PartialDownloadError(
            f"{source}: {repository.repository_id}: {path} lacks {_absent(path)} after the download; run again to "
            "resume, and if it stays, the repository is no checkpoint"
        )
    return ResolvedCheckpoint(
        path=path,
        hub_id=repository.repository_id,
        revision=repository.revision,
        source=source,
        weights="random" if MARK in read_config(path) else "trained",
    )


def _is_complete(path: Path) -> bool:
    return _absent(path) is None


def _absent(path: Path) -> str | None:
    """Name the first file that a downloaded checkpoint needs and does not have."""
    wanted = ["config.json", "tokenizer.json"]
    if not (path / SINGLE_FILE).exists():
        wanted.append(INDEX_FILE)
    absent = [file for file in wanted if not (path / file).exists()]
    if not absent and (path / INDEX_FILE).exists():
        absent = [file for file in _shards(path / INDEX_FILE) if not (path / file).exists()]
    return absent[0] if absent else None


def _shards(index: Path) -> list[str]:
    """Return the shards an index names; what is wrong with a malformed one is said when the checkpoint is opened."""
    try:
        return sorted({str(file) for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return []

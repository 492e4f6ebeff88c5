"""A checkpoint of real shapes with random weights: what time and memory are measured on where no weights can be had.

Each tensor has its own random stream, seeded by its name, so a file is reproducible whatever the order of writing and a
killed run goes on where it stopped. Weights come in blocks of rows: the peak is one block, not one tensor. Scales are
those of an untrained transformer except for `A_log` and `dt_bias`, which follow Mamba-2's initialization (Dao and Gu,
arXiv:2405.21060: step sizes log-uniform in [0.001, 0.1]): with transformers' own ones for `dt_bias` every head would
forget its state within a token, and nothing measured on it would notice a state that is lost.

The mark `"random_weights"` in config.json says what this is; it travels with the directory.
"""

import errno
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock

from export import user_cache
from export.checkpoint import INDEX_FILE, SINGLE_FILE
from export.config import parse_config
from export.errors import OutputError
from export.tensors import Shapes, mtp_tensors, text_tensors, vision_tensors

MARK = "random_weights"
RECIPE = 1  # raised when the same seed gives other bytes
SHARD_BYTES = 1_000_000_000
BLOCK_ELEMENTS = 1 << 20
DTYPE = torch.bfloat16
PARTIAL = ".partial"

Fill = Callable[[np.random.Generator, int], "np.ndarray[Any, np.dtype[np.float32]]"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class RandomSpec:
    """What to write: the raw config.json, and which parts beside the text model."""

    config: Mapping[str, Any]
    seed: int = 0
    vision: bool = False
    mtp: bool = False


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file to be: its name, its complete header, and its tensors in order."""

    name: str
    header: bytes
    shapes: Shapes

    @property
    def size_bytes(self) -> int:
        return len(self.header) + sum(_tensor_bytes(shape) for shape in self.shapes.values())


def random_shapes(spec: RandomSpec) -> Shapes:
    """Return the tensors that the checkpoint will hold, in the order of writing."""
    config = parse_config(spec.config)
    shapes = text_tensors(config)
    if spec.vision:
        shapes |= vision_tensors(spec.config["vision_config"])
    if spec.mtp:
        shapes |= mtp_tensors(config)
    return shapes


def write_random_checkpoint(directory: Path, spec: RandomSpec, progress: Progress | None = None) -> Path:
    """Write config.json and safetensors shards; finished shards of an earlier run are kept."""
    shards = _plan(random_shapes(spec), spec.seed)
    total_bytes = sum(shard.size_bytes for shard in shards)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock"):
            todo = [shard for shard in shards if not _is_complete(directory / shard.name, shard)]
            _check_space(directory, sum(shard.size_bytes for shard in todo))
            done_bytes = total_bytes - sum(shard.size_bytes for shard in todo)
            for shard in todo:
                done_bytes = _write_shard(directory, shard, spec.seed, _reporter(progress, done_bytes, total_bytes))
            _write_config_and_index(directory, spec, shards, total_bytes)
    except OSError as error:
        raise _output_error(directory, error) from error
    return directory


def random_tensor_blocks(name: str, shape: tuple[int, ...], seed: int) -> Iterator[torch.Tensor]:
    """Yield the tensor's values in order, flat, a block at a time."""
    stream = np.random.Generator(np.random.SFC64(_name_seed(name, seed)))
    fill = _fill_of(name)
    left = math.prod(shape)
    while left:
        count = min(left, BLOCK_ELEMENTS)
        yield torch.from_numpy(fill(stream, count)).to(DTYPE)
        left -= count


def _normal(mean: float, deviation: float) -> Fill:
    def fill(stream: np.random.Generator, count: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
        values = stream.standard_normal(count, dtype=np.float32)
        values *= np.float32(deviation)
        if mean:
            values += np.float32(mean)
        return values

    return fill


def _log_decay_rate(stream: np.random.Generator, count: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.log(stream.uniform(1, 16, count)).astype(np.float32)


def _step_bias(stream: np.random.Generator, count: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    step = np.exp(stream.uniform(math.log(1e-3), math.log(1e-1), count))
    return np.log(np.expm1(step)).astype(np.float32)  # softplus of it is `step`


# first match wins; the family's norms multiply by 1 + weight, GDN's gated norm and the vision tower's by weight
FILLS: tuple[tuple[str, Fill], ...] = (
    (".A_log", _log_decay_rate),
    (".dt_bias", _step_bias),
    (".conv1d.weight", _normal(0.0, 0.3)),  # four taps: 0.02 would starve what follows
    (".linear_attn.norm.weight", _normal(1.0, 0.02)),
    (".norm1.weight", _normal(1.0, 0.02)),
    (".norm2.weight", _normal(1.0, 0.02)),
    (".merger.norm.weight", _normal(1.0, 0.02)),
    ("", _normal(0.0, 0.02)),
)


def _fill_of(name: str) -> Fill:
    return next(fill for suffix, fill in FILLS if name.endswith(suffix))


def _name_seed(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{RECIPE}:{seed}:{name}".encode()).digest()[:16], "big")


def _tensor_bytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape) * DTYPE.itemsize


def _plan(shapes: Shapes, seed: int) -> list[Shard]:
    """Fill shards in order up to SHARD_BYTES; a larger tensor gets one of its own."""
    groups: list[Shapes] = [{}]
    used = 0
    for name, shape in shapes.items():
        size = _tensor_bytes(shape)
        if groups[-1] and used + size > SHARD_BYTES:
            groups.append({})
            used = 0
        groups[-1][name] = shape
        used += size
    count = len(groups)
    names = [SINGLE_FILE] if count == 1 else [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    return [
        Shard(name=name, header=_header(group, seed), shapes=group) for name, group in zip(names, groups, strict=True)
    ]


def _header(shapes: Shapes, seed: int) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", "weights": "random", "recipe": f"{RECIPE}:{seed}"}}
    offset = 0
    for name, shape in shapes.items():
        size = _tensor_bytes(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    return len(text).to_bytes(8, "little") + text


def _is_complete(path: Path, shard: Shard) -> bool:
    """A shard gets its name only when it is whole, so its header and length identify it."""
    if not path.is_file() or path.stat().st_size != shard.size_bytes:
        return False
    with path.open("rb") as file:
        return file.read(len(shard.header)) == shard.header


def _write_shard(directory: Path, shard: Shard, seed: int, report: Callable[[int], int]) -> int:
    partial = directory / (shard.name + PARTIAL)
    with partial.open("wb") as file:
        file.write(shard.header)
        done = report(len(shard.header))
        for name, shape in shard.shapes.items():
            done = _write_tensor(file, name, shape, seed, report)
    partial.replace(directory / shard.name)
    return done


def _write_tensor(file: BinaryIO, name: str, shape: tuple[int, ...], seed: int, report: Callable[[int], int]) -> int:
    done = 0
    for block in random_tensor_blocks(name, shape, seed):
        done = report(file.write(block.view(torch.uint8).numpy().data))
    return done


def _reporter(progress: Progress | None, done_bytes: int, total_bytes: int) -> Callable[[int], int]:
    """Return a function that adds written bytes, tells `progress`, and returns the sum so far."""
    done = done_bytes

    def report(count: int) -> int:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total_bytes)
        return done

    return report


def _write_config_and_index(directory: Path, spec: RandomSpec, shards: list[Shard], total_bytes: int) -> None:
    """Write what makes the directory a checkpoint, last: without it nobody opens the shards."""
    mark = {MARK: {"recipe": RECIPE, "seed": spec.seed, "vision": spec.vision, "mtp": spec.mtp}}
    user_cache.write_atomically(directory / "config.json", _json({**spec.config, **mark}))
    if len(shards) > 1:
        weight_map = {name: shard.name for shard in shards for name in shard.shapes}
        index = {"metadata": {"total_size": total_bytes - sum(len(shard.header) for shard in shards)}}
        user_cache.write_atomically(directory / INDEX_FILE, _json(index | {"weight_map": weight_map}))


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _check_space(directory: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(directory).free
    if needed_bytes > free_bytes:
        raise OutputError(
            f"{directory}: {needed_bytes} bytes of random weights do not fit, {free_bytes} are free; free some space "
            "or choose a smaller --model"
        )


def _output_error(directory: Path, error: OSError) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(f"{directory}: disk full; free some space and run again, finished shards are kept")
    return OutputError(f"{directory}: cannot write here ({error.strerror or error}); check its permissions")

"""The quantized checkpoint: codes and scales that know no backend, written block by block, read one tensor at a time.

Quantize once, pack per backend. The directory's name is the hash of everything that determines its content (checkpoint,
layout, method), one safetensors file per block (embedding, each layer, head), each put in place atomically: an
interrupted run resumes at the first block that is missing, and two runs at once do the same work without harm.

4-bit codes are stored two a byte, value + 8, even column in the low nibble; scales as bfloat16; floats as they came.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from export.checkpoint import Checkpoint
from export.config import ModelConfig
from export.errors import StoreError
from export.quantize import Codes
from export.schemes import Format, Layout
from export.shards import CODE_DTYPES, ShardError, TensorEntry, read_header, read_rows
from export.weights import Unit, block_of, plain_tensors, units

FORMAT_VERSION = "1"
ROWS_AT_ONCE = 4096
ABANDONED_SECONDS = 86_400  # longer than any block takes to write

Quantize = Callable[[Tensor, Format, Tensor | None], Codes]  # weight, its format, importance of its inputs
Progress = Callable[[str, int], None]  # block name, bytes of checkpoint read


@dataclass(frozen=True, kw_only=True)
class StoreKey:
    """What determines a quantized checkpoint's content; `calibration_hash` is empty for methods that use no data."""

    checkpoint_hash: str
    layout: Layout
    method: str
    calibration_hash: str = ""

    def digest(self) -> str:
        formats = {name: str(form) for name, form in sorted(self.layout.items())}
        text = json.dumps([FORMAT_VERSION, self.checkpoint_hash, self.method, self.calibration_hash, formats])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class QuantizedCheckpoint:
    """A complete quantized checkpoint on disk."""

    path: Path
    config: ModelConfig
    layout: Layout
    entries: Mapping[str, TensorEntry]

    def codes(self, unit: str, rows: slice | None = None) -> Tensor:
        """int8 codes (rows, in_features)."""
        stored = self._read(f"{unit}.codes", rows)
        return unpack_int4(stored) if self.layout[unit].bits == 4 else stored

    def packed(self, unit: str, rows: slice | None = None) -> Tensor:
        """Codes as stored: uint8 (rows, in_features / 2) for 4 bits, int8 (rows, in_features) for 8."""
        return self._read(f"{unit}.codes", rows)

    def scales(self, unit: str, rows: slice | None = None) -> Tensor:
        """float32 scales (rows, groups)."""
        return self._read(f"{unit}.scales", rows).float()

    def weight(self, unit: str, rows: slice | None = None) -> Tensor:
        """float32 weights (rows, in_features) of a unit whose format is float."""
        return self._read(f"{unit}.weight", rows).float()

    def plain(self, name: str) -> Tensor:
        """A tensor that no scheme quantizes, float32."""
        return self._read(name, None).float()

    def _read(self, name: str, rows: slice | None) -> Tensor:
        return read_rows(self.entries[name], rows, CODE_DTYPES)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A quantization method with what it learned from data: the importance of each unit's inputs, by unit name."""

    quantize: Quantize
    importance: Mapping[str, Tensor] = field(default_factory=dict)


def quantize_checkpoint(
    checkpoint: Checkpoint, config: ModelConfig, key: StoreKey, root: Path, method: Method, progress: Progress
) -> QuantizedCheckpoint:
    """Write the blocks that are not there yet and return the whole; peak memory follows the largest block's codes."""
    directory = root / key.digest()
    directory.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    for block, members in _blocks(config).items():
        file = directory / f"{block}.safetensors"
        if not _is_complete(file):
            _write_block(checkpoint, key.layout, file, members, method)
        progress(block, sum(_member_bytes(checkpoint, member) for member in members))
    return open_quantized(directory, config, key.layout)


def open_quantized(directory: Path, config: ModelConfig, layout: Layout) -> QuantizedCheckpoint:
    """Open a quantized checkpoint whose every block is on disk."""
    entries: dict[str, TensorEntry] = {}
    for block in _blocks(config):
        file = directory / f"{block}.safetensors"
        if not _is_complete(file):
            raise StoreError(f"{file}: missing or damaged; run the same export again, it resumes here")
        entries |= {entry.name: entry for entry in read_header(file)}
    return QuantizedCheckpoint(path=directory, config=config, layout=layout, entries=entries)


def unpack_int4(packed: Tensor) -> Tensor:
    """int8 codes (rows, columns) in -8..7 of uint8 pairs (rows, columns / 2)."""
    pairs = torch.stack([packed & 15, packed >> 4], dim=-1)  # even column in the low nibble
    return (pairs.to(torch.int8) - 8).flatten(-2)


def pack_int4(codes: Tensor) -> Tensor:
    """uint8 pairs (rows, columns / 2) of int8 codes in -8..7."""
    shifted = (codes + 8).to(torch.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


Member = Unit | tuple[str, str]  # a matrix, or (short name, canonical name) of a plain tensor


def _blocks(config: ModelConfig) -> dict[str, list[Member]]:
    blocks: dict[str, list[Member]] = {}
    for unit in units(config):
        blocks.setdefault(block_of(unit.name), []).append(unit)
    for name, canonical in plain_tensors(config).items():
        blocks.setdefault(block_of(name), []).append((name, canonical))
    return blocks


def _member_bytes(checkpoint: Checkpoint, member: Member) -> int:
    return checkpoint.entries[member.tensor if isinstance(member, Unit) else member[1]].size_bytes


def _is_complete(file: Path) -> bool:
    try:
        return file.is_file() and bool(read_header(file))
    except (ShardError, SafetensorError):
        return False


def _sweep(directory: Path) -> None:
    """Remove what killed runs left half-written; a younger part may be another run's."""
    for part in directory.glob(".*"):
        if part.is_file() and time.time() - part.stat().st_mtime > ABANDONED_SECONDS:
            part.unlink(missing_ok=True)


def _write_block(checkpoint: Checkpoint, layout: Layout, file: Path, members: list[Member], method: Method) -> None:
    tensors: dict[str, Tensor] = {}
    for member in members:
        if isinstance(member, Unit):
            tensors |= _quantized_unit(checkpoint, member, layout[member.name], method)
        else:
            tensors[member[0]] = checkpoint.read(member[1])
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".partial")
    os.close(descriptor)
    try:
        save_file(tensors, temporary)
        with Path(temporary).open("rb") as handle:
            os.fsync(handle.fileno())
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _quantized_unit(checkpoint: Checkpoint, unit: Unit, form: Format, method: Method) -> dict[str, Tensor]:
    if form.is_float:
        return {f"{unit.name}.weight": checkpoint.read(unit.tensor)}
    width = unit.in_features // (2 if form.bits == 4 else 1)
    codes = torch.empty(unit.out_features, width, dtype=torch.uint8 if form.bits == 4 else torch.int8)
    scales = torch.empty(unit.out_features, form.groups(unit.in_features), dtype=torch.bfloat16)
    for rows in _row_blocks(unit.out_features):
        weight = checkpoint.read(unit.tensor, rows).float()
        found = method.quantize(weight, form, method.importance.get(unit.name))
        codes[rows] = pack_int4(found.codes) if form.bits == 4 else found.codes
        scales[rows] = found.scales.to(torch.bfloat16)
    return {f"{unit.name}.codes": codes, f"{unit.name}.scales": scales}


def _row_blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, rows))

"""The quantized checkpoint: codes and scales that know no backend, written block by block, read one tensor at a time.

Quantize once, pack per backend. Each block (embedding, each layer, final norm, head) is a safetensors file under the
hash of everything that determines it, put in place atomically: an interrupted run resumes at the first block that is
missing, two runs at once do the same work without harm, and two layouts that differ in the head share their layers. A
quantized checkpoint is a directory of such files under other names (hard links), its own name the hash of all of it.

4-bit codes are stored two a byte, value + 8, even column in the low nibble; scales as bfloat16; floats as they came,
or as float32 where a method changed them.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from export.block_files import is_complete, write_block
from export.config import ModelConfig
from export.errors import StoreError
from export.operators import dequantize
from export.quantize import Codes
from export.schemes import Format, Layout
from export.shards import CODE_DTYPES, TensorEntry, read_header, read_rows
from export.weights import EMBEDDING, HEAD, block_of, plain_tensors, units

FORMAT_VERSION = "2"
BLOCKS = "blocks"  # beside the quantized checkpoints
ABANDONED_SECONDS = 86_400  # longer than any block takes to write


@dataclass(frozen=True, kw_only=True)
class StoreKey:
    """What determines a quantized checkpoint's content; `calibration_hash` is empty for methods that use no data."""

    checkpoint_hash: str
    layout: Layout
    method: str
    method_version: str = ""
    calibration_hash: str = ""

    def digest(self) -> str:
        """The name of the whole."""
        return self._digest("all", list(self.layout))

    def block_digest(self, block: str) -> str:
        """The name of one block's file: with calibration a layer depends on those before it, and the head on all."""
        found = [unit for unit in self.layout if block_of(unit) == block]
        if self.calibration_hash:
            found += [unit for unit in self.layout if self._reads_behind(block, block_of(unit))]
        return self._digest(block, found)

    def _reads_behind(self, block: str, other: str) -> bool:
        """Whether a block's codes were fitted to what an `other` layer put out."""
        if not other.startswith("layers."):
            return False
        if block.startswith("layers."):
            return _index(other) < _index(block)
        return block == (HEAD if HEAD in self.layout else EMBEDDING)

    def _digest(self, name: str, members: list[str]) -> str:
        formats = {unit: str(self.layout[unit]) for unit in sorted(members)}
        method = [self.method, self.method_version, self.calibration_hash]
        text = json.dumps([FORMAT_VERSION, self.checkpoint_hash, method, name, formats])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _index(name: str) -> int:
    """The layer of a block or unit."""
    return int(name.split(".")[1])


@dataclass(frozen=True, kw_only=True)
class QuantizedCheckpoint:
    """A complete quantized checkpoint on disk."""

    path: Path
    config: ModelConfig
    layout: Layout
    entries: Mapping[str, TensorEntry]
    cache_scales: Mapping[str, Tensor] = field(default_factory=dict)
    """Scales (1,) of an int8 KV cache, by name; measured after the weights were quantized (export/cache_scales.py)."""
    grids: Mapping[str, Tensor] = field(default_factory=dict)
    """Grids (2,) of static 8-bit activations, by name; measured last (export/static_grids.py)."""

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

    def factors(self, unit: str) -> tuple[Tensor, Tensor]:
        """By how much folds made rows (rows or 1, 1) and columns (1, in_features or 1) larger before rounding."""
        one = torch.ones(1, 1)
        rows, columns = (
            self._read(name, None) if name in self.entries else one for name in (f"{unit}.rows", f"{unit}.columns")
        )
        return rows, columns

    def weight(self, unit: str, rows: slice | None = None) -> Tensor:
        """float32 weights (rows, in_features) of a unit whose format is float."""
        return self._read(f"{unit}.weight", rows).float()

    def plain(self, name: str) -> Tensor:
        """A tensor that no scheme quantizes, float32."""
        for learned in (self.cache_scales, self.grids):
            if name in learned:
                return learned[name]
        return self._read(name, None).float()

    def tensor(self, name: str) -> Tensor:
        """Any matrix or plain tensor by its short name, float32: what its codes stand for."""
        if name not in self.layout:
            return self.plain(name)
        if self.layout[name].is_float:
            return self.weight(name)
        return dequantize(self.codes(name), self.scales(name))

    def _read(self, name: str, rows: slice | None) -> Tensor:
        return read_rows(self.entries[name], rows, CODE_DTYPES)


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where the blocks of one quantized checkpoint are, or will be."""

    root: Path
    key: StoreKey
    config: ModelConfig

    @property
    def directory(self) -> Path:
        return self.root / self.key.digest()

    def file(self, block: str) -> Path:
        return self.root / BLOCKS / f"{self.key.block_digest(block)}.safetensors"

    def prepare(self) -> None:
        """Make the directories, and remove what killed runs left half-written."""
        for directory in (self.directory, self.root / BLOCKS):
            directory.mkdir(parents=True, exist_ok=True)
            _sweep(directory)

    def has(self, block: str) -> bool:
        return is_complete(self.file(block))

    def put(self, block: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a block's file in one step."""
        write_block(self.file(block), tensors)

    def link(self, block: str) -> None:
        """Let the checkpoint's directory hold a block that is complete."""
        file, name = self.file(block), self.directory / f"{block}.safetensors"
        if name.exists() and name.samefile(file):
            return
        descriptor, temporary = tempfile.mkstemp(dir=self.directory, prefix=".", suffix=".partial")
        os.close(descriptor)
        Path(temporary).unlink()
        try:
            _link_or_copy(file, Path(temporary))
            Path(temporary).replace(name)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def tensors(self, block: str) -> dict[str, Tensor]:
        """A complete block's float32 tensors by unit and plain name: what its codes stand for."""
        entries = {entry.name: entry for entry in read_header(self.file(block))}
        opened = QuantizedCheckpoint(path=self.directory, config=self.config, layout=self.key.layout, entries=entries)
        return {name: opened.tensor(name) for name in members_of(self.config)[block]}


def open_quantized(directory: Path, config: ModelConfig, layout: Layout) -> QuantizedCheckpoint:
    """Open a quantized checkpoint whose every block is on disk."""
    entries: dict[str, TensorEntry] = {}
    for block in members_of(config):
        file = directory / f"{block}.safetensors"
        if not is_complete(file):
            raise StoreError(f"{file}: missing or damaged; run the same export again, it resumes here")
        entries |= {entry.name: entry for entry in read_header(file)}
    return QuantizedCheckpoint(path=directory, config=config, layout=layout, entries=entries)


def members_of(config: ModelConfig) -> dict[str, list[str]]:
    """Short names of matrices and plain tensors by block: layers first, then what stands around them."""
    names = [*(unit.name for unit in units(config)), *plain_tensors(config)]
    blocks: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: not name.startswith("layers.")):  # a stable sort
        blocks.setdefault(block_of(name), []).append(name)
    return blocks


def stored_codes(unit: str, form: Format, found: Codes) -> dict[str, Tensor]:
    """The tensors of a matrix as its block's file holds them."""
    codes = pack_int4(found.codes) if form.bits == 4 else found.codes
    return {f"{unit}.codes": codes.contiguous(), f"{unit}.scales": found.scales.to(torch.bfloat16).contiguous()}


def stored_factors(unit: str, rows: Tensor | None, columns: Tensor | None) -> dict[str, Tensor]:
    """The tensors that say what folds did to a matrix: `QuantizedCheckpoint.factors`."""
    given = {f"{unit}.rows": rows, f"{unit}.columns": columns}
    return {name: one.contiguous() for name, one in given.items() if one is not None}


def unpack_int4(packed: Tensor) -> Tensor:
    """int8 codes (rows, columns) in -8..7 of uint8 pairs (rows, columns / 2)."""
    pairs = torch.stack([packed & 15, packed >> 4], dim=-1)  # even column in the low nibble
    return (pairs.to(torch.int8) - 8).flatten(-2)


def pack_int4(codes: Tensor) -> Tensor:
    """uint8 pairs (rows, columns / 2) of int8 codes in -8..7."""
    shifted = (codes + 8).to(torch.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


def _link_or_copy(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # a file system without hard links: the same bytes twice
        shutil.copyfile(file, name)


def _sweep(directory: Path) -> None:
    """Remove what killed runs left half-written; a younger part may be another run's."""
    for part in directory.glob(".*"):
        if part.is_file() and time.time() - part.stat().st_mtime > ABANDONED_SECONDS:
            part.unlink(missing_ok=True)

"""One safetensors file: its header, checked, and its bytes, read without mapping the file.

Bytes are read into memory of their own instead of through `safetensors.safe_open`'s view: mapped pages count towards
the peak resident set, so a view would make an export's peak follow the whole shard. `safe_open` still judges the
header (overlapping offsets, holes, shapes against byte counts), since it is the format's own implementation.

Format: 8 bytes little-endian header length, a JSON object {name: {dtype, shape, data_offsets}}, then the data.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from export.errors import ExportError

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
CODE_DTYPES = DTYPES | {"U8": torch.uint8, "I8": torch.int8}
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself
FINITE_CHECK_ELEMENTS = 1 << 22


class CheckpointError(ExportError):
    """A checkpoint cannot be read, or does not hold what its config promises."""


class ShardError(CheckpointError):
    """A safetensors file is not what the format says."""


class TruncatedShardError(ShardError):
    """A safetensors file is shorter or longer than its header promises."""


class OversizedHeaderError(ShardError):
    """A safetensors header is longer than the format allows."""


class DuplicateTensorError(CheckpointError):
    """Two entries carry the same tensor name."""


class UnsupportedDtypeError(CheckpointError):
    """A tensor is stored in a type that cannot be quantized from."""


class NonFiniteTensorError(CheckpointError):
    """A tensor holds NaN or infinity."""


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies: `offset` counts from the start of `file`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


def read_header(path: Path) -> list[TensorEntry]:
    """Return the tensors of one safetensors file after checking its header against its length."""
    header, data_start = _load_header(path)
    entries = [_entry(path, name, fields, data_start) for name, fields in header.items() if name != "__metadata__"]
    _check_length(path, entries, data_start)
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise ShardError(f"{path}: not a valid safetensors file ({error}); download it again") from error
    return entries


def read_rows(
    entry: TensorEntry, rows: slice | None = None, dtypes: Mapping[str, torch.dtype] = DTYPES
) -> torch.Tensor:
    """Read a tensor, or a block of its rows, and refuse NaN and infinity."""
    if entry.dtype not in dtypes:
        raise UnsupportedDtypeError(
            f"{entry.name} in {entry.file}: stored as {entry.dtype}; only {', '.join(DTYPES)} can be read, "
            "so use the unquantized checkpoint"
        )
    shape, offset = _block(entry, rows)
    dtype = dtypes[entry.dtype]
    raw = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
    with entry.file.open("rb", buffering=0) as file:
        file.seek(offset)
        _read_exactly(file.fileno(), raw.numpy().data, entry)
    tensor = raw.view(dtype).reshape(shape)
    _check_finite(entry, tensor)
    return tensor


def _load_header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise TruncatedShardError(f"{path}: {len(prefix)} bytes, too short for a header; download it again")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise OversizedHeaderError(
                f"{path}: header of {length} bytes, more than the {MAX_HEADER_BYTES} that safetensors allows; "
                "this is not a safetensors file"
            )
        text = file.read(length)
    if len(text) < length:
        raise TruncatedShardError(f"{path}: header promises {length} bytes, found {len(text)}; download it again")
    return _parse_header(path, text), 8 + length


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DuplicateTensorError(f"{path}: {twice!r} stands twice in the header; write the file again")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: header is not valid JSON ({error}); download it again") from error
    if not isinstance(header, dict):
        raise ShardError(f"{path}: header is a {type(header).__name__}, expected an object; download it again")
    return header


def _entry(path: Path, name: str, fields: Any, data_start: int) -> TensorEntry:
    try:
        dtype, shape = fields["dtype"], tuple(int(size) for size in fields["shape"])
        begin, end = (int(offset) for offset in fields["data_offsets"])
    except (TypeError, KeyError, ValueError) as error:
        raise ShardError(
            f"{path}: header entry {name!r} is {fields!r}; expected dtype, shape and data_offsets"
        ) from error
    return TensorEntry(
        name=name, file=path, dtype=str(dtype), shape=shape, offset=data_start + begin, size_bytes=end - begin
    )


def _check_length(path: Path, entries: list[TensorEntry], data_start: int) -> None:
    expected = max((entry.offset + entry.size_bytes for entry in entries), default=data_start)
    found = path.stat().st_size
    if found != expected:
        raise TruncatedShardError(
            f"{path}: header promises {expected} bytes, found {found}; the download was cut off or the file changed, "
            "so fetch it again"
        )


def _block(entry: TensorEntry, rows: slice | None) -> tuple[tuple[int, ...], int]:
    """Return the shape and the file offset of the rows asked for."""
    if rows is None:
        return entry.shape, entry.offset
    if not entry.shape:
        raise ValueError(f"{entry.name}: a scalar has no rows")
    start, stop, step = rows.indices(entry.shape[0])
    if step != 1:
        raise ValueError(f"{entry.name}: rows are read in blocks, so the slice's step must be 1, not {step}")
    count = max(0, stop - start)
    row_bytes = entry.size_bytes // entry.shape[0] if entry.shape[0] else 0
    return (count, *entry.shape[1:]), entry.offset + start * row_bytes


def _read_exactly(descriptor: int, buffer: memoryview, entry: TensorEntry) -> None:
    done = 0
    while done < len(buffer):
        count = os.readv(descriptor, [buffer[done:]])
        if count == 0:
            raise TruncatedShardError(
                f"{entry.file}: ended inside {entry.name}; the file shrank since it was opened, so fetch it again"
            )
        done += count


def _check_finite(entry: TensorEntry, tensor: torch.Tensor) -> None:
    """Look for NaN and infinity by minimum and maximum, block by block: no temporary of the tensor's size."""
    blocks = [block for block in tensor.view(-1).split(FINITE_CHECK_ELEMENTS) if block.numel()]
    for block in blocks:
        if not torch.isfinite(torch.stack(torch.aminmax(block))).all():
            count = sum(int(part.isfinite().logical_not().sum()) for part in blocks)
            raise NonFiniteTensorError(
                f"{entry.name} in {entry.file}: {count} of {tensor.numel()} values are NaN or infinite; "
                "the checkpoint is damaged, so fetch or train it again"
            )

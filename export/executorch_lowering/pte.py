"""Write a `.pte`: the program's flatbuffer, an extended header, and segments of bytes streamed behind it.

ExecuTorch's own writer (exir/_serialize/_program.py) holds the whole file in memory, some of it twice; here each
segment goes to the file as it comes. A constant that shares its bytes with a delegate's weights is stored once: the
delegate's segment is a window into the constant segment. Nothing forbids that, and every reader checks ranges only, but
it is not documented either, so an export runs what it wrote (docs/design.md: nothing is trusted until it ran).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from executorch.exir import schema
from executorch.exir._serialize._flatbuffer_program import _program_to_flatbuffer
from executorch.exir._serialize._program import _ExtendedHeader, _insert_flatbuffer_header

from export.errors import LoweringError
from export.executorch_lowering.program import Constant, ProgramBuilder, Read, getter
from export.executorch_lowering.tensors import Value
from export.executorch_lowering.xnnpack import Blob
from export.mapped_file import write_in_pieces

ALIGNMENT = 128
SCHEMA_VERSION = 0

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Piece:
    """Bytes at an offset from the first segment."""

    offset: int
    num_bytes: int
    read: Read


@dataclass
class Segments:
    """The segments in file order; several may be windows into the same bytes."""

    places: list[schema.DataSegment] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    @property
    def end(self) -> int:
        return max((piece.offset + piece.num_bytes for piece in self.pieces), default=0)

    def add_piece(self, num_bytes: int, read: Read) -> int:
        """Reserve room for bytes; returns their offset."""
        offset = -(-self.end // ALIGNMENT) * ALIGNMENT
        self.pieces.append(Piece(offset, num_bytes, read))
        return offset

    def add_segment(self, num_bytes: int, read: Read) -> int:
        """Reserve room for a segment of its own; returns its index."""
        return self.add_window(self.add_piece(num_bytes, read), num_bytes)

    def add_window(self, offset: int, num_bytes: int) -> int:
        """A segment on bytes that are there already; returns its index."""
        self.places.append(schema.DataSegment(offset=offset, size=num_bytes))
        return len(self.places) - 1


@dataclass(frozen=True)
class Method:
    """A method of the file, built, and what it answers."""

    builder: ProgramBuilder
    output: Value


def write_pte(
    file: Path, methods: Sequence[Method], metadata: Mapping[str, Sequence[int | bool]], progress: Progress
) -> None:
    """Finish methods that share constants and named data, and write the file; equal inputs give equal bytes."""
    segments = Segments()
    delegates = []
    for method in methods:
        method.builder.finish(method.output)
        delegates.append([_add_payload(segments, region.serialize()) for region in method.builder.regions])
    first = methods[0].builder
    constants, shared = _add_constants(segments, first.constants)
    named = [
        schema.NamedData(
            key=blob.key,
            segment_index=segments.add_window(shared[blob], blob.num_bytes)
            if blob in shared
            else segments.add_segment(blob.num_bytes, read),
        )
        for blob, read in sorted(first.named.items(), key=lambda item: item[0].key)
    ]
    plans = [method.builder.plan(method.output, places) for method, places in zip(methods, delegates, strict=True)]
    program = schema.Program(
        version=SCHEMA_VERSION,
        execution_plan=[*plans, *(getter(name, numbers) for name, numbers in sorted(metadata.items()))],
        constant_buffer=[],
        backend_delegate_data=[],
        segments=segments.places,
        constant_segment=constants,
        mutable_data_segments=None,
        named_data=named,
    )
    write_program(file, program, segments, progress)


def write_program(file: Path, program: schema.Program, segments: Segments, progress: Progress) -> None:
    """Write a program and the segments that it names."""
    with file.open("wb") as handle:
        _write_header(handle, program, segments.end)
        for piece in segments.pieces:
            _write_piece(handle, piece)
            progress(file.name, piece.num_bytes)
        _pad(handle)


def _add_payload(segments: Segments, payload: bytes) -> int:
    return segments.add_segment(len(payload), lambda: np.frombuffer(payload, dtype=np.uint8))


def _add_constants(
    segments: Segments, constants: Sequence[Constant]
) -> tuple[schema.SubsegmentOffsets, dict[Blob, int]]:
    """One segment of all constant tensors, and where those lie that delegates read too."""
    offsets = [segments.add_piece(constant.num_bytes, constant.read) for constant in constants]
    start = offsets[0]
    index = segments.add_window(start, segments.end - start)
    shared = {constant.shared: offset for constant, offset in zip(constants, offsets, strict=True) if constant.shared}
    relative = [0, *(offset - start for offset in offsets)]  # the first entry stands for: not constant
    return schema.SubsegmentOffsets(segment_index=index, offsets=relative), shared


def _write_header(handle: BinaryIO, program: schema.Program, data_size: int) -> None:
    flatbuffer = _program_to_flatbuffer(program)
    header_length = -(-_ExtendedHeader.EXPECTED_LENGTH // flatbuffer.max_alignment) * flatbuffer.max_alignment
    program_size = header_length + len(flatbuffer.data)
    base = -(-program_size // ALIGNMENT) * ALIGNMENT
    header = _ExtendedHeader(
        program_size=program_size, segment_base_offset=base, segment_data_size=data_size
    ).to_bytes()
    padded = header + bytes(header_length - len(header))
    handle.write(_insert_flatbuffer_header(flatbuffer.data, r"ET[0-9a-zA-Z][0-9a-zA-Z]", padded))


def _write_piece(handle: BinaryIO, piece: Piece) -> None:
    _pad(handle)
    data = np.ascontiguousarray(piece.read())
    if data.nbytes != piece.num_bytes:
        raise LoweringError(f"executorch file: {data.nbytes} bytes came where {piece.num_bytes} were announced")
    write_in_pieces(handle, data.data)


def _pad(handle: BinaryIO) -> None:
    handle.write(bytes(-handle.tell() % ALIGNMENT))

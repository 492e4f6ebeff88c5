"""Write a `.pte`: the program's flatbuffer, an extended header, and segments of bytes streamed behind it.

ExecuTorch's own writer (exir/_serialize/_program.py) holds the whole file in memory, some of it twice; here each
segment goes to the file as it comes. A constant that shares its bytes with a delegate's weights is stored once: the
delegate's segment is a window into the constant segment. Nothing forbids that, and every reader checks ranges only, but
it is not documented either, so an export runs what it wrote (docs/design.md: nothing is trusted until it ran).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from executorch.exir import schema
from executorch.exir._serialize._flatbuffer_program import _program_to_flatbuffer
from executorch.exir._serialize._program import _ExtendedHeader, _insert_flatbuffer_header

from export.executorch_lowering.program import Constant, ProgramBuilder, getter
from export.executorch_lowering.tensors import Value

Segment = bytes | memoryview

SEGMENT_ALIGNMENT = 128
SCHEMA_VERSION = 0


def write_pte(
    file: Path,
    builder: ProgramBuilder,
    inputs: Sequence[Value],
    output: Value,
    metadata: Mapping[str, Sequence[int | bool]],
) -> None:
    """Finish the program and write the file; equal inputs give equal bytes."""
    segments: list[Segment] = []
    places: list[schema.DataSegment] = []
    segment_of = {}
    builder.finish(output)
    for index, region in enumerate(builder.regions):
        segment_of[region] = index
        _append(region.serialize(), segments, places)
    constants, shared = _append_constants(builder.constants, segments, places)
    named: list[schema.NamedData] = []
    for key, data in sorted(builder.named.items()):
        named.append(schema.NamedData(key=key, segment_index=len(places)))
        if key in shared:
            places.append(shared[key])
        else:
            _append(np.ascontiguousarray(data).data, segments, places)
    program = schema.Program(
        version=SCHEMA_VERSION,
        execution_plan=[
            builder.plan(inputs, [output], segment_of),
            *(getter(name, numbers) for name, numbers in sorted(metadata.items())),
        ],
        constant_buffer=[],
        backend_delegate_data=[],
        segments=places,
        constant_segment=constants,
        mutable_data_segments=None,
        named_data=named,
    )
    with file.open("wb") as handle:
        _write_header(handle, program, _end(places))
        _pad(handle)
        for segment in segments:
            handle.write(segment)
            _pad(handle)


def _append(data: Segment, segments: list[Segment], places: list[schema.DataSegment]) -> int:
    """Add a segment; returns its offset from the first one."""
    offset = _aligned(_end(places))
    places.append(schema.DataSegment(offset=offset, size=memoryview(data).nbytes))
    segments.append(data)
    return offset


def _append_constants(
    constants: Sequence[Constant], segments: list[Segment], places: list[schema.DataSegment]
) -> tuple[schema.SubsegmentOffsets, dict[str, schema.DataSegment]]:
    """One segment of all constant tensors; also where the shared ones are, by key."""
    index, offsets, shared = len(places), [0], {}
    start = _aligned(_end(places))
    end = start
    for constant in constants:
        data = np.ascontiguousarray(constant.data)
        end = _aligned(end)
        offsets.append(end - start)
        if constant.shared is not None:
            shared[constant.shared.key] = schema.DataSegment(offset=end, size=data.nbytes)
        segments.append(data.data)
        end += data.nbytes
    places.append(schema.DataSegment(offset=start, size=end - start))
    return schema.SubsegmentOffsets(segment_index=index, offsets=offsets), shared


def _write_header(handle: BinaryIO, program: schema.Program, data_size: int) -> None:
    flatbuffer = _program_to_flatbuffer(program)
    header_length = -(-_ExtendedHeader.EXPECTED_LENGTH // flatbuffer.max_alignment) * flatbuffer.max_alignment
    program_size = header_length + len(flatbuffer.data)
    header = _ExtendedHeader(
        program_size=program_size, segment_base_offset=_aligned(program_size), segment_data_size=data_size
    ).to_bytes()
    padded = header + bytes(header_length - len(header))
    handle.write(_insert_flatbuffer_header(flatbuffer.data, r"ET[0-9a-zA-Z][0-9a-zA-Z]", padded))


def _end(places: Sequence[schema.DataSegment]) -> int:
    return max((place.offset + place.size for place in places), default=0)


def _aligned(offset: int) -> int:
    return -(-offset // SEGMENT_ALIGNMENT) * SEGMENT_ALIGNMENT


def _pad(handle: BinaryIO) -> None:
    handle.write(bytes(-handle.tell() % SEGMENT_ALIGNMENT))

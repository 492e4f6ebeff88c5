"""Quantize a model block after block: each block sees what the quantized blocks before it really put out.

A generator: the caller stores each result as it comes, and may stop anywhere. In memory: one block, the hidden states
of all calibration tokens twice (float and real), and what the method needs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from export.blocks import Block, BlockModel, BlockResult, BlockTask, CurvatureSource, QuantizeBlock
from export.errors import QuantizationError
from export.operators import dequantize
from export.quantize import Codes
from export.schemes import Format

SEQUENCES_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Hidden states (N, T, C) before a block: the float model's where they are wanted, and the real ones."""

    float_inputs: Tensor | None
    real_inputs: Tensor


def some_sequences(tokens: Tensor, at_most: int | None) -> Tensor:
    """Sequences of `tokens` (N, T) spread evenly, of so many tokens at most; all of them for None."""
    count = len(tokens) if at_most is None else min(len(tokens), max(1, at_most // tokens.shape[1]))
    return tokens[[index * len(tokens) // count for index in range(count)]]


def start_streams(model: BlockModel, tokens: Tensor, embedding: Codes | None, *, with_float: bool) -> Streams:
    """What the first block reads of `tokens` (N, T); `embedding` are the table's codes, None where it stays float.

    `with_float` follows the float model too, a pass more over every block, which few methods need.
    """
    hidden = model.embed(tokens) if with_float else None
    real = model.embed(tokens) if embedding is None else _rows(embedding, tokens)
    return Streams(float_inputs=hidden, real_inputs=real)


def quantize_blocks(
    model: BlockModel,
    formats: Mapping[str, Format],
    quantize: QuantizeBlock,
    streams: Streams | None,
    curvature: CurvatureSource | None = None,
) -> Iterator[tuple[str, BlockResult]]:
    """Yield each block's name and result in order; without streams the method gets no data.

    `curvature` is for a method that needs gradients (export/curvature.py).
    """
    last = model.block_names[-1]
    for name in model.block_names:
        block = model.block(name)
        own = {unit: formats[unit] for unit in block.shapes}
        inputs = (None, None) if streams is None else (streams.float_inputs, streams.real_inputs)
        task = BlockTask(
            block=block,
            formats=own,
            float_inputs=inputs[0],
            real_inputs=inputs[1],
            curvature=curvature,
        )
        result = quantize(task)
        yield name, result
        if streams is not None and name != last:
            streams = advance(block, result, streams)


@torch.no_grad()
def advance(block: Block, result: BlockResult, streams: Streams) -> Streams:
    """The hidden states behind the block."""
    before = streams.float_inputs
    return Streams(
        float_inputs=None if before is None else run_block(block, before, None),
        real_inputs=run_block(block, streams.real_inputs, result_tensors(result)),
    )


@torch.no_grad()
def run_block(block: Block, hidden: Tensor, replaced: Mapping[str, Tensor] | None) -> Tensor:
    """A block over all sequences, a few at a time."""
    found = torch.empty_like(hidden)
    for start in range(0, hidden.shape[0], SEQUENCES_AT_ONCE):
        part = slice(start, start + SEQUENCES_AT_ONCE)
        found[part] = block.run(hidden[part], replaced)
        check_finite(block.name, found[part], start)
    return found


def check_finite(block: str, hidden: Tensor, first: int) -> None:
    """Refuse hidden states (n, T, C) that hold NaN or infinity; `first` is the number of their first sequence, from 0.

    Every later block would be fitted to nothing.
    """
    broken = [first + index + 1 for index, sequence in enumerate(hidden) if not bool(sequence.isfinite().all())]
    if broken:
        raise QuantizationError(
            f"{block}: sequence {broken[0]} of the calibration text comes out as NaN or infinity; leave that part of "
            "the text out, or see whether the checkpoint is damaged"
        )


def result_tensors(result: BlockResult) -> dict[str, Tensor]:
    """A block's result as the tensors that take the float ones' place."""
    return {unit: dequantize(found.codes, found.scales) for unit, found in result.codes.items()} | dict(result.floats)


def _rows(table: Codes, tokens: Tensor) -> Tensor:
    ids = tokens.flatten()
    return dequantize(table.codes[ids], table.scales[ids]).view(*tokens.shape, -1)

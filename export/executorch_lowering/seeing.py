"""Three methods instead of one where a model sees, named and called as ExecuTorch's MultimodalRunner does.

`vision_encoder` and `token_embedding` make rows, `text_decoder` reads them. That runner passes rows and their place in
the sequence and nothing else, a whole text or image at a time. So each row carries where it stands in four further
channels (image.py): time, height and width from the position at hand, and by how much more than one the next position
is on; for text all four are zero. By how much positions lag behind places is kept from call to call, and a call of any
length goes through the decoder in chunks, in a loop of the program.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from export.backends import LoweringRequest
from export.capture import capture, fake_tensors
from export.config import ModelConfig
from export.decoder import Activations, Decoder, Part, Recipe
from export.executorch_lowering.image import COORDINATES
from export.executorch_lowering.matrices import Buffer, Matrices
from export.executorch_lowering.program import ProgramBuilder, Slot
from export.executorch_lowering.state import kept_state
from export.executorch_lowering.tensors import Dynamic, Element, Value
from export.executorch_lowering.translate import INT64_MAX, Inputs, Prologue, Translation, single_or_chunk
from export.executorch_lowering.xnnpack import Weights
from export.operators import mrope_axes
from export.state import zero_state
from export.weights import EMBEDDING

EMBED_METHOD, DECODE_METHOD = "token_embedding", "text_decoder"
LAG = "position_lag"  # the state tensor with what positions lag behind places
LONGEST_SEGMENT = 2048  # tokens of one text for the stock runner; each takes memory in two methods


def segment_length(request: LoweringRequest) -> int:
    """Tokens that one call of `token_embedding` or `text_decoder` takes: any image, and texts of a usual length."""
    assert request.vision is not None
    images = request.vision.images
    return min(request.context_length, max(LONGEST_SEGMENT, images.max_pixels // images.factor**2))


def write_token_embedding(matrices: Matrices, request: LoweringRequest) -> Value:
    """Tokens int64 (1, T) to rows (1, T, hidden + 4) whose further channels are zero."""
    program = matrices.program
    tokens = program.input((1, Dynamic(segment_length(request))), Element.INT64)
    found = matrices.rows(tokens, Buffer("embed", Recipe(field="codes", parts=(Part(unit=EMBEDDING),))))
    rows = program.tensor((*found.shape[:-1], found.shape[-1] + COORDINATES))
    program.kernel("aten::constant_pad_nd", "out", [found, program.integers([0, COORDINATES]), 0.0], [rows])
    return rows


class _Embedded(nn.Module):
    """The decoder from embeddings on, its state as arguments."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, embeddings: Tensor, positions: Tensor, start: Tensor, state: list[Tensor]) -> tuple[Tensor]:
        logits, _ = self.decoder.run(embeddings, positions, start, state, last_only=True)
        return (logits,)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of `text_decoder`: its rows (1, T, hidden + 4), their places (1, T, 1), the first of them, and T."""

    rows: Value
    places: Value
    first: Slot
    total: Slot


def write_text_decoder(
    matrices: Matrices, request: LoweringRequest, activations: Activations, chunk: int
) -> tuple[Value, Inputs]:
    """Rows (1, T, hidden + 4) and the place of the first, int64 (1,), to logits after the last.

    `chunk` tokens go through the decoder at once.
    """
    program, config = matrices.program, request.config
    rows = program.input((1, Dynamic(segment_length(request)), config.hidden_size + COORDINATES), Element.FLOAT32)
    start = program.input((1,), Element.INT64)
    tensors, state = kept_state(program, request)
    lag = program.state(LAG, (1, 1, 1))
    call = _begun(program, request.context_length, rows, start)
    fixed = [value for value, tensor in zip(state, tensors, strict=True) if tensor.token_axis is None]
    program.clear_if(program.primitive("executorch_prim::eq", "Scalar", [call.first, 0]), [*fixed, lag])
    done = program.primitive("executorch_prim::mul", "Scalar", [call.total, 0])
    again = program.begin_loop()
    position = program.primitive("executorch_prim::add", "Scalar", [call.first, done])
    left = program.primitive("executorch_prim::sub", "Scalar", [call.total, done])
    count = program.primitive("executorch_prim::sym_min", "Scalar", [left, chunk])
    piece, here = (_cut(program, source, done, count, chunk) for source in (rows, call.places))
    angles, gained = _angles(program, config, piece, here, lag)
    cos, sin = (_by_kernel(program, name, angles) for name in ("cos", "sin"))
    is_single, masks = single_or_chunk(program, count)
    prologue = Prologue(position=position, is_single=is_single, cos=cos, sin=sin, masks=masks)
    embeddings = program.open_region().slice(piece, -1, 0, config.hidden_size)
    inputs = Inputs(sequence=embeddings, start=start, state=state, state_tensors=tensors)
    logits = _translated(matrices, request, activations, inputs, prologue, chunk)
    program.kernel("aten::sub", "out", [lag, gained, 1], [lag])
    program.assign(done, "executorch_prim::add", "Scalar", [done, count])
    program.end_loop(again, program.primitive("executorch_prim::ge", "Scalar", [done, call.total]))
    return logits, inputs


def _begun(program: ProgramBuilder, context_length: int, rows: Value, start: Value) -> Call:
    """What a call reads; one that would go past the context's end fails here, before any state changes."""
    first = program.primitive("aten::_local_scalar_dense", "", [start])
    total = program.primitive("aten::sym_size", "int", [rows, 1])
    every = program.constant(np.arange(context_length, dtype=np.float32).reshape(1, -1, 1), Element.FLOAT32)
    places = program.tensor((1, rows.shape[1], 1))
    program.kernel("aten::narrow_copy", "out", [every, 1, first, total], [places])
    return Call(rows=rows, places=places, first=first, total=total)


def _cut(program: ProgramBuilder, source: Value, start: Slot, count: Slot, most: int) -> Value:
    """Some tokens of (1, T, any)."""
    out = program.tensor((1, Dynamic(most), source.shape[2]))
    program.kernel("aten::narrow_copy", "out", [source, 1, start, count], [out])
    return out


def _by_kernel(program: ProgramBuilder, name: str, x: Value) -> Value:
    out = program.tensor(x.shape)
    program.kernel(f"aten::{name}", "out", [x], [out])
    return out


def _angles(program: ProgramBuilder, config: ModelConfig, piece: Value, here: Value, lag: Value) -> tuple[Value, Value]:
    """Angles (1, T, 1, rotary_dim / 2) of interleaved mRoPE, and what the positions gain on the places, (1, 1, 1)."""
    hidden = config.hidden_size
    more = program.open_region().slice(piece, -1, hidden + COORDINATES - 1, 1)
    summed, gained = program.tensor(more.shape), program.tensor((1, 1, 1))
    program.kernel("aten::cumsum", "out", [more, 1, None], [summed])
    program.kernel("aten::slice_copy", "Tensor_out", [summed, 1, -1, INT64_MAX, 1], [gained])
    region = program.open_region()
    running = region.add(region.subtract(here, lag), region.subtract(summed, more))
    positions = region.add(region.slice(piece, -1, hidden, COORDINATES - 1), running)
    turns = program.named_data(_frequencies(config))
    shape = (config.rotary_dim // 2, COORDINATES - 1)
    weights = Weights(shape=shape, bits=32, group_size=None, codes=turns, scales=None)
    angles = region.linear(positions, weights)
    return region.reshape(angles, (1, piece.shape[1], 1, shape[0])), gained


def _frequencies(config: ModelConfig) -> NDArray[np.float32]:
    """(rotary_dim / 2, 3): each frequency in the column of the axis that turns by it, zero in the others.

    A sum with one term that is not zero is exact, so this is the product that `export.decoder.rope_table` takes.
    """
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    frequencies = (1.0 / (config.rope_theta**exponents)).numpy()
    turns = np.zeros((frequencies.size, len(config.mrope_section)), dtype=np.float32)
    turns[np.arange(frequencies.size), mrope_axes(frequencies.size, config.mrope_section).numpy()] = frequencies
    return turns


def _translated(
    matrices: Matrices,
    request: LoweringRequest,
    activations: Activations,
    inputs: Inputs,
    prologue: Prologue,
    chunk: int,
) -> Value:
    length = Dim("tokens", min=1, max=chunk)
    with fake_tensors():
        decoder = Decoder(request.config, request.layout, request.context_length, activations)
        state = zero_state(request.config, request.context_length)
        embeddings, start = torch.zeros(1, 8, request.config.hidden_size), torch.zeros(1, dtype=torch.int64)
        args = (embeddings, torch.zeros(3, 1, 8, dtype=torch.int64), start, state)
        captured = capture(_Embedded(decoder), args, ({1: length}, {2: length}, None, [None] * len(state)))
    recipes = {f"decoder.{name}": recipe for name, recipe in decoder.recipes().items()}
    return Translation(matrices.program, matrices, inputs, prologue).run(captured, recipes)

"""The gated delta rule over a chunk of tokens in parallel, as one XNNPACK graph without weights that all layers call.

ExecuTorch's kernel, `llama::gated_delta_rule`, serves single tokens. For more it was measured and left: its chunked
path is plain loops (4 times the processor time of this graph at 64 tokens), and where the decay of any head is strong
it falls back to one token at a time on one thread for the whole call. Here decays enter only as exp of sums never
positive, so nothing overflows and there is no fallback.
"""

import numpy as np
from numpy.typing import NDArray

from export.executorch_lowering.tensors import Dynamic, Value
from export.executorch_lowering.xnnpack import Region

CHUNK = 64  # tokens of one parallel chunk: the longest call
LEVELS = tuple(2**level for level in range(CHUNK.bit_length() - 1))  # block sizes of the triangular inverse


def build_chunk(region: Region, heads: int, width: int) -> None:
    """From q, k, v (1, T, H, D), log_decay, beta (1, T, H), state (1, H, D, D) and masks to out (1, T, H, D) and state.

    The UT transform (arXiv 2406.06484 section 3); q is scaled and heads are repeated already.
    """
    tokens = Dynamic(CHUNK)
    rows, gates = (1, tokens, heads, width), (1, tokens, heads)
    masks = (len(LEVELS) + 2, tokens, tokens)
    inputs = [Value(shape=shape) for shape in (rows, rows, rows, gates, gates, (1, heads, width, width), masks)]
    for value in inputs:
        region.use(value)  # fixes their order among the call's arguments
    query, key, value = (region.reshape(region.transpose(x, (0, 2, 1, 3)), (heads, tokens, width)) for x in inputs[:3])
    log_decay, beta = inputs[3:5]
    state = region.reshape(inputs[5], (heads, width, width))
    lower, strict, *levels = [region.slice(inputs[6], 0, index, 1) for index in range(len(LEVELS) + 2)]
    steps = region.transpose(log_decay, (0, 2, 1))  # (1, H, T)
    strength = region.reshape(region.transpose(beta, (0, 2, 1)), (heads, tokens, 1))
    since_start = region.batch_product(steps, lower, transpose_right=True)
    to_end = region.batch_product(steps, strict)
    between = region.non_positive_part(
        region.subtract(
            region.reshape(since_start, (heads, tokens, 1)), region.reshape(since_start, (heads, 1, tokens))
        )
    )
    between = region.multiply(region.exponential(between), lower)  # (H, T, T): decay from s to t, 0 where s > t
    decayed = region.reshape(region.exponential(since_start), (heads, tokens, 1))
    overlap = region.multiply(region.batch_product(key, key, transpose_right=True), between)
    inverse = _unit_inverse(region, region.multiply(overlap, strength), lower, strict, levels)
    predicted = region.multiply(region.batch_product(key, state), decayed)
    target = region.multiply(region.subtract(value, predicted), strength)
    delta = region.batch_product(inverse, target)  # (H, T, V)
    attended = region.multiply(region.batch_product(query, key, transpose_right=True), between)
    found = region.multiply(region.batch_product(query, state), decayed)
    out = region.add(found, region.batch_product(attended, delta))
    kept = region.multiply(key, region.reshape(region.exponential(to_end), (heads, tokens, 1)))
    whole = region.add(region.slice(since_start, 2, 0, 1), region.slice(to_end, 2, 0, 1))
    decay = region.reshape(region.exponential(whole), (heads, 1, 1))
    written = region.batch_product(region.transpose(kept, (0, 2, 1)), delta)  # (H, D, D), key axis first
    new_state = region.add(region.multiply(state, decay), written)
    region.hand_out(region.transpose(region.reshape(out, (1, heads, tokens, width)), (0, 2, 1, 3)))
    region.hand_out(region.reshape(new_state, (1, heads, width, width)))


def masks() -> NDArray[np.float32]:
    """(2 + levels, C, C): t >= s; t > s; and for each block size the lower left quarter of every pair of blocks."""
    row, column = np.arange(CHUNK)[:, None], np.arange(CHUNK)[None, :]
    quarters = [
        (row // (2 * size) == column // (2 * size)) & (row % (2 * size) >= size) & (column % (2 * size) < size)
        for size in LEVELS
    ]
    return np.stack([row >= column, row > column, *quarters]).astype(np.float32)


def _unit_inverse(region: Region, system: Value, lower: Value, strict: Value, levels: list[Value]) -> Value:
    """(I + strictly lower part of `system`)^-1, by doubling blocks: X <- X - X B X with B the quarter below each pair.

    The same arithmetic as block forward substitution; the shorter product of powers of the matrix overflows where keys
    repeat.
    """
    first, *rest = levels
    inverse = region.subtract(region.subtract(lower, strict), region.multiply(system, first))
    for level in rest:
        below = region.batch_product(region.multiply(system, level), inverse)
        inverse = region.subtract(inverse, region.batch_product(inverse, below))
    return inverse

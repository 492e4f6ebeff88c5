"""The gated delta rule in float32: one step for decode, one parallel chunk for prefill (arXiv 2412.06464, 2406.06484).

A chunk inverts its unit triangular system by blocks, 4 by 4 and then pairs of blocks merged, as the Core ML lowering
does: a dozen products of whole matrices under masks, where Apple's composite `gated_delta_update` is a loop over the
tokens. In whole matrices: [[A, 0], [C, B]] has the inverse X - X C X, where X holds A's and B's inverses.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.coreai_lowering.arithmetic import (
    WIDE,
    add,
    concat,
    exp,
    heads_first,
    heads_last,
    matmul,
    mul,
    repeat_heads,
    reshape,
    rows,
    split,
    sub,
    transpose,
)
from export.coreai_lowering.graph import Value, constant, shape_of

Array = npt.NDArray[np.float32]
BASE = 4  # tokens of the smallest blocks, inverted by their series


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the rule reads: q (scaled), k (1, T, Hk, D), v (1, T, Hv, D), gates (1, T, Hv), state (1, Hv, Dk, Dv)."""

    q: Value
    k: Value
    v: Value
    log_decay: Value
    beta: Value
    state: Value


def one_step(step: Step) -> tuple[Value, Value]:
    """out (1, 1, Hv, Dv) and the new state of a single token."""
    q, k, v = _by_heads(step)  # (1, Hv, 1, D)
    heads, width = shape_of(v)[1], shape_of(k)[-1]
    decay = exp(reshape(step.log_decay, [1, heads, 1, 1]))
    beta = reshape(step.beta, [1, heads, 1, 1])
    reads = mul(matmul(concat([k, q], axis=2), step.state), decay)
    predicted, remembered = split(reads, [1, 1], axis=2)
    delta = mul(sub(v, predicted), beta)
    out = add(remembered, mul(matmul(q, transpose(k, [0, 1, 3, 2])), delta))
    state = add(mul(step.state, decay), mul(reshape(k, [1, heads, width, 1]), delta))
    return heads_last(out), state


def chunk(step: Step) -> tuple[Value, Value]:
    """out (1, T, Hv, Dv) and the new state of T tokens, T a power of two; one of beta 0, log decay 0 does nothing."""
    q, k, v = _by_heads(step)  # (1, Hv, T, D)
    tokens = shape_of(v)[2]
    log_decay, beta = _column(step.log_decay), _column(step.beta)  # (1, Hv, T, 1)
    sums = _matrix(np.tril(np.ones((tokens, tokens))))
    later = _matrix(np.tril(np.ones((tokens, tokens)), -1))
    # row i, column j: the log decays of j + 1 .. i added up; never a difference of sums from the start
    between = mul(exp(matmul(sums, mul(log_decay, later))), sums)
    from_start = exp(matmul(sums, log_decay))
    keys = transpose(k, [0, 1, 3, 2])
    system = mul(matmul(mul(k, beta), keys), between)
    reads = matmul(concat([k, q], axis=2), step.state)
    predicted, remembered = split(reads, [tokens, tokens], axis=2)
    target = mul(sub(v, mul(predicted, from_start)), beta)
    delta = matmul(invert_unit_lower(system), target)
    scores = mul(matmul(q, keys), between)
    out = add(mul(remembered, from_start), matmul(scores, delta))
    to_end = transpose(rows(between, tokens - 1, 1, axis=2), [0, 1, 3, 2])  # (1, Hv, T, 1)
    state = add(mul(step.state, rows(from_start, tokens - 1, 1, axis=2)), matmul(keys, mul(delta, to_end)))
    return heads_last(out), state


def invert_unit_lower(system: Value) -> Value:
    """The inverse of I + L (1, H, T, T), T a power of two, where L is what of `system` lies below the diagonal.

    Masks are whole constants: Core AI multiplies two that follow each other itself, and names what it makes at random.
    """
    tokens = shape_of(system)[-1]
    blocks = np.arange(tokens)
    negative = mul(system, _matrix(-np.tril(_same(blocks // BASE), -1)))
    inverse = add(_matrix(np.eye(tokens)), negative)
    # (I + N)(I + N^2), all of the series where N^4 is zero
    inverse = add(inverse, matmul(inverse, matmul(negative, negative)))
    size = BASE
    while size < tokens:
        coupling = mul(system, _matrix(np.tril(_same(blocks // (2 * size)) - _same(blocks // size), -1)))
        inverse = sub(inverse, matmul(inverse, matmul(coupling, inverse)))
        size *= 2
    return inverse


def _same(blocks: npt.NDArray[np.integer[Any]]) -> Array:
    """One where row and column lie in the same block."""
    found: Array = np.equal(blocks[:, None], blocks[None, :]).astype(np.float32)
    return found


def _matrix(array: npt.NDArray[np.floating[Any]]) -> Value:
    return constant(array.astype(WIDE)[None, None])


def _by_heads(step: Step) -> tuple[Value, Value, Value]:
    """q, k and v as (1, Hv, T, D), each key head before its value heads."""
    repeat = shape_of(step.v)[2] // shape_of(step.k)[2]
    return (
        repeat_heads(heads_first(step.q), repeat),
        repeat_heads(heads_first(step.k), repeat),
        heads_first(step.v),
    )


def _column(x: Value) -> Value:
    """(1, T, H) to (1, H, T, 1)."""
    _, tokens, heads = shape_of(x)
    return reshape(transpose(x, [0, 2, 1]), [1, heads, tokens, 1])

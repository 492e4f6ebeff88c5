"""The gated delta rule in float16: one step for decode, one parallel chunk for prefill (arXiv 2412.06464, 2406.06484).

The state is kept transposed, (1, H, Dv, Dk), so that every product reads it as it lies. Three things are done otherwise
than in 32 bits:

* A chunk's decays between two tokens are sums over the steps between them, not differences of sums from the start: a
  sum of 60 has steps of 0.03 in float16, which is 3 % of a factor.
* The unit triangular system is inverted by blocks, 4 by 4 and then pairs of blocks merged: repeated squaring of the
  whole overflows for keys that are alike. In whole matrices under masks: [[A, 0], [C, B]] has the inverse X - X C X,
  where X holds A's and B's inverses.
* A step adds to the state what changes, S (exp(g) - 1) + v k^T: a factor next to one would be rounded to a neighbour,
  and a head that forgets slowly would forget at a rate of its own.

The query's scale is left out: outputs are small numbers, and a norm follows that does not see a common factor.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 (the name that coremltools gives it everywhere)

from export.coreml_lowering.arithmetic import element_of, exp_minus_one, scaled
from export.coreml_lowering.weights import shared

Array = npt.NDArray[np.floating[Any]]
BASE = 4  # tokens of the smallest blocks, inverted by their series


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the rule reads: q, k (1, T, Hk, D), v (1, T, Hv, D), gates (1, T, Hv), state (1, Hv, Dv, Dk)."""

    q: Any
    k: Any
    v: Any
    log_decay: Any
    beta: Any
    state: Any


def one_step(step: Step) -> tuple[Any, Any]:
    """out (1, 1, Hv, Dv) and the new state of a single token."""
    q, k, v = _by_heads(step)  # (1, Hv, 1, D)
    heads = v.shape[1]
    log_decay = mb.reshape(x=step.log_decay, shape=[1, heads, 1, 1])
    beta = mb.reshape(x=step.beta, shape=[1, heads, 1, 1])
    decay = mb.exp(x=log_decay)
    reads = mb.mul(x=mb.matmul(x=mb.concat(values=[k, q], axis=2), y=step.state, transpose_y=True), y=decay)
    predicted, remembered = mb.split(x=reads, split_sizes=[1, 1], axis=2)
    delta = mb.mul(x=mb.sub(x=v, y=predicted), y=beta)
    match = mb.matmul(x=q, y=k, transpose_y=True)  # one rounding, where a sum of products would round each
    out = mb.add(x=remembered, y=mb.mul(x=match, y=delta))
    change = mb.add(
        x=mb.mul(x=step.state, y=exp_minus_one(log_decay, decay)), y=mb.matmul(x=delta, y=k, transpose_x=True)
    )
    return mb.reshape(x=out, shape=[1, 1, heads, v.shape[-1]]), mb.add(x=step.state, y=change)


def chunk(step: Step) -> tuple[Any, Any]:
    """out (1, T, Hv, Dv) and the new state of T tokens, T a power of two; one of beta 0, log decay 0 does nothing."""
    q, k, v = _by_heads(step)  # (1, Hv, T, D)
    tokens = v.shape[2]
    log_decay = _column(step.log_decay)  # (1, Hv, T, 1)
    beta = _column(step.beta)
    sums = _constant(np.tril(np.ones((tokens, tokens))), k)
    later = _constant(np.tril(np.ones((tokens, tokens)), -1), k)
    # row i, column j: the steps j + 1 .. i added up
    exponents = mb.matmul(x=sums, y=mb.mul(x=log_decay, y=later))
    between = mb.mul(x=mb.exp(x=exponents), y=sums)
    from_start = mb.exp(x=mb.matmul(x=sums, y=log_decay))
    system = mb.matmul(x=mb.mul(x=k, y=beta), y=k, transpose_y=True)
    inverse = invert_unit_lower(mb.mul(x=mb.mul(x=system, y=between), y=later))
    reads = mb.matmul(x=mb.concat(values=[k, q], axis=2), y=step.state, transpose_y=True)
    predicted, remembered = mb.split(x=reads, split_sizes=[tokens, tokens], axis=2)
    target = mb.mul(x=mb.sub(x=v, y=mb.mul(x=predicted, y=from_start)), y=beta)
    delta = mb.matmul(x=inverse, y=target)
    scores = mb.mul(x=mb.matmul(x=q, y=k, transpose_y=True), y=between)
    out = mb.add(x=mb.mul(x=remembered, y=from_start), y=mb.matmul(x=scores, y=delta))
    last = _rows(between, tokens - 1, 1)  # (1, Hv, 1, T): the decay from each token to the end
    weighted = mb.mul(x=delta, y=mb.transpose(x=last, perm=[0, 1, 3, 2]))
    state = mb.add(
        x=mb.mul(x=step.state, y=_rows(from_start, tokens - 1, 1)), y=mb.matmul(x=weighted, y=k, transpose_x=True)
    )
    return mb.transpose(x=out, perm=[0, 2, 1, 3]), state


def invert_unit_lower(system: Any) -> Any:
    """The inverse of I + L for strictly lower triangular L (1, H, T, T), T a power of two."""
    tokens = system.shape[-1]
    blocks = np.arange(tokens)
    near = _constant(_same(blocks // BASE), system)
    negative = scaled(mb.mul(x=system, y=near), -1.0)
    square = mb.matmul(x=negative, y=negative)
    inverse = mb.add(x=_constant(np.eye(tokens), system), y=negative)
    # (I + N)(I + N^2), all of the series where N^4 is zero
    inverse = mb.add(x=inverse, y=mb.matmul(x=inverse, y=square))
    size = BASE
    while size < tokens:
        pairs = _same(blocks // (2 * size)) - _same(blocks // size)
        coupling = mb.mul(x=system, y=_constant(pairs, system))
        inverse = mb.sub(x=inverse, y=mb.matmul(x=inverse, y=mb.matmul(x=coupling, y=inverse)))
        size *= 2
    return inverse


def _same(blocks: npt.NDArray[np.integer[Any]]) -> Array:
    """One where row and column lie in the same block."""
    found: Array = np.equal(blocks[:, None], blocks[None, :]).astype(np.float16)
    return found


def _constant(array: Array, like: Any) -> Any:
    """A matrix (1, 1, T, T) of another value's type."""
    return shared(array.astype(element_of(like))[None, None])


def _by_heads(step: Step) -> tuple[Any, Any, Any]:
    """q, k and v as (1, Hv, T, D), each key head before its value heads."""
    repeat = step.v.shape[2] // step.k.shape[2]
    q, k = (_repeated(_heads_first(x), repeat) for x in (step.q, step.k))
    return q, k, _heads_first(step.v)


def _heads_first(x: Any) -> Any:
    if x.shape[1] == 1:
        return mb.reshape(x=x, shape=[1, x.shape[2], 1, x.shape[3]])
    return mb.transpose(x=x, perm=[0, 2, 1, 3])


def _repeated(x: Any, repeat: int) -> Any:
    """Each head `repeat` times, its copies neighbours."""
    if repeat == 1:
        return x
    _, heads, tokens, width = x.shape
    copies = mb.concat(values=[mb.expand_dims(x=x, axes=[2])] * repeat, axis=2)
    return mb.reshape(x=copies, shape=[1, heads * repeat, tokens, width])


def _column(x: Any) -> Any:
    """(1, T, H) to (1, H, T, 1)."""
    return mb.expand_dims(x=mb.transpose(x=x, perm=[0, 2, 1]), axes=[-1])


def _rows(x: Any, start: int, count: int) -> Any:
    """Some rows of (1, H, T, W)."""
    return mb.slice_by_size(x=x, begin=[0, 0, start, 0], size=[1, x.shape[1], count, x.shape[3]])

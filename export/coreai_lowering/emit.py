"""What each operator of the captured decoder becomes in a Core AI function.

A function takes a fixed number of tokens. With more than one, some at the end may be padding: they get no weight in the
recurrent state (beta 0, decay 1), the convolution's state is read where the sequence ends, and the logits are those of
the last token that counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from coreai._compiler.dialects import coreai
from torch import fx

from export.coreai_lowering import arithmetic as math
from export.coreai_lowering import delta
from export.coreai_lowering.arithmetic import WIDE
from export.coreai_lowering.graph import Value, constant, shape_of, zeros
from export.coreai_lowering.state import FileState
from export.coreai_lowering.weights import Matrix, Weight, Weights
from export.errors import LoweringError
from export.operators import mrope_axes

MASKED = -3e4  # a score behind the sequence: exp of it is zero beside any other, and no difference of two is NaN


@dataclass(kw_only=True)
class Emitter:
    """One function under construction: its inputs by name, and what several operators of it share.

    `element` is the type of the products of matrices.
    """

    tokens: int
    context_length: int
    element: str
    inputs: Mapping[str, Value]
    weights: Weights
    image_token_id: int | None = None  # where images may stand between the tokens
    new_states: dict[str, Value] = field(default_factory=dict)
    placed: dict[str, Value] = field(default_factory=dict)
    masks: dict[int, Value] = field(default_factory=dict)

    @property
    def is_step(self) -> bool:
        return self.tokens == 1

    @cached_property
    def positions(self) -> Value:
        """int32 (T,): where each token stands."""
        return math.add(constant(np.arange(self.tokens, dtype=np.int32)), self.inputs["position"])

    @cached_property
    def counts(self) -> Value:
        """float32 (1, T, 1): one for a token that counts, zero for padding."""
        order = constant(np.arange(self.tokens, dtype=np.int32))
        found = math.cast_bool(coreai.broadcasting_greater(self.inputs["length"], order), WIDE)
        return math.reshape(found, [1, self.tokens, 1])

    def mask(self, repeat: int) -> Value:
        """float32 (repeat T, S): what is added to the scores of each slot, `repeat` times over."""
        if repeat not in self.masks:
            slots = constant(np.arange(self.context_length, dtype=np.int32).reshape(1, -1))
            behind = coreai.broadcasting_greater(slots, math.reshape(self.positions, [self.tokens, 1]))
            once = math.mul(math.cast_bool(behind, WIDE), MASKED)
            self.masks[repeat] = math.concat([once] * repeat, axis=0)
        return self.masks[repeat]

    def last_token(self, x: Value) -> Value:
        """(1, T, ...) to (1, 1, ...): the last token that counts."""
        if self.is_step:
            return x
        rest = shape_of(x)[2:]
        index = math.reshape(math.sub(self.inputs["length"], constant(np.array([1], np.int32))), [1, 1])
        found = coreai.gather_nd(math.reshape(x, [self.tokens, prod(rest)]), index)
        return math.reshape(found, [1, 1, *rest])

    def plain(self, weight: Weight) -> Value:
        """A weight as it is stored."""
        if weight.name not in self.placed:
            self.placed[weight.name] = self.weights.value(weight)
        return self.placed[weight.name]

    def matrix(self, matrix: Matrix) -> Value:
        """(out, in, 1, 1), decompressed by Core AI where the asset holds codes."""
        name = f"{matrix.values.name}_dense"
        if name not in self.placed:
            values = self.plain(matrix.values)
            if matrix.scales is not None:
                values = self.decompressed(matrix, values, self.plain(matrix.scales))
            elif matrix.tables is not None:
                values = coreai.lut_to_dense(values, self.plain(matrix.tables), np.array(0, np.int16))
            self.placed[name] = values
        return self.placed[name]

    def decompressed(self, matrix: Matrix, codes: Value, scales: Value) -> Value:
        """Codes (..., in, 1, 1) times scales (..., groups, 1, 1)."""
        shape = shape_of(scales)
        return coreai.blockwise_shift_scale(
            codes, scales, zeros(shape, matrix.values.element), zeros(shape, self.element)
        )

    def product(self, x: Value, matrix: Matrix) -> Value:
        """x (1, T, in) times a matrix, in `element`; float32 in and out."""
        _, tokens, width = shape_of(x)
        image = math.reshape(math.transpose(math.cast(x, self.element), [0, 2, 1]), [1, width, 1, tokens])
        found = coreai.conv2d(image, self.matrix(matrix), [1, 1], [1, 1], 1)  # (1, out, 1, T)
        return math.cast(math.transpose(math.reshape(found, [1, shape_of(found)[1], tokens]), [0, 2, 1]), WIDE)

    def table_rows(self, matrix: Matrix, ids: Value) -> Value:
        """Rows of a table, float32 (1, T, in): codes and scales are gathered, and only then decompressed."""
        index = math.reshape(ids, [1, self.tokens, 1])
        if matrix.tables is not None:
            raise LoweringError(f"coreai: {matrix.values.name} is an embedding in tables; use 8 or 4 bits for it")
        found = [coreai.gather_nd(self.plain(part), index) for part in matrix.parts]
        values = found[0] if matrix.scales is None else self.decompressed(matrix, found[0], found[1])
        rows = math.cast(math.reshape(values, [1, self.tokens, shape_of(values)[2]]), WIDE)
        return rows if self.image_token_id is None else self.with_images(rows, ids, self.image_token_id)

    def with_images(self, rows: Value, ids: Value, image_token_id: int) -> Value:
        """Embeddings (1, T, hidden) with image features in the places of image tokens."""
        found = coreai.broadcasting_equal(ids, constant(np.array(image_token_id, np.int32)))
        is_image = math.reshape(math.cast_bool(found, WIDE), [1, self.tokens, 1])
        is_text = math.add(math.mul(is_image, -1.0), 1.0)
        return math.add(math.mul(rows, is_text), math.mul(self.inputs["image_features"], is_image))

    def write(self, state: FileState, value: Value) -> Value:
        """Keep a state's new value."""
        self.new_states[state.name] = math.cast(value, state.element)
        return self.new_states[state.name]


Emit = Callable[[Emitter, list[Any], fx.Node], Any]


def call(emitter: Emitter, node: fx.Node, args: list[Any]) -> Any:
    """Emit one node of the captured graph; `args` are its arguments with nodes replaced by what stands for them."""
    if getattr(node.target, "__name__", "") == "getitem":
        return args[0][args[1]]
    if node.target not in TABLE:
        known = ", ".join(sorted(str(target) for target in TABLE))
        raise LoweringError(
            f"coreai: the captured graph holds {node.target} at {node.name}, which no table lowers; known: {known}"
        )
    return TABLE[node.target](emitter, args, node)


def _unflatten(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001 (every operator's signature)
    x, axis, sizes = args
    shape = shape_of(x)
    if axis not in (-1, len(shape) - 1):
        raise LoweringError(f"coreai: {node.name} splits axis {axis}; only the last is lowered")
    return math.reshape(x, [*shape[:-1], *sizes])


def _flatten(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, start = args[0], args[1]
    if len(args) > 2 and args[2] != -1:
        raise LoweringError(f"coreai: {node.name} merges up to axis {args[2]}; only up to the last is lowered")
    shape = shape_of(x)
    return math.reshape(x, [*shape[:start], prod(shape[start:])])


def _split(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, sizes, *axis = args
    return math.split(x, sizes, (axis[0] if axis else 0) % len(shape_of(x)))


def _slice(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:
    x, axis, start = args[:3]
    if (axis, start) != (1, -1):
        raise LoweringError(f"coreai: {node.name} slices axis {axis} from {start}; only the last token is lowered")
    return emitter.last_token(x)


def _linear(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return emitter.product(args[0], args[1])


def _float_embedding(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return emitter.table_rows(args[0], args[1])


def _embedding(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return emitter.table_rows(args[1], args[0])


def _rms_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, weight, eps = args
    return math.rms_norm(x, emitter.plain(weight), eps)


def _add_rms_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, residual, weight, eps = args
    total = math.add(x, residual)
    return math.rms_norm(total, emitter.plain(weight), eps), total


def _gated_rms_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, gate, weight, eps = args
    return math.mul(math.rms_norm(x, emitter.plain(weight), eps), math.silu(gate))


def _l2_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return math.l2_norm(args[0], args[1])


def _delta_gate(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    a, b, decay_scale, dt_bias = args
    log_decay = math.mul(math.softplus(math.add(a, emitter.plain(dt_bias))), emitter.plain(decay_scale))
    beta = math.sigmoid(b)
    if emitter.is_step:
        return log_decay, beta
    return math.mul(log_decay, emitter.counts), math.mul(beta, emitter.counts)


def _gated_delta(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    q, k, v, log_decay, beta, state, scale = args
    step = delta.Step(q=math.mul(q, scale), k=k, v=v, log_decay=log_decay, beta=beta, state=emitter.inputs[state.name])
    out, new = delta.one_step(step) if emitter.is_step else delta.chunk(step)
    return out, emitter.write(state, new)


def _causal_conv(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    """As many multiplications as the kernel is wide, time first; the state holds the inputs before this call's."""
    x, weight, state = args
    kept, channels = state.shape[1:]
    joined = math.concat([emitter.inputs[state.name], math.cast(x, state.element)], axis=1)  # (1, kept + T, C)
    wide = math.cast(joined, WIDE)
    taps = [emitter.plain(tap) for tap in weight.rows]  # (1, C) each
    out = math.mul(math.rows(wide, 0, emitter.tokens, axis=1), taps[0])
    for tap in range(1, kept + 1):
        out = math.add(out, math.mul(math.rows(wide, tap, emitter.tokens, axis=1), taps[tap]))
    if emitter.is_step:
        last = math.rows(joined, 1, kept, axis=1)
    else:
        index = math.add(constant(np.arange(kept, dtype=np.int32)), emitter.inputs["length"])
        last = coreai.gather_nd(
            math.reshape(joined, [kept + emitter.tokens, channels]), math.reshape(index, [1, kept, 1])
        )
    return math.silu(out), emitter.write(state, last)


def _attention(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    q, k, v, k_state, v_state, _, scale = args
    _, tokens, heads, width = shape_of(q)
    kv_heads = shape_of(k)[2]
    keys, values = (_cached(emitter, state, rows) for state, rows in ((k_state, k), (v_state, v)))
    repeat = heads // kv_heads
    # query heads of one key head are neighbours: their rows become more rows of one product
    rows = math.reshape(math.heads_first(math.mul(q, scale)), [1, kv_heads, repeat * tokens, width])
    scores = math.matmul(rows, math.transpose(math.cast(keys, WIDE), [0, 1, 3, 2]))
    weights = math.softmax(math.add(math.cast(scores, WIDE), emitter.mask(repeat)))
    out = math.matmul(weights, math.cast(values, WIDE))
    out = math.reshape(math.cast(out, WIDE), [1, heads, tokens, width])
    return math.heads_last(out), None, None


def _cached(emitter: Emitter, state: FileState, rows: Value) -> Value:
    """A cache (1, Hkv, S, D) with this call's rows (1, T, Hkv, D) in their places."""
    one, heads, _, width = state.shape
    position = emitter.inputs["position"]
    end = math.add(position, constant(np.array([emitter.tokens], np.int32)))
    zero = constant(np.zeros(1, np.int32))
    sizes = {size: constant(np.array([size], np.int32)) for size in (one, heads, width)}
    updated = coreai.slice_update(
        emitter.inputs[state.name],
        math.concat([zero, zero, position, zero], axis=0),
        math.concat([sizes[one], sizes[heads], end, sizes[width]], axis=0),
        np.ones(4, np.int32),
        math.cast(math.heads_first(rows), state.element),
    )
    return emitter.write(state, updated)


def _rotary(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    """Text has one position for time, height and width, so mRoPE turns every frequency by the same row."""
    x, _, cos_table, sin_table, sections = args
    half, width = cos_table.shape[-1], shape_of(x)[-1]
    cos, sin = (_rope_rows(emitter, table, sections) for table in (cos_table, sin_table))
    first, second, *rest = math.split(x, [size for size in (half, half, width - 2 * half) if size], axis=3)
    turned = (
        math.sub(math.mul(first, cos), math.mul(second, sin)),
        math.add(math.mul(second, cos), math.mul(first, sin)),
    )
    return math.concat([*turned, *rest], axis=3)


def _rope_rows(emitter: Emitter, table: Weight, sections: list[int]) -> Value:
    """The table's rows for this call's positions: float32 (1, T, 1, R)."""
    name = f"{table.name}_rows"
    if name not in emitter.placed:
        if emitter.image_token_id is None:
            found = coreai.gather_nd(emitter.plain(table), math.reshape(emitter.positions, [emitter.tokens, 1]))
        else:  # each frequency by the row of its own axis: products with ones and zeros are exact
            index = math.reshape(emitter.inputs["position_ids"], [3, emitter.tokens, 1])
            rows = coreai.gather_nd(emitter.plain(table), index)  # (3, T, R)
            axes = mrope_axes(table.shape[-1], sections).numpy()
            chosen = constant((np.arange(3)[:, None, None] == axes).astype(np.float32))
            found = coreai.reduce_sum(math.mul(rows, chosen), np.array([0], np.int32))
        emitter.placed[name] = math.reshape(found, [1, emitter.tokens, 1, table.shape[-1]])
    return emitter.placed[name]


def _swiglu(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return math.mul(math.silu(args[0]), args[1])


def _sigmoid_gate(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return math.mul(args[0], math.sigmoid(args[1]))


TABLE: dict[Any, Emit] = {
    torch.ops.aten.unflatten.int: _unflatten,
    torch.ops.aten.flatten.using_ints: _flatten,
    torch.ops.aten.split_with_sizes.default: _split,
    torch.ops.aten.slice.Tensor: _slice,
    torch.ops.aten.linear.default: _linear,
    torch.ops.aten.embedding.default: _float_embedding,
    torch.ops.edge.linear.default: _linear,
    torch.ops.edge.embedding.default: _embedding,
    torch.ops.edge.rms_norm.default: _rms_norm,
    torch.ops.edge.add_rms_norm.default: _add_rms_norm,
    torch.ops.edge.gated_rms_norm.default: _gated_rms_norm,
    torch.ops.edge.l2_norm.default: _l2_norm,
    torch.ops.edge.delta_gate.default: _delta_gate,
    torch.ops.edge.gated_delta.default: _gated_delta,
    torch.ops.edge.causal_conv.default: _causal_conv,
    torch.ops.edge.attention.default: _attention,
    torch.ops.edge.rotary.default: _rotary,
    torch.ops.edge.swiglu.default: _swiglu,
    torch.ops.edge.sigmoid_gate.default: _sigmoid_gate,
}

"""What each operator of the captured decoder becomes in a Core ML program.

A function of the program takes a fixed number of tokens. With more than one, some at the end may be padding: they get
no weight in the recurrent state (beta 0, decay 1), the convolution's state is read where the sequence ends, and the
logits are those of the last token that counts. Choosing by a count that only the call knows is done by products with
zeros and ones, which are exact, since slices at places that the compiler does not know are slow on the Neural Engine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 (the name that coremltools gives it everywhere)
from torch import fx

from export.coreml_lowering import arithmetic, delta
from export.coreml_lowering.state import CONV_WIDTH, FileState
from export.coreml_lowering.weights import Weight, shared
from export.errors import LoweringError
from export.operators import mrope_axes

Element = Literal["float16", "float32"]
MASKED = -3e4  # added to scores of slots behind the sequence; -inf would make NaN of a difference, and 65504 is near
SMALL_OUTPUTS = 4.0  # what a linear attention's outputs are multiplied by before their norm


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A weight matrix (out, in): one float tensor, codes with scales (out, groups), or codes with tables.

    `tables` (runs of rows, 1, 16, 1) hold what each code stands for.
    """

    values: Weight
    scales: Weight | None = None
    tables: Weight | None = None


@dataclass(kw_only=True)
class Emitter:
    """One function under construction: its inputs by name, and what several operators of it share."""

    tokens: int
    context_length: int
    inputs: Mapping[str, Any]
    element: Element = "float16"  # of everything that is computed; states are float16
    clears_states: bool = False  # at position 0, for a runtime that cannot
    image_token_id: int | None = None  # where images may stand between the tokens
    outputs: dict[str, Any] = field(default_factory=dict)
    dense: dict[str, Any] = field(default_factory=dict)
    repeated_masks: dict[int, Any] = field(default_factory=dict)
    owed: dict[Any, float] = field(default_factory=dict)  # by value, the factor that it should have been multiplied by

    @property
    def is_step(self) -> bool:
        return self.tokens == 1

    @property
    def is_exact(self) -> bool:
        """Whether more is computed than a state can hold."""
        return self.element == "float32"

    @property
    def short_name(self) -> str:
        """What a program calls its element type."""
        return {"float16": "fp16", "float32": "fp32"}[self.element]

    @cached_property
    def positions(self) -> Any:
        """int32 (T,): where each token stands."""
        return mb.add(x=np.arange(self.tokens, dtype=np.int32), y=self.inputs["position"])

    @cached_property
    def counts(self) -> Any:
        """(1, T, 1): one for a token that counts, zero for padding."""
        found = mb.less(x=np.arange(self.tokens, dtype=np.int32).reshape(1, -1, 1), y=self.inputs["length"])
        return mb.cast(x=found, dtype=self.short_name)

    @cached_property
    def last(self) -> Any:
        """(1, 1, T): one at the last token that counts."""
        ends = np.arange(1, self.tokens + 1, dtype=np.int32).reshape(1, 1, -1)
        return mb.cast(x=mb.equal(x=ends, y=self.inputs["length"]), dtype=self.short_name)

    @cached_property
    def end_window(self) -> Any:
        """(1, CONV_WIDTH + T, CONV_WIDTH): takes the columns that end with the last token that counts."""
        rows, columns = np.arange(CONV_WIDTH + self.tokens), np.arange(CONV_WIDTH)
        offset = (rows[:, None] - columns[None, :]).astype(np.int32)
        return mb.cast(x=mb.equal(x=offset[None], y=self.inputs["length"]), dtype=self.short_name)

    def mask(self, repeat: int) -> Any:
        """(repeat T, S): what is added to the scores of each slot, `repeat` times over."""
        if repeat not in self.repeated_masks:
            slots = np.arange(self.context_length, dtype=np.int32).reshape(1, -1)
            behind = mb.greater(x=slots, y=mb.expand_dims(x=self.positions, axes=[1]))
            once = arithmetic.scaled(mb.cast(x=behind, dtype=self.short_name), MASKED)
            self.repeated_masks[repeat] = mb.concat(values=[once] * repeat, axis=0) if repeat > 1 else once
        return self.repeated_masks[repeat]

    def with_images(self, rows: Any, ids: Any) -> Any:
        """Embeddings (1, T, hidden) with image features in the places of image tokens."""
        if self.image_token_id is None:
            return rows
        is_image = mb.expand_dims(x=mb.equal(x=ids, y=np.int32(self.image_token_id)), axes=[2])
        return mb.select(cond=is_image, a=self.inputs["image_features"], b=rows)

    def last_token(self, x: Any) -> Any:
        """(1, T, ...) to (1, 1, ...)."""
        if self.is_step:
            return x
        rest = x.shape[2:]
        found = mb.matmul(x=self.last, y=mb.reshape(x=x, shape=[1, self.tokens, prod(rest)]))
        return mb.reshape(x=found, shape=[1, 1, *rest])

    def matrix(self, matrix: Matrix) -> Any:
        """The values that a matrix stands for; decompressed by Core ML where it holds codes."""
        name = matrix.values.name
        if name not in self.dense:
            values = matrix.values.stand_in()
            if matrix.scales is not None:
                values = mb.constexpr_blockwise_shift_scale(
                    data=values, scale=matrix.scales.stand_in(), name=f"{name}_dense"
                )
            elif matrix.tables is not None:
                values = mb.constexpr_lut_to_dense(indices=values, lut=matrix.tables.stand_in(), name=f"{name}_dense")
            self.dense[name] = values
        return self.dense[name]

    def product(self, x: Any, matrix: Matrix) -> Any:
        """x times a matrix; a `linear` without a bias would write zeros of its own."""
        bias = shared(np.zeros(matrix.values.shape[0], self.element))
        return mb.linear(x=x, weight=self.matrix(matrix), bias=bias)

    def read(self, state: FileState) -> Any:
        """What a state holds at the start of the call."""
        value = self.inputs[state.name]
        held = value if state.is_input else mb.read_state(input=value)
        if self.clears_states and state.token_axis is None:  # what a cache holds behind the sequence is masked
            begun = mb.reshape(x=mb.greater(x=self.inputs["position"], y=np.zeros(1, np.int32)), shape=[1] * held.rank)
            held = mb.select(cond=begun, a=held, b=np.zeros([1] * held.rank, np.float16))
        return mb.cast(x=held, dtype="fp32") if self.is_exact else held

    def write(self, state: FileState, value: Any) -> Any:
        """Keep a state's new value; use what this returns, so that nothing reads the old one afterwards."""
        kept = mb.cast(x=value, dtype="fp16") if self.is_exact else value
        if not state.is_input:
            kept = mb.coreml_update_state(state=self.inputs[state.name], value=kept)
        else:
            self.outputs[state.output_name] = mb.identity(x=kept, name=state.output_name)
        return mb.cast(x=kept, dtype="fp32") if self.is_exact else kept


Emit = Callable[[Emitter, list[Any], fx.Node], Any]


def call(emitter: Emitter, node: fx.Node, args: list[Any]) -> Any:
    """Emit one node of the captured graph; `args` are its arguments with nodes replaced by what stands for them."""
    if getattr(node.target, "__name__", "") == "getitem":
        return args[0][args[1]]
    if node.target not in TABLE:
        known = ", ".join(sorted(str(target) for target in TABLE))
        raise LoweringError(
            f"coreml: the captured graph holds {node.target} at {node.name}, which no table lowers; known: {known}"
        )
    return TABLE[node.target](emitter, args, node)


def _unflatten(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001 (every operator's signature)
    x, axis, sizes = args
    if axis not in (-1, x.rank - 1):
        raise LoweringError(f"coreml: {node.name} splits axis {axis}; only the last is lowered")
    return mb.reshape(x=x, shape=[*x.shape[:-1], *sizes])


def _flatten(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, start = args[0], args[1]
    if len(args) > 2 and args[2] != -1:
        raise LoweringError(f"coreml: {node.name} merges up to axis {args[2]}; only up to the last is lowered")
    return mb.reshape(x=x, shape=[*x.shape[:start], prod(x.shape[start:])])


def _split(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, sizes, *axis = args
    return mb.split(x=x, split_sizes=list(sizes), axis=axis[0] if axis else 0)


def _slice(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:
    x, axis, start = args[:3]
    if (axis, start) != (1, -1):
        raise LoweringError(f"coreml: {node.name} slices axis {axis} from {start}; only the last token is lowered")
    found = emitter.last_token(x)
    if x in emitter.owed:
        emitter.owed[found] = emitter.owed[x]
    return found


def _linear(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return emitter.product(args[0], args[1])


def _float_embedding(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return emitter.with_images(mb.gather(x=emitter.matrix(args[0]), indices=args[1], axis=0), args[1])


def _embedding(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return emitter.with_images(mb.gather(x=emitter.matrix(args[1]), indices=args[0], axis=0), args[0])


def _rms_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, weight, eps = args
    return arithmetic.rms_norm(x, weight.stand_in(), eps)


def _add_rms_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, residual, weight, eps = args
    total = mb.add(x=x, y=residual)
    return arithmetic.rms_norm(total, weight.stand_in(), eps), total


def _gated_rms_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, gate, weight, eps = args
    normed = arithmetic.rms_norm(x, weight.stand_in(), eps / emitter.owed.get(x, 1.0) ** 2, SMALL_OUTPUTS)
    return mb.mul(x=normed, y=mb.silu(x=gate))


def _l2_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return arithmetic.l2_norm(args[0], args[1])


def _delta_gate(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    a, b, decay_scale, dt_bias = args
    log_decay = mb.mul(x=arithmetic.softplus(mb.add(x=a, y=dt_bias.stand_in())), y=decay_scale.stand_in())
    beta = mb.sigmoid(x=b)
    if emitter.is_step:
        return log_decay, beta
    return mb.mul(x=log_decay, y=emitter.counts), mb.mul(x=beta, y=emitter.counts)


def _gated_delta(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    q, k, v, log_decay, beta, state, scale = args
    step = delta.Step(q=q, k=k, v=v, log_decay=log_decay, beta=beta, state=emitter.read(state))
    out, new = delta.one_step(step) if emitter.is_step else delta.chunk(step)
    emitter.owed[out] = scale
    return out, emitter.write(state, new)


def _causal_conv(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, weight, state = args
    channels, width = x.shape[-1], weight.shape[-1]
    columns = mb.concat(values=[_kept_columns(emitter, state, width - 1), mb.transpose(x=x, perm=[0, 2, 1])], axis=-1)
    seen = mb.slice_by_size(
        x=columns, begin=[0, 0, CONV_WIDTH - (width - 1)], size=[1, channels, width - 1 + emitter.tokens]
    )
    out = mb.conv(x=seen, weight=weight.stand_in(), groups=channels, pad_type="valid")
    if emitter.is_step:
        kept = mb.slice_by_size(x=columns, begin=[0, 0, 1], size=[1, channels, CONV_WIDTH])
    else:
        kept = mb.matmul(x=columns, y=emitter.end_window)
    emitter.write(state, _with_rests(kept, width - 1) if emitter.is_exact else kept)
    return mb.transpose(x=mb.silu(x=out), perm=[0, 2, 1]), None


def _kept_columns(emitter: Emitter, state: FileState, count: int) -> Any:
    """The convolution's state, of which the last `count` columns matter.

    What float16 loses of them lies just before, in a program that computes with more.
    """
    held = emitter.read(state)
    if not emitter.is_exact:
        return held
    channels = held.shape[1]
    unused, rests, heads = mb.split(x=held, split_sizes=[CONV_WIDTH - 2 * count, count, count], axis=-1)
    blank = mb.slice_by_size(x=held, begin=[0, 0, 0], size=[1, channels, count])
    return mb.concat(values=[unused, blank, mb.add(x=heads, y=rests)], axis=-1)


def _with_rests(columns: Any, count: int) -> Any:
    """Columns (1, C, CONV_WIDTH) with the rests of the last `count` before these, as `_kept_columns` reads them."""
    unused, _, last = mb.split(x=columns, split_sizes=[CONV_WIDTH - 2 * count, count, count], axis=-1)
    rests = mb.sub(x=last, y=mb.cast(x=mb.cast(x=last, dtype="fp16"), dtype="fp32"))
    return mb.concat(values=[unused, rests, last], axis=-1)


def _attention(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    q, k, v, k_state, v_state, _, scale = args
    heads, width = q.shape[2], q.shape[3]
    kv_heads = k.shape[2]
    keys, values = (_cached(emitter, state, rows) for state, rows in ((k_state, k), (v_state, v)))
    repeat, tokens = heads // kv_heads, emitter.tokens
    # query heads of one key head are neighbours: their rows become more rows of one product
    rows = mb.transpose(x=arithmetic.scaled(q, scale), perm=[0, 2, 1, 3])
    rows = mb.reshape(x=rows, shape=[1, kv_heads, repeat * tokens, width])
    scores = mb.add(x=mb.matmul(x=rows, y=keys, transpose_y=True), y=emitter.mask(repeat))
    out = mb.matmul(x=mb.softmax(x=scores, axis=-1), y=values)
    out = mb.reshape(x=out, shape=[1, heads, tokens, width])
    return mb.transpose(x=out, perm=[0, 2, 1, 3]), None, None


def _cached(emitter: Emitter, state: FileState, rows: Any) -> Any:
    """A cache (1, Hkv, S, D) with this call's rows (1, T, Hkv, D) in their places."""
    old, new = emitter.read(state), mb.transpose(x=rows, perm=[0, 2, 1, 3])
    position = emitter.inputs["position"]
    zero = np.zeros(1, np.int32)
    end = mb.add(x=position, y=np.full(1, emitter.tokens, np.int32))
    sizes = [np.full(1, size, np.int32) for size in old.shape]
    updated = mb.slice_update(
        x=old,
        update=new,
        begin=mb.concat(values=[zero, zero, position, zero], axis=0),
        end=mb.concat(values=[sizes[0], sizes[1], end, sizes[3]], axis=0),
    )
    return emitter.write(state, updated)


def _rotary(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    """Text has one position for time, height and width, so mRoPE turns every frequency by the same row."""
    x, _, cos_table, sin_table, sections = args
    half = cos_table.shape[-1]
    cos, sin = (_rope_rows(emitter, table, sections) for table in (cos_table, sin_table))
    first, second, rest = mb.split(x=x, split_sizes=[half, half, x.shape[-1] - 2 * half], axis=-1)
    turned = (
        mb.sub(x=mb.mul(x=first, y=cos), y=mb.mul(x=second, y=sin)),
        mb.add(x=mb.mul(x=second, y=cos), y=mb.mul(x=first, y=sin)),
    )
    return mb.concat(values=[*turned, rest], axis=-1)


def _rope_rows(emitter: Emitter, table: Weight, sections: list[int]) -> Any:
    """The table's rows for this call's positions: float16 (1, T, 1, R)."""
    if table.name not in emitter.dense:
        if emitter.image_token_id is None:
            rows = mb.gather(x=table.stand_in(), indices=emitter.positions, axis=0)
        else:  # each frequency by the row of its own axis: products with ones and zeros are exact
            found = mb.gather(x=table.stand_in(), indices=emitter.inputs["position_ids"], axis=0)  # (3, T, R)
            axes = mrope_axes(table.shape[-1], sections).numpy()
            chosen = (np.arange(3)[:, None, None] == axes).astype(emitter.element)
            rows = mb.reduce_sum(x=mb.mul(x=found, y=chosen), axes=[0])
        emitter.dense[table.name] = mb.reshape(x=rows, shape=[1, emitter.tokens, 1, table.shape[-1]])
    return emitter.dense[table.name]


def _swiglu(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return mb.mul(x=mb.silu(x=args[0]), y=args[1])


def _sigmoid_gate(emitter: Emitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return mb.mul(x=args[0], y=mb.sigmoid(x=args[1]))


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

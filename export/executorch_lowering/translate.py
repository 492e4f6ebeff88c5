"""From the decoder's captured graph to an ExecuTorch program: what each `edge::` operator becomes.

Everything is an XNNPACK operator except what needs a kernel of its own: the embedding, the gated delta rule, attention
and its cache, and slices along time. Those close the open XNNPACK graph, so a layer costs one delegate call.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from export.decoder import Part, Recipe, input_grid_name, output_grid_name
from export.errors import LoweringError
from export.executorch_lowering import delta
from export.executorch_lowering.composites import mean_square
from export.executorch_lowering.matrices import Buffer, Matrices
from export.executorch_lowering.program import ProgramBuilder, Slot
from export.executorch_lowering.tensors import Dynamic, Element, Value
from export.executorch_lowering.xnnpack import Grid, Region
from export.materialize import materialize
from export.operators import STATIC
from export.quantized import QuantizedCheckpoint
from export.state import StateTensor

INT64_MAX = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The graph's own inputs, as program values."""

    sequence: Value  # tokens, or embeddings
    start: Value
    state: tuple[Value, ...]  # in the decoder's order
    state_tensors: tuple[StateTensor, ...]


@dataclass(frozen=True, kw_only=True)
class Prologue:
    """What a call computes first, for all layers: integers, rows of the rotary tables, masks for many tokens."""

    position: Slot
    is_single: Slot  # one token
    cos: Value
    sin: Value
    masks: Value


def write_prologue(
    program: ProgramBuilder, store: QuantizedCheckpoint, context_length: int, inputs: Inputs
) -> Prologue:
    """Check the context's end before any state changes, clear the state at position 0, slice the tables."""
    position = program.primitive("aten::_local_scalar_dense", "", [inputs.start])
    count = program.primitive("aten::sym_size", "int", [inputs.sequence, 1])
    rows = []
    for name in ("cos", "sin"):
        table = materialize(Recipe(field=name), store, context_length).numpy()
        slots, width = table.shape
        stored = program.constant(table.reshape(1, slots, 1, width), Element.FLOAT32)
        rows.append(program.tensor((1, inputs.sequence.shape[1], 1, width)))
        program.kernel("aten::narrow_copy", "out", [stored, 1, position, count], [rows[-1]])  # fails past the end
    at_start = program.primitive("executorch_prim::eq", "Scalar", [position, 0])
    pairs = zip(inputs.state, inputs.state_tensors, strict=True)
    program.clear_if(at_start, [value for value, tensor in pairs if tensor.token_axis is None])
    is_single, square = single_or_chunk(program, count)
    return Prologue(position=position, is_single=is_single, cos=rows[0], sin=rows[1], masks=square)


def single_or_chunk(program: ProgramBuilder, count: Slot) -> tuple[Slot, Value]:
    """Whether one token comes, and the masks of a chunk of more."""
    is_single = program.primitive("executorch_prim::eq", "Scalar", [count, 1])
    masks = program.constant(delta.masks(), Element.FLOAT32)
    length = Dynamic(delta.CHUNK)
    columns = program.tensor((masks.shape[0], delta.CHUNK, length))
    square = program.tensor((masks.shape[0], length, length))
    with program.only_if(is_single, wanted=False):
        program.kernel("aten::slice_copy", "Tensor_out", [masks, 2, 0, count, 1], [columns])
        program.kernel("aten::slice_copy", "Tensor_out", [columns, 1, 0, count, 1], [square])
    return is_single, square


@dataclass
class Translation:
    """One walk over the graph."""

    program: ProgramBuilder
    matrices: Matrices
    inputs: Inputs
    prologue: Prologue
    values: dict[Node, Any] = field(default_factory=dict)
    tails: list[tuple[Value, Value]] = field(default_factory=list)  # inputs of a convolution, and its state
    chunk: Region | None = None  # the gated delta rule over many tokens, shared by all layers

    def run(self, captured: ExportedProgram, recipes: Mapping[str, Recipe]) -> Value:
        """Translate every node; returns the logits."""
        users = iter([self.inputs.sequence, None, self.inputs.start, *self.inputs.state])
        kinds = {spec.arg.name: spec for spec in captured.graph_signature.input_specs}
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                spec = kinds[node.name]
                is_input = spec.kind is InputKind.USER_INPUT
                self.values[node] = next(users) if is_input else Buffer(str(spec.target), recipes[str(spec.target)])
            elif node.op == "call_function" and node.users:
                self.values[node] = self._translate(node)
            elif node.op == "output":
                logits = self.values[node.args[0][0]]
        assert isinstance(logits, Value)
        self.program.require(logits)
        return logits

    def chunk_region(self, heads: int, width: int) -> Region:
        """The gated delta rule over many tokens; one graph for all layers."""
        if self.chunk is None:
            self.chunk = self.program.shared_region()
            delta.build_chunk(self.chunk, heads, width)
        return self.chunk

    def keep_tails(self) -> None:
        """The last inputs of each convolution so far become its state."""
        for joined, state in self.tails:
            start = -state.shape[1]
            self.program.kernel("aten::slice_copy", "Tensor_out", [joined, 1, start, INT64_MAX, 1], [state])
        self.tails.clear()

    def _translate(self, node: Node) -> Any:
        translate = TABLE.get(node.target)
        if translate is None:
            if isinstance(node.meta.get("val"), torch.SymInt | int) or node.target in ARITHMETIC:
                return None  # sizes: shapes are followed here, not read from the graph
            raise LoweringError(f"executorch has no lowering of {node.target} ({node.name}); add it to {__name__}")
        args = [self._argument(arg) for arg in node.args]
        return translate(self, node, *args)

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, Node):
            return self.values[arg]
        if isinstance(arg, list | tuple):
            return [self._argument(member) for member in arg]
        return arg


# -- shapes and slices ------------------------------------------------------------------------------------------------


def _getitem(_: Translation, __: Node, source: Any, index: int) -> Any:
    return source[index]


def _split(translation: Translation, _: Node, x: Any, sizes: list[int], axis: int = 0) -> list[Value]:
    if isinstance(x, list):
        return x  # the products of a fused matrix: one per part already
    region = translation.program.open_region()
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [region.slice(x, axis, start, size) for start, size in zip(starts, sizes, strict=True)]


def _unflatten(translation: Translation, _: Node, x: Value, axis: int, sizes: list[int]) -> Value:
    axis %= len(x.shape)
    return translation.program.open_region().reshape(x, (*x.shape[:axis], *sizes, *x.shape[axis + 1 :]))


def _flatten(translation: Translation, _: Node, x: Value, axis: int) -> Value:
    return translation.program.open_region().reshape(x, (*x.shape[:axis], prod(x.shape[axis:])))


def _last_token(translation: Translation, node: Node, x: Value, axis: int, start: int, end: int) -> Value:
    """x[:, -1:], a kernel of its own: XNNPACK cannot count from the end of a dynamic axis."""
    if (axis, start, end) != (1, -1, INT64_MAX):
        raise LoweringError(f"executorch lowers a slice only as [:, -1:]; {node.name} is [{axis}: {start}:{end}]")
    out = translation.program.tensor((*x.shape[:1], 1, *x.shape[2:]))
    translation.program.kernel("aten::slice_copy", "Tensor_out", [x, axis, start, end, 1], [out])
    return out


# -- matrices ---------------------------------------------------------------------------------------------------------


def _linear(translation: Translation, node: Node, x: Value, codes: Buffer, *rest: Any) -> Any:
    region = translation.program.open_region()
    parts = codes.recipe.parts
    users = list(node.users)
    if len(parts) > 1 and (len(users) != 1 or users[0].target is not torch.ops.aten.split_with_sizes.default):
        raise LoweringError(f"executorch lowers the fused matrix {codes.name} only where its product is split again")
    if translation.matrices.is_tied(codes):
        return _tied_head(translation, region, x, codes)
    if STATIC in rest:
        products = [_static_product(translation, region, x, part) for part in parts]
    else:
        products = [region.linear(x, translation.matrices.weights(part)) for part in parts]
    return products if len(parts) > 1 else products[0]


def _static_product(translation: Translation, region: Region, x: Value, part: Part) -> Value:
    grids = [
        translation.matrices.store.grids[name].tolist() for name in (input_grid_name(part.unit), output_grid_name(part))
    ]
    inputs, outputs = (Grid(scale=scale, zero_point=int(zero)) for scale, zero in grids)
    return region.static_linear(x, translation.matrices.weights(part), inputs, outputs)


def _tied_head(translation: Translation, region: Region, x: Value, codes: Buffer) -> Value:
    """The head on the embedding's bytes; 4-bit pairs are the other way round there, so swap the inputs' pairs."""
    weights = translation.matrices.table(codes)
    if weights.bits == 4:
        pairs = region.reshape(x, (*x.shape[:-1], x.shape[-1] // 2, 2))
        swapped = region.concatenate([region.slice(pairs, -1, 1, 1), region.slice(pairs, -1, 0, 1)], -1)
        x = region.reshape(swapped, x.shape)
    return region.linear(x, weights)


def _embedding(translation: Translation, _: Node, ids: Value, codes: Buffer, *__: Any) -> Value:
    return translation.matrices.rows(ids, codes)


def _float_embedding(translation: Translation, _: Node, weight: Buffer, ids: Value, *__: Any) -> Value:
    return translation.matrices.rows(ids, weight)


# -- norms, gates, activations ----------------------------------------------------------------------------------------


def _rms_norm(translation: Translation, _: Node, x: Value, weight: Buffer, eps: float) -> Value:
    return _normed(translation, x, weight, eps)


def _add_rms_norm(
    translation: Translation, _: Node, x: Value, residual: Value, weight: Buffer, eps: float
) -> list[Value]:
    total = translation.program.open_region().add(x, residual)
    return [_normed(translation, total, weight, eps), total]


def _gated_rms_norm(translation: Translation, _: Node, x: Value, gate: Value, weight: Buffer, eps: float) -> Value:
    normed = _normed(translation, x, weight, eps)
    region = translation.program.open_region()
    return region.multiply(normed, region.multiply(gate, region.sigmoid(gate)))


def _normed(translation: Translation, x: Value, weight: Buffer, eps: float) -> Value:
    region = translation.program.open_region()
    inverse = region.reciprocal_root(mean_square(region, x, eps))
    return region.multiply(region.multiply(x, inverse), region.constant(translation.matrices.array(weight)))


def _l2_norm(translation: Translation, _: Node, x: Value, eps: float) -> Value:
    """x / sqrt(sum x^2 + eps), by the mean that XNNPACK has: 1 / sqrt(width) / sqrt(mean x^2 + eps / width)."""
    region = translation.program.open_region()
    width = x.shape[-1]
    inverse = region.reciprocal_root(mean_square(region, x, eps / width))
    return region.multiply(x, region.multiply(inverse, region.scalar(width**-0.5)))


def _delta_gate(
    translation: Translation, _: Node, a: Value, b: Value, decay_scale: Buffer, dt_bias: Buffer
) -> list[Value]:
    """(log-decay, write strength).

    softplus(u) is max(u, 0) + log(1 + y) with y = exp(-|u|). XNNPACK's logarithm is off by 1e-7 near 1, which is much
    of a slow head's decay and adds up over a context, so one Newton step on exp(-s) - 1 = -sigmoid(-|u|) follows.
    """
    region = translation.program.open_region()
    u = region.add(a, region.constant(translation.matrices.array(dt_bias)))
    return [
        region.multiply(_softplus(region, u), region.constant(translation.matrices.array(decay_scale))),
        region.sigmoid(b),
    ]


def _softplus(region: Region, u: Value) -> Value:
    below = region.negate(region.absolute(u))
    whole = region.add(region.exponential(below), region.scalar(1.0))
    guess = region.logarithm(whole)
    error = region.add(region.exponential_minus_one(region.negate(guess)), region.sigmoid(below))
    return region.add(region.positive_part(u), region.add(guess, region.multiply(error, whole)))


def _swiglu(translation: Translation, _: Node, gate: Value, up: Value) -> Value:
    region = translation.program.open_region()
    return region.multiply(region.multiply(gate, region.sigmoid(gate)), up)


def _sigmoid_gate(translation: Translation, _: Node, x: Value, gate: Value) -> Value:
    region = translation.program.open_region()
    return region.multiply(x, region.sigmoid(gate))


# -- token mixers -----------------------------------------------------------------------------------------------------


def _causal_conv(translation: Translation, _: Node, x: Value, weight: Buffer, state: Value) -> list[Any]:
    """Depthwise taps over the last inputs and the new ones; the new state is the tail of both, time first."""
    program = translation.program
    region = program.open_region()
    joined = region.concatenate([state, x], 1)
    out = region.depthwise_conv(joined, translation.matrices.array(weight))
    translation.tails.append((joined, state))
    return [region.multiply(out, region.sigmoid(out)), None]


def _gated_delta(
    translation: Translation,
    _: Node,
    q: Value,
    k: Value,
    v: Value,
    log_decay: Value,
    beta: Value,
    state: Value,
    scale: float,
) -> list[Any]:
    """One token: llama::gated_delta_rule into a second buffer, exchanged with the first. More: the chunk graph."""
    program, is_single = translation.program, translation.prologue.is_single
    region = program.open_region()
    tokens, heads, width = v.shape[1:]
    q = region.multiply(q, region.scalar(scale))
    q, k = (_repeated(region, x, heads // x.shape[2]) for x in (q, k))
    decay = region.exponential(log_decay)
    for value in (q, k, v, log_decay, decay, beta):
        program.require(value)
    translation.keep_tails()
    out = program.tensor((1, tokens, heads, width))
    found = program.alias(out, out.shape)
    with program.only_if(is_single, wanted=True):
        rows = [program.alias(x, (1, heads, 1, width)) for x in (q, k, v, out)]
        gates = [program.alias(x, (1, heads, 1)) for x in (decay, beta)]
        written = program.keep(program.tensor(state.shape))
        program.kernel("llama::gated_delta_rule", "out", [*rows[:3], *gates, state], [rows[3], written])
        program.exchange([(state, written)])
        program.move(program.alias(out, (1, 1, heads, width)), found)
    with program.only_if(is_single, wanted=False):
        inputs = [q, k, v, log_decay, beta, state, translation.prologue.masks]
        program.call(translation.chunk_region(heads, width), inputs, [out, state])
        program.move(out, found)
    return [found, None]


def _repeated(region: Region, x: Value, repeat: int) -> Value:
    """Each head `repeat` times in a row: (1, T, H, D) -> (1, T, H * repeat, D)."""
    if repeat == 1:
        return x
    batch, tokens, heads, width = x.shape
    wide = region.reshape(x, (batch, tokens, heads, 1, width))
    copies = [wide] * repeat
    return region.reshape(region.concatenate(copies, 3), (batch, tokens, heads * repeat, width))


def _rotary(
    translation: Translation, node: Node, x: Value, positions: Any, _: Buffer, __: Buffer, sections: list[int]
) -> Value:
    """Text has one position a token, so every frequency turns by the same table row, whatever the section."""
    if positions is not None:
        raise LoweringError(f"executorch lowers rotary embedding of text only; {node.name} reads computed positions")
    cos_row, sin_row = translation.prologue.cos, translation.prologue.sin
    region = translation.program.open_region()
    half = sum(sections)
    first, second = region.slice(x, -1, 0, half), region.slice(x, -1, half, half)
    rest = region.slice(x, -1, 2 * half, x.shape[-1] - 2 * half)
    turned = [
        region.subtract(region.multiply(first, cos_row), region.multiply(second, sin_row)),
        region.add(region.multiply(second, cos_row), region.multiply(first, sin_row)),
    ]
    return region.concatenate([*turned, rest], -1)


def _attention(
    translation: Translation, _: Node, q: Value, k: Value, v: Value, keys: Value, values: Value, __: Value, scale: float
) -> list[Any]:
    """llama::update_cache and llama::custom_sdpa on a cache with time before heads."""
    program, position = translation.program, translation.prologue.position
    for new, cache in ((k, keys), (v, values)):
        done = program.tensor((1,))
        program.kernel("llama::update_cache", "out", [new, cache, position], [done])
    out = program.tensor(q.shape)
    program.kernel("llama::custom_sdpa", "out", [q, keys, values, position, None, 0.0, True, scale], [out])
    return [out, None, None]


ARITHMETIC = {operator.add, operator.mul, operator.sub, torch.ops.aten.sym_size.int}
EDGE = torch.ops.edge
ATEN = torch.ops.aten
TABLE: dict[Any, Callable[..., Any]] = {
    operator.getitem: _getitem,
    ATEN.split_with_sizes.default: _split,
    ATEN.unflatten.int: _unflatten,
    ATEN.flatten.using_ints: _flatten,
    ATEN.slice.Tensor: _last_token,
    ATEN.linear.default: _linear,
    ATEN.embedding.default: _float_embedding,
    EDGE.linear.default: _linear,
    EDGE.embedding.default: _embedding,
    EDGE.rms_norm.default: _rms_norm,
    EDGE.add_rms_norm.default: _add_rms_norm,
    EDGE.gated_rms_norm.default: _gated_rms_norm,
    EDGE.l2_norm.default: _l2_norm,
    EDGE.delta_gate.default: _delta_gate,
    EDGE.swiglu.default: _swiglu,
    EDGE.sigmoid_gate.default: _sigmoid_gate,
    EDGE.causal_conv.default: _causal_conv,
    EDGE.gated_delta.default: _gated_delta,
    EDGE.rotary.default: _rotary,
    EDGE.attention.default: _attention,
}

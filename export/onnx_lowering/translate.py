"""Translate the captured decoder, operator by operator, into an ONNX graph.

The graph that torch.export captures holds a dozen kinds of call: the `edge::` operators and a few views, splits and
slices. Translating those directly keeps the file free of the shape arithmetic that a general exporter emits around
every view, and lets a value stay packed as (B, T, H * D), which is what ONNX Runtime's fused operators read.

`Emitter` holds the graph under construction; a backend's profile is a table from `edge::` operators to functions that
emit nodes through it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx
from torch.export import ExportedProgram

from export.errors import LoweringError

MICROSOFT = "com.microsoft"
INT64_MAX = 2**63 - 1


@dataclass
class Value:
    """A graph value as the packed tensor (1, T, H * D), the one with heads (1, T, H, D), or both.

    `cache_scale` (1,) is set where the value is to be kept as int8.
    """

    packed: ir.Value | None = None
    with_heads: ir.Value | None = None
    heads: tuple[int, int] | None = None  # (H, D)
    cache_scale: ir.Value | None = None


Emit = Callable[["Emitter", list[Any], fx.Node], list[Value]]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a range of ONNX Runtime versions offers: operators by node."""

    oldest_runtime: str
    opset: int
    table: Mapping[Any, Emit]


@dataclass
class Emitter:
    """The ONNX graph under construction; `rounded` are values on a static grid, by value, scale and zero point."""

    nodes: list[ir.Node] = field(default_factory=list)
    initializers: dict[str, ir.Value] = field(default_factory=dict)
    rounded: dict[tuple[ir.Value, float, int], ir.Value] = field(default_factory=dict)

    def node(
        self, op: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], name: str, outputs: int = 1
    ) -> list[ir.Value]:
        """Append a node; `op` may be "domain::Type"."""
        domain, _, kind = op.rpartition("::")
        node = ir.node(kind, inputs, attributes, domain=domain, num_outputs=outputs, name=name)
        for index, output in enumerate(node.outputs):
            output.name = name if index == 0 else f"{name}:{index}"
        self.nodes.append(node)
        return list(node.outputs)

    def one(self, op: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], name: str) -> ir.Value:
        return self.node(op, inputs, attributes, name)[0]

    def constant(self, values: Sequence[int]) -> ir.Value:
        """An int64 vector, stored once per value."""
        name = "int64_" + "_".join(str(value) for value in values)
        if name not in self.initializers:
            self.add_initializer(ir.tensor(np.array(values, dtype=np.int64), name=name))
        return self.initializers[name]

    def float_constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        if name not in self.initializers:
            self.add_initializer(ir.tensor(array.astype(np.float32), name=name))
        return self.initializers[name]

    def add_initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        assert tensor.name is not None
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.initializers[tensor.name] = value
        return value

    def packed(self, value: Value, name: str) -> ir.Value:
        """The value as (1, T, H * D)."""
        if value.packed is None:
            assert value.with_heads is not None
            value.packed = self.one("Reshape", [value.with_heads, self.constant([0, 0, -1])], {}, f"{name}/packed")
        return value.packed

    def with_heads(self, value: Value, name: str) -> ir.Value:
        """The value as (1, T, H, D)."""
        if value.with_heads is None:
            assert value.packed is not None
            assert value.heads is not None
            shape = self.constant([0, 0, *value.heads])
            value.with_heads = self.one("Reshape", [value.packed, shape], {}, f"{name}/heads")
        return value.with_heads


def translate(
    emitter: Emitter, program: ExportedProgram, inputs: Mapping[str, Any], weights: Mapping[str, Any], profile: Profile
) -> list[Value]:
    """Walk the captured graph, emit its nodes and return the values of its outputs.

    `inputs` maps the placeholders of user inputs, and `weights` the names of buffers, to what the profile's functions
    expect in their place.
    """
    environment: dict[fx.Node, Any] = {}
    buffers = program.graph_signature.inputs_to_buffers
    outputs: list[Value] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            environment[node] = weights[buffers[node.name]] if node.name in buffers else inputs[node.name]
        elif node.op == "output":
            outputs = [environment[value] for value in node.args[0]]
        elif node.op == "call_function":
            environment[node] = _call(emitter, node, environment, profile)
    return outputs


def _call(emitter: Emitter, node: fx.Node, environment: dict[fx.Node, Any], profile: Profile) -> Any:
    args: Any = fx.node.map_arg(node.args, lambda arg: environment[arg])
    if getattr(node.target, "__name__", "") == "getitem":
        return args[0][args[1]]
    if node.target in SHAPES:
        return SHAPES[node.target](emitter, list(args), node)
    if node.target is torch.ops.aten.sym_size.int:
        return None
    if node.target not in profile.table:
        known = ", ".join(sorted(str(target) for target in profile.table))
        raise LoweringError(
            f"onnx: the captured graph holds {node.target} at {node.name}, which no table lowers; known: {known}"
        )
    results = profile.table[node.target](emitter, list(args), node)
    return results if len(results) > 1 else results[0]


def _split_or_merge_heads(emitter: Emitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001 (SHAPES' signature)
    """(1, T, H * D) to (1, T, H, D) or back: the same value under another shape, so nothing is emitted yet."""
    value: Value = args[0]
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape  # type: ignore[union-attr]
    if len(before) == 3 and len(after) == 4:
        return Value(packed=value.packed, heads=(int(after[2]), int(after[3])))
    if len(before) == 4 and len(after) == 3:
        return value
    raise LoweringError(
        f"onnx: {node.name} turns {tuple(before)} into {tuple(after)}; only splitting and merging heads is lowered"
    )


def _split(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    """Split along features, or along heads (which are neighbours in the packed tensor)."""
    value, sizes, axis = args
    rank = len(node.args[0].meta["val"].shape)  # type: ignore[union-attr]
    name = node.name
    if axis in (-1, rank - 1) and rank == 3:
        parts = emitter.node(
            "Split", [emitter.packed(value, name), emitter.constant(sizes)], {"axis": -1}, name, len(sizes)
        )
        return [Value(packed=part) for part in parts]
    if axis == 2 and rank == 4:
        head_dim = int(node.args[0].meta["val"].shape[3])  # type: ignore[union-attr]
        widths = emitter.constant([size * head_dim for size in sizes])
        parts = emitter.node("Split", [emitter.packed(value, name), widths], {"axis": -1}, name, len(sizes))
        return [Value(packed=part, heads=(size, head_dim)) for part, size in zip(parts, sizes, strict=True)]
    raise LoweringError(f"onnx: split {node.name} along axis {axis} of rank {rank} is not lowered")


def _slice(emitter: Emitter, args: list[Any], node: fx.Node) -> Value:
    """The last token: (1, T, ...) to (1, 1, ...)."""
    value, axis, start, end = args
    if (axis, start, end) != (1, -1, INT64_MAX):
        raise LoweringError(
            f"onnx: slice {node.name} of axis {axis} from {start} to {end} is not lowered; only the last token is"
        )
    whole = emitter.packed(value, node.name)
    bounds = [emitter.constant([-1]), emitter.constant([INT64_MAX]), emitter.constant([1])]
    return Value(packed=emitter.one("Slice", [whole, *bounds], {}, node.name), heads=value.heads)


SHAPES: dict[Any, Callable[[Emitter, list[Any], fx.Node], Any]] = {
    torch.ops.aten.unflatten.int: _split_or_merge_heads,
    torch.ops.aten.flatten.using_ints: _split_or_merge_heads,
    torch.ops.aten.split_with_sizes.default: _split,
    torch.ops.aten.slice.Tensor: _slice,
}

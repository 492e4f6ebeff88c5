"""The same graph for older runtimes: what ONNX Runtime 1.25.1 lacks of the newest profile, in standard operators.

LinearAttention came with 1.25.1 and sets the floor; MRotaryEmbedding came with 1.29, LinearAttentionGate with 1.30.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from export.onnx_lowering.profile_newest import TABLE
from export.onnx_lowering.translate import Emitter, Profile, Value
from export.operators import mrope_axes


def _delta_gate(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    a, b, decay_scale, dt_bias = args
    name = node.name
    shifted = emitter.one("Add", [emitter.packed(a, name), dt_bias.value(emitter)], {}, f"{name}/shifted")
    softplus = emitter.one("Softplus", [shifted], {}, f"{name}/softplus")
    decay = emitter.one("Mul", [softplus, decay_scale.value(emitter)], {}, f"{name}/decay")
    return [Value(packed=decay), Value(packed=emitter.one("Sigmoid", [emitter.packed(b, name)], {}, f"{name}/beta"))]


def _rotary(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    x, positions, cos_table, sin_table, sections = args
    assert x.heads is not None
    rows = [_rows(emitter, table, positions.packed, tuple(sections)) for table in (cos_table, sin_table)]
    attributes = {"num_heads": x.heads[0], "rotary_embedding_dim": 2 * sum(sections), "interleaved": 0}
    turned = emitter.one("RotaryEmbedding", [emitter.packed(x, node.name), *rows], attributes, node.name)
    return [Value(packed=turned, heads=x.heads)]


def _rows(emitter: Emitter, table: Any, positions: ir.Value, sections: tuple[int, int, int]) -> ir.Value:
    """Table rows (1, T, R) of this call's positions, each frequency from its own position row; once for all layers."""
    source = table.value(emitter)
    name = f"{source.name}/rows"
    made = next((node.outputs[0] for node in emitter.nodes if node.name == name), None)
    if made is not None:
        return made
    half = sum(sections)
    choose = np.eye(3)[mrope_axes(half, sections).numpy()].T.reshape(3, 1, 1, half)
    three = emitter.one("Gather", [source, positions], {"axis": 0}, f"{name}/three")  # (3, 1, T, R)
    chosen = emitter.one("Mul", [three, emitter.float_constant("mrope_axes", choose)], {}, f"{name}/chosen")
    return emitter.one("ReduceSum", [chosen, emitter.constant([0])], {"keepdims": 0}, name)


PROFILE = Profile(
    oldest_runtime="1.25.1",
    opset=23,
    table={**TABLE, torch.ops.edge.delta_gate.default: _delta_gate, torch.ops.edge.rotary.default: _rotary},
)

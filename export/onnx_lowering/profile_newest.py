"""What each `edge::` operator becomes on ONNX Runtime from 1.30 on: its fused operators, one node where one exists."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from export.onnx_lowering.translate import INT64_MAX, MICROSOFT, Emit, Emitter, Profile, Value
from export.operators import STATIC

INT8_ACTIVATIONS = 4  # accuracy_level: int8 inputs, what KleidiAI and VNNI kernels need
FLOAT_ACTIVATIONS = 0
MROPE_INTERLEAVED = 1
UNUSED_ATTENTION_INPUTS = 5  # between the total length and the scales of the cache: rotary tables, bias, sink


def _linear(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    x, codes, scales = args[:3]
    if args[5] == STATIC:
        return _static_linear(emitter, args, node)
    level = FLOAT_ACTIVATIONS if args[5] == "none" else INT8_ACTIVATIONS
    inputs = emitter.packed(x, node.name)
    pieces = codes.pieces()
    if len(pieces) == 1:
        return [Value(packed=_product(emitter, inputs, codes, (pieces[0], scales.value(emitter), level), node.name))]
    outputs = []
    for index, rows in enumerate(pieces):
        weights = (rows, scales.piece(emitter, rows), level)
        outputs.append(_product(emitter, inputs, codes, weights, f"{node.name}/rows_{index}"))
    return [Value(packed=emitter.one("Concat", outputs, {"axis": -1}, node.name))]


def _static_linear(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    """Standard operators that ONNX Runtime fuses into MatMulIntegerToFloat: uint8 inputs times int8 rows."""
    x, codes, scales, grid = args[0], args[1], args[2], args[7]
    inputs = grid.rounded(emitter, emitter.packed(x, node.name), node.name)
    pieces = codes.pieces()
    outputs = []
    for index, rows in enumerate(pieces):
        name = node.name if len(pieces) == 1 else f"{node.name}/rows_{index}"
        columns = [codes.transposed(emitter, rows), scales.of_rows(emitter, rows)]
        weight = emitter.one("DequantizeLinear", columns, {"axis": 1}, f"{name}/weight")
        outputs.append(emitter.one("MatMul", [inputs, weight], {}, name))
    if len(outputs) == 1:
        return [Value(packed=outputs[0])]
    return [Value(packed=emitter.one("Concat", outputs, {"axis": -1}, node.name))]


def _product(emitter: Emitter, x: ir.Value, codes: Any, weights: tuple[slice, ir.Value, int], name: str) -> ir.Value:
    """x times some rows of a quantized matrix."""
    rows, scales, level = weights
    attributes = {
        "K": codes.in_features,
        "N": rows.stop - rows.start,
        "bits": codes.bits,
        "block_size": codes.block_size,
        "accuracy_level": level,
    }
    return emitter.one(f"{MICROSOFT}::MatMulNBits", [x, codes.matrix(emitter, rows), scales], attributes, name)


def _embedding(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    ids, codes, scales = args[:3]
    attributes = {"bits": codes.bits, "block_size": codes.block_size, "gather_axis": 0, "quantize_axis": 1}
    inputs = [codes.table(emitter), ids.packed, scales.value(emitter)]
    return [Value(packed=emitter.one(f"{MICROSOFT}::GatherBlockQuantized", inputs, attributes, node.name))]


def _float_linear(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    x, weight = args[:2]
    return [Value(packed=weight.product(emitter, emitter.packed(x, node.name), node.name))]


def _float_embedding(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    weight, ids = args[:2]
    return [Value(packed=emitter.one("Gather", [weight.table(emitter), ids.packed], {"axis": 0}, node.name))]


def _rms_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    x, weight, eps = args
    attributes = {"axis": -1, "epsilon": eps}
    if x.heads is None:
        whole = emitter.packed(x, node.name)
        return [
            Value(
                packed=emitter.one(
                    "SimplifiedLayerNormalization", [whole, weight.value(emitter)], attributes, node.name
                )
            )
        ]
    whole = emitter.with_heads(x, node.name)
    normed = emitter.one("SimplifiedLayerNormalization", [whole, weight.value(emitter)], attributes, node.name)
    return [Value(with_heads=normed, heads=x.heads)]


def _add_rms_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    x, residual, weight, eps = args
    inputs = [emitter.packed(x, node.name), emitter.packed(residual, node.name), weight.value(emitter)]
    outputs = emitter.node(f"{MICROSOFT}::SkipSimplifiedLayerNormalization", inputs, {"epsilon": eps}, node.name, 4)
    outputs[1].name, outputs[2].name = "", ""  # mean and inverse deviation are not wanted
    return [Value(packed=outputs[0]), Value(packed=outputs[3])]


def _gated_rms_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    """Three vectorised operators: 1.31's fused GatedRMSNorm is scalar code and takes 16 times as long (docs/log.md)."""
    x, gate, weight, eps = args
    inputs = [emitter.with_heads(x, f"{node.name}/x"), weight.value(emitter)]
    normed = emitter.one("SimplifiedLayerNormalization", inputs, {"axis": -1, "epsilon": eps}, f"{node.name}/norm")
    silu = emitter.one(
        f"{MICROSOFT}::QuickGelu", [emitter.packed(gate, node.name)], {"alpha": 1.0}, f"{node.name}/silu"
    )
    flat = emitter.packed(Value(with_heads=normed), f"{node.name}/norm")
    return [Value(packed=emitter.one("Mul", [flat, silu], {}, node.name), heads=x.heads)]


def _l2_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    """x / sqrt(sum x^2 + eps) as an rms norm: the mean of squares is the sum over D, so eps / D and 1 / sqrt(D)."""
    x, eps = args
    assert x.heads is not None
    head_dim = x.heads[1]
    scale = emitter.float_constant(f"l2_scale_{head_dim}", np.full(head_dim, 1 / math.sqrt(head_dim)))
    attributes = {"axis": -1, "epsilon": eps / head_dim}
    normed = emitter.one(
        "SimplifiedLayerNormalization", [emitter.with_heads(x, node.name), scale], attributes, node.name
    )
    return [Value(with_heads=normed, heads=x.heads)]


def _delta_gate(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    a, b, decay_scale, dt_bias = args
    inputs = [
        emitter.packed(a, node.name),
        dt_bias.value(emitter),
        decay_scale.value(emitter),
        emitter.packed(b, node.name),
    ]
    return [Value(packed=out) for out in emitter.node(f"{MICROSOFT}::LinearAttentionGate", inputs, {}, node.name, 2)]


def _gated_delta(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    q, k, v, log_decay, beta, state, scale = args
    name = node.name
    assert q.heads is not None
    assert v.heads is not None
    attributes = {"q_num_heads": q.heads[0], "kv_num_heads": v.heads[0], "update_rule": "gated_delta", "scale": scale}
    inputs = [emitter.packed(value, name) for value in (q, k, v)]
    inputs += [state.packed, emitter.packed(log_decay, name), emitter.packed(beta, name)]
    out, new_state = emitter.node(f"{MICROSOFT}::LinearAttention", inputs, attributes, name, 2)
    return [Value(packed=out, heads=v.heads), Value(packed=new_state)]


def _causal_conv(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    """State and input joined along tokens, each tap a shifted product, then silu.

    The form that phones run best: on ARM a plain depthwise Conv takes nine times its instructions for one token and as
    many for a prompt, and CausalConvWithState, scalar code in 1.31, twice as many for both. On x86 the blocked (NCHWc)
    Conv would read a prompt 2 % faster and decode 2 % slower (docs/log.md). The state is kept channels-last,
    (1, K - 1, C), so that joining and cutting copy whole rows. The last tap multiplies the input itself.
    """
    x, weight, state = args
    name = node.name
    inputs = emitter.packed(x, name)
    joined = emitter.one("Concat", [state.packed, inputs], {"axis": 1}, f"{name}/joined")
    *earlier, last = weight.columns(emitter)
    tokens, one = emitter.constant([1]), emitter.constant([1])
    out = emitter.one("Mul", [inputs, last], {}, f"{name}/tap_0")
    for age, column in enumerate(reversed(earlier), 1):
        bounds = [emitter.constant([len(earlier) - age]), emitter.constant([-age]), tokens, one]
        shifted = emitter.one("Slice", [joined, *bounds], {}, f"{name}/{age}_ago")
        product = emitter.one("Mul", [shifted, column], {}, f"{name}/tap_{age}")
        out = emitter.one("Add", [out, product], {}, f"{name}/sum_{age}")
    silu = emitter.one(f"{MICROSOFT}::QuickGelu", [out], {"alpha": 1.0}, name)
    bounds = [emitter.constant([-len(earlier)]), emitter.constant([INT64_MAX]), tokens, one]
    return [Value(packed=silu), Value(packed=emitter.one("Slice", [joined, *bounds], {}, f"{name}/state"))]


def _attention(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    q, k, v, k_cache, v_cache, bounds, scale = args
    name = node.name
    assert q.heads is not None
    assert k.heads is not None
    attributes = {"num_heads": q.heads[0], "kv_num_heads": k.heads[0], "scale": scale, "do_rotary": 0}
    inputs: list[ir.Value | None] = [emitter.packed(value, name) for value in (q, k, v)]
    inputs += [k_cache.packed, v_cache.packed, bounds.last_slots, bounds.total]
    if k.cache_scale is not None:
        attributes |= {"kv_cache_bit_width": 8, "k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR"}
        inputs += [*[None] * UNUSED_ATTENTION_INPUTS, k.cache_scale, v.cache_scale]
    out, keys, values = emitter.node(f"{MICROSOFT}::GroupQueryAttention", inputs, attributes, name, 3)
    return [Value(packed=out, heads=q.heads), Value(packed=keys), Value(packed=values)]


def _round_to_cache(emitter: Emitter, args: list[Any], _: fx.Node) -> list[Value]:
    """GroupQueryAttention rounds as it writes the cache; here the value only learns its scale."""
    x, scale = args
    return [replace(x, cache_scale=scale.value(emitter))]


def _rotary(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    x, positions, cos_table, sin_table, sections = args
    assert x.heads is not None
    attributes = {
        "mrope_section": list(sections),
        "mrope_layout": MROPE_INTERLEAVED,
        "num_heads": x.heads[0],
        "rotary_embedding_dim": 2 * sum(sections),
    }
    inputs = [emitter.packed(x, node.name), positions.packed, cos_table.value(emitter), sin_table.value(emitter)]
    return [Value(packed=emitter.one(f"{MICROSOFT}::MRotaryEmbedding", inputs, attributes, node.name), heads=x.heads)]


def _swiglu(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    gate, up = (emitter.packed(value, node.name) for value in args)
    silu = emitter.one(f"{MICROSOFT}::QuickGelu", [gate], {"alpha": 1.0}, f"{node.name}/silu")
    return [Value(packed=emitter.one("Mul", [silu, up], {}, node.name))]


def _sigmoid_gate(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    x, gate = (emitter.packed(value, node.name) for value in args)
    sigmoid = emitter.one("Sigmoid", [gate], {}, f"{node.name}/sigmoid")
    return [Value(packed=emitter.one("Mul", [x, sigmoid], {}, node.name))]


TABLE: Mapping[Any, Emit] = {
    torch.ops.edge.linear.default: _linear,
    torch.ops.edge.embedding.default: _embedding,
    torch.ops.aten.linear.default: _float_linear,
    torch.ops.aten.embedding.default: _float_embedding,
    torch.ops.edge.rms_norm.default: _rms_norm,
    torch.ops.edge.add_rms_norm.default: _add_rms_norm,
    torch.ops.edge.gated_rms_norm.default: _gated_rms_norm,
    torch.ops.edge.l2_norm.default: _l2_norm,
    torch.ops.edge.delta_gate.default: _delta_gate,
    torch.ops.edge.gated_delta.default: _gated_delta,
    torch.ops.edge.causal_conv.default: _causal_conv,
    torch.ops.edge.attention.default: _attention,
    torch.ops.edge.round_to_cache.default: _round_to_cache,
    torch.ops.edge.rotary.default: _rotary,
    torch.ops.edge.swiglu.default: _swiglu,
    torch.ops.edge.sigmoid_gate.default: _sigmoid_gate,
}

PROFILE = Profile(oldest_runtime="1.30.0", opset=21, table=TABLE)

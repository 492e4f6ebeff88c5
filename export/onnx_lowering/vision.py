"""The two graphs that a seeing ONNX artifact has beside its text model: the embedding, and the vision tower.

Names and shapes are those of onnxruntime-genai's Qwen models: `embedding.onnx` puts image features into the places of
image tokens, `vision.onnx` makes the features of one image (its grid is declared (1, 3), so that genai runs it once an
image). All three graphs name bytes of one data file, the tied table among them once.

A prompt's worth of patches goes through each matrix at once, where MatMulNBits is no faster than float. So the tower's
int8 codes are multiplied by MatMulIntegerToFloat: inputs rounded to 8 bits, one scale a patch, as unsigned codes around
128, since x86 has fast kernels for unsigned times signed only (docs/log.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from export.decoder import Matrix, Recipe
from export.onnx_lowering.data import DataFile
from export.onnx_lowering.initializers import (
    CodesInitializer,
    FloatMatrixInitializer,
    Initializer,
    PlainInitializer,
    ScalesInitializer,
)
from export.onnx_lowering.profile_newest import PROFILE as TEXT_PROFILE
from export.onnx_lowering.translate import MICROSOFT, Emit, Emitter, Value, translate
from export.onnx_lowering.vision_positions import emit_positions
from export.vision.capture import capture_tower
from export.vision.config import VisionConfig
from export.vision.tower import VisionTower
from export.vision.weights import TowerWeights

EMBEDDING_FILE, TOWER_FILE = "embedding.onnx", "vision.onnx"
IR_VERSION = 10
ZERO_POINT = 128
TOP = 127.0
TINY = 1e-30  # an all-zero patch would divide by zero


@dataclass(frozen=True)
class TowerSource:
    """Where the tower's initializers come from and go to."""

    weights: TowerWeights
    data: DataFile

    def tensor(self, recipe: Recipe) -> torch.Tensor:
        return self.weights.field(recipe.field, recipe.parts[0].unit)


class TransposedCodes:
    """int8 codes as MatMulIntegerToFloat reads them: (in_features, out_features)."""

    def __init__(self, source: TowerSource, name: str, recipe: Recipe) -> None:
        self._source, self._name, self._recipe = source, name, recipe

    def value(self, emitter: Emitter) -> ir.Value:
        codes = self._source.tensor(self._recipe).T.contiguous().numpy()
        return emitter.add_initializer(self._source.data.write(self._name, codes))


class RowScales:
    """One scale an output, (out_features,)."""

    def __init__(self, source: TowerSource, name: str, recipe: Recipe) -> None:
        self._source, self._name, self._recipe = source, name, recipe

    def value(self, emitter: Emitter) -> ir.Value:
        scales = self._source.tensor(self._recipe).flatten().numpy()
        return emitter.add_initializer(self._source.data.write(self._name, scales))


def write_embedding(weights: Mapping[str, Initializer], vision: VisionConfig, path: Path) -> None:
    """Write `embedding.onnx`: tokens and image features to what the text model reads.

    `weights` are the text model's own, so a table that is its head as well is not written again.
    """
    table, scales = weights.get("embed.codes") or weights["embed.weight"], weights.get("embed.scales")
    emitter = Emitter()
    ids = _input("input_ids", ir.DataType.INT64, [1, "sequence_length"])
    features = _input("image_features", ir.DataType.FLOAT, ["image_tokens", vision.out_hidden_size])
    if isinstance(table, CodesInitializer):
        assert isinstance(scales, ScalesInitializer)
        attributes = {"bits": table.bits, "block_size": table.block_size, "gather_axis": 0, "quantize_axis": 1}
        inputs = [table.table(emitter), ids, scales.value(emitter)]
        rows = emitter.one(f"{MICROSOFT}::GatherBlockQuantized", inputs, attributes, "rows")
    else:
        assert isinstance(table, FloatMatrixInitializer)
        rows = emitter.one("Gather", [table.table(emitter), ids], {"axis": 0}, "rows")
    is_image = emitter.one("Equal", [ids, emitter.constant([vision.image_token_id])], {}, "is_image")
    places = emitter.one("Transpose", [emitter.one("NonZero", [is_image], {}, "where")], {"perm": [1, 0]}, "places")
    embeddings = emitter.one("ScatterND", [rows, places, features], {}, "inputs_embeds")
    _declare(embeddings, "inputs_embeds", [1, "sequence_length", vision.out_hidden_size])
    _save(emitter, [ids, features], embeddings, path)


def write_tower(weights: TowerWeights, data: DataFile, path: Path) -> None:
    """Write `vision.onnx`: patches and the grid of one image to its features."""
    vision = weights.vision
    captured = capture_tower(weights)
    program, tower = captured.program, captured.tower
    emitter = Emitter()
    patches = _input("pixel_values", ir.DataType.FLOAT, ["patches", vision.patch_dim])
    grid = _input("image_grid_thw", ir.DataType.INT64, [1, 3])
    batch = emitter.one("Unsqueeze", [patches, emitter.constant([0])], {}, "one_image")
    at = emit_positions(emitter, grid, vision)
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    values = [Value(packed=batch), at.rows, at.weights, at.cos, at.sin]
    results = translate(
        emitter,
        program,
        dict(zip(names, values, strict=True)),
        _initializers(tower, TowerSource(weights, data)),
        replace(TEXT_PROFILE, table=TABLE),
    )
    features = emitter.one(
        "Squeeze", [emitter.packed(results[0], "merged"), emitter.constant([0])], {}, "image_features"
    )
    _declare(features, "image_features", ["image_tokens", vision.out_hidden_size])
    _save(emitter, [patches, grid], features, path)


def _initializers(tower: VisionTower, source: TowerSource) -> dict[str, Any]:
    modules = dict(tower.named_modules())
    found: dict[str, Any] = {}
    for name, recipe in tower.recipes().items():
        owner, _, field = name.rpartition(".")
        stored = f"vision.{name}"
        if not isinstance(modules[owner], Matrix):
            found[name] = PlainInitializer(source, stored, recipe)
        elif field == "codes":
            found[name] = TransposedCodes(source, stored, recipe)
        elif field == "scales":
            found[name] = RowScales(source, stored, recipe)
        else:
            found[name] = FloatMatrixInitializer(source, stored, recipe, is_table=False)
    return found


def _linear(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    """Inputs rounded to 8 bits by `edge::linear`'s own arithmetic, one scale a patch, then the integer product."""
    x, codes, scales = args[:3]
    name = node.name
    inputs = emitter.packed(x, name)
    last = emitter.constant([-1])
    largest = emitter.one(
        "ReduceMax", [emitter.one("Abs", [inputs], {}, f"{name}/abs"), last], {"keepdims": 1}, f"{name}/largest"
    )
    safe = emitter.one("Max", [largest, _number(emitter, "tiny", TINY)], {}, f"{name}/safe")
    inverse = emitter.one("Div", [_number(emitter, "top", TOP), safe], {}, f"{name}/inverse")
    scaled = emitter.one("Mul", [inputs, inverse], {}, f"{name}/scaled")
    zero, unit = _zero_point(emitter), _number(emitter, "unit", 1.0)
    rounded = emitter.one("QuantizeLinear", [scaled, unit, zero], {}, f"{name}/codes")
    product = emitter.one(
        f"{MICROSOFT}::MatMulIntegerToFloat",
        [rounded, codes.value(emitter), unit, scales.value(emitter), zero],
        {},
        f"{name}/product",
    )
    scale = emitter.one("Mul", [largest, _number(emitter, "step", 1 / TOP)], {}, f"{name}/scale")
    return [Value(packed=emitter.one("Mul", [product, scale], {}, name))]


def _float_linear(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    x, weight = args[:2]
    return [Value(packed=weight.product(emitter, emitter.packed(x, node.name), node.name))]


def _add(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    """A residual or a bias."""
    sides = [
        arg.value(emitter) if isinstance(arg, PlainInitializer) else emitter.packed(arg, node.name) for arg in args
    ]
    return [Value(packed=emitter.one("Add", sides, {}, node.name))]


def _layer_norm(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    x, _, weight, bias, eps = args[:5]
    inputs = [emitter.packed(x, node.name), weight.value(emitter), bias.value(emitter)]
    return [Value(packed=emitter.one("LayerNormalization", inputs, {"axis": -1, "epsilon": eps}, node.name))]


def _gelu(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    kind = "FastGelu" if node.kwargs.get("approximate") == "tanh" else "Gelu"
    return [Value(packed=emitter.one(f"{MICROSOFT}::{kind}", [emitter.packed(args[0], node.name)], {}, node.name))]


def _rows(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    table, rows, weights = args
    name = node.name
    taken = emitter.one("Gather", [table.value(emitter), rows], {"axis": 0}, f"{name}/taken")  # (N, 4, C)
    column = emitter.one("Unsqueeze", [weights, emitter.constant([2])], {}, f"{name}/weights")
    weighted = emitter.one("Mul", [taken, column], {}, f"{name}/weighted")
    total = emitter.one("ReduceSum", [weighted, emitter.constant([1])], {"keepdims": 0}, f"{name}/sum")
    return [Value(packed=emitter.one("Unsqueeze", [total, emitter.constant([0])], {}, name))]


def _rotate(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    x, cos, sin = args
    inputs = [emitter.packed(x, node.name), emitter.constant([0]), cos, sin]
    turned = emitter.one(f"{MICROSOFT}::RotaryEmbedding", inputs, {"interleaved": 0}, node.name)
    return [Value(packed=turned, heads=x.heads)]


def _attention(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    q, k, v, scale = args
    inputs = [emitter.packed(value, node.name) for value in (q, k, v)]
    attributes = {"num_heads": q.heads[0], "scale": scale}
    out = emitter.one(f"{MICROSOFT}::MultiHeadAttention", inputs, attributes, node.name)
    return [Value(packed=out, heads=q.heads)]


def _merge(emitter: Emitter, args: list[Any], node: fx.Node) -> list[Value]:
    """(1, N, C) to (1, N / 4, 4 C)."""
    width = int(node.meta["val"].shape[-1])
    shape = emitter.constant([1, -1, width])
    return [Value(packed=emitter.one("Reshape", [emitter.packed(args[0], node.name), shape], {}, node.name))]


def _number(emitter: Emitter, name: str, value: float) -> ir.Value:
    return emitter.float_constant(f"scalar_{name}", np.array(value))


def _zero_point(emitter: Emitter) -> ir.Value:
    name = "zero_point"
    if name not in emitter.initializers:
        emitter.add_initializer(ir.tensor(np.array(ZERO_POINT, dtype=np.uint8), name=name))
    return emitter.initializers[name]


TABLE: Mapping[Any, Emit] = {
    torch.ops.edge.linear.default: _linear,
    torch.ops.aten.linear.default: _float_linear,
    torch.ops.aten.add.Tensor: _add,
    torch.ops.aten.layer_norm.default: _layer_norm,
    torch.ops.aten.gelu.default: _gelu,
    torch.ops.aten.reshape.default: _merge,
    torch.ops.edge.interpolate_rows.default: _rows,
    torch.ops.edge.rotate_patches.default: _rotate,
    torch.ops.edge.full_attention.default: _attention,
}


def _input(name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _declare(value: ir.Value, name: str, shape: list[int | str]) -> None:
    value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)


def _save(emitter: Emitter, inputs: list[ir.Value], output: ir.Value, path: Path) -> None:
    graph = ir.Graph(
        inputs,
        [output],
        nodes=emitter.nodes,
        initializers=list(emitter.initializers.values()),
        opset_imports={"": TEXT_PROFILE.opset, "com.microsoft": 1},
        name=f"qwen3_5_{path.stem}",
    )
    ir.save(ir.Model(graph, ir_version=IR_VERSION, producer_name="qwen-edge"), path)

"""The vision tower's captured graph as one method: levels of an image to rows that the text decoder reads.

Each block is one XNNPACK delegate and one attention kernel. The matrices are the codes that other backends write; the
two frames of the patch embedding, which see the same pixels in a still image, are added up into one.
"""

import hashlib
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from export.checkpoint import VISION_PREFIX
from export.decoder import Recipe
from export.errors import LoweringError
from export.executorch_lowering.composites import gelu_tanh, layer_norm
from export.executorch_lowering.image import Image, read_image
from export.executorch_lowering.matrices import Buffer
from export.executorch_lowering.program import ProgramBuilder
from export.executorch_lowering.tensors import Dynamic, Element, Value
from export.executorch_lowering.translate import _flatten, _getitem, _split, _unflatten
from export.executorch_lowering.xnnpack import Blob, Weights
from export.vision.capture import capture_tower
from export.vision.config import VisionConfig
from export.vision.request import VisionRequest
from export.vision.weights import TowerWeights

METHOD = "vision_encoder"  # the name by which ExecuTorch's MultimodalRunner finds it
PATCH_EMBED = "patch_embed.proj"


def write_encoder(program: ProgramBuilder, request: VisionRequest, origin: str) -> Value:
    """Write the method; `origin` is a hash of the checkpoint. Returns its output, (1, n, out_hidden_size + 4)."""
    image = read_image(program, request.config, request.images)
    captured = capture_tower(request.weights)
    translation = TowerTranslation(program, TowerMatrices(program, request.weights, origin), image)
    features = translation.run(captured.program, captured.tower.recipes())
    rows = program.open_region().concatenate([features, *image.places], -1)
    program.require(rows)
    return rows


@dataclass(frozen=True)
class TowerMatrices:
    """The tower's tensors: matrices are read when the file is written."""

    program: ProgramBuilder
    weights: TowerWeights
    origin: str

    def array(self, buffer: Buffer) -> NDArray[np.float32]:
        """A small float32 tensor."""
        found: NDArray[np.float32] = self.weights.plain(buffer.recipe.parts[0].unit).numpy()
        return found

    def codes(self, buffer: Buffer) -> Weights:
        """An int8 matrix, a scale a row."""
        unit, shape = buffer.recipe.parts[0].unit, self._shape(buffer)
        codes = self._later(unit, "codes", shape[0] * shape[1], lambda: self.weights.codes(unit))
        scales = self._later(unit, "scales", shape[0] * 4, lambda: self.weights.scales(unit).flatten())
        return Weights(shape=shape, bits=8, group_size=None, codes=codes, scales=scales)

    def floats(self, buffer: Buffer) -> Weights:
        """A float matrix."""
        unit, shape = buffer.recipe.parts[0].unit, self._shape(buffer)
        frames = self.weights.vision.temporal_patch_size if unit == PATCH_EMBED else 1
        shape = (shape[0], shape[1] // frames)

        def read() -> Tensor:
            weight = self.weights.weight(unit)
            return weight if frames == 1 else weight.unflatten(1, (3, frames, -1)).sum(2).flatten(1)

        codes = self._later(unit, "weight", shape[0] * shape[1] * 4, read)
        return Weights(shape=shape, bits=32, group_size=None, codes=codes, scales=None)

    def table(self, buffer: Buffer) -> Value:
        """The learned positions, (places, C)."""
        data = self.array(buffer)
        return self.program.constant(data, Element.FLOAT32)

    def _shape(self, buffer: Buffer) -> tuple[int, int]:
        entry = self.weights.checkpoint.entries[f"{VISION_PREFIX}{buffer.recipe.parts[0].unit}.weight"]
        rows, *columns = entry.shape
        return rows, int(np.prod(columns))

    def _later(self, unit: str, kind: str, num_bytes: int, read: Callable[[], Tensor]) -> Blob:
        key = hashlib.sha256(f"{self.origin} vision {unit} {kind}".encode()).hexdigest()
        return self.program.named_later(Blob(key, num_bytes), lambda: read().numpy())


@dataclass
class TowerTranslation:
    """One walk over the tower's graph."""

    program: ProgramBuilder
    matrices: TowerMatrices
    image: Image
    values: dict[Node, Any] = field(default_factory=dict)
    biased: set[Node] = field(default_factory=set)  # products that have their bias already

    @property
    def vision(self) -> VisionConfig:
        return self.matrices.weights.vision

    def run(self, captured: ExportedProgram, recipes: dict[str, Recipe]) -> Value:
        """Translate every node; returns the features (1, n, out_hidden_size)."""
        image = self.image
        given = iter([image.patches, image.rows, image.weights, image.cos, image.sin])
        kinds = {spec.arg.name: spec for spec in captured.graph_signature.input_specs}
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                spec = kinds[node.name]
                is_input = spec.kind is InputKind.USER_INPUT
                self.values[node] = next(given) if is_input else Buffer(str(spec.target), recipes[str(spec.target)])
            elif node.op == "call_function" and node.users:
                self.values[node] = self._translate(node)
            elif node.op == "output":
                features = self.values[node.args[0][0]]
        assert isinstance(features, Value)
        return features

    def _translate(self, node: Node) -> Any:
        translate = TABLE.get(node.target)
        if translate is None:
            if isinstance(node.meta.get("val"), torch.SymInt | int):
                return None
            raise LoweringError(f"executorch has no lowering of {node.target} ({node.name}); add it to {__name__}")
        return translate(self, node, *[self.values[arg] if isinstance(arg, Node) else arg for arg in node.args])

    def bias_of(self, node: Node) -> NDArray[np.float32] | None:
        """The bias that is all the product is used for, which the product then takes with it."""
        users = list(node.users)
        if len(users) != 1 or users[0].target is not torch.ops.aten.add.Tensor:
            return None
        added = users[0].args[1]
        other = self.values.get(added) if isinstance(added, Node) else None
        if not isinstance(other, Buffer):
            return None
        self.biased.add(users[0])
        return self.matrices.array(other)


def _linear(translation: TowerTranslation, node: Node, x: Value, codes: Buffer, *_: Any) -> Value:
    region = translation.program.open_region()
    return region.linear(x, translation.matrices.codes(codes), translation.bias_of(node))


def _float_linear(translation: TowerTranslation, node: Node, x: Value, weight: Buffer) -> Value:
    region = translation.program.open_region()
    return region.linear(x, translation.matrices.floats(weight), translation.bias_of(node))


def _add(translation: TowerTranslation, node: Node, x: Value, y: Value | Buffer) -> Value:
    if node in translation.biased:
        return x
    region = translation.program.open_region()
    return region.add(x, region.constant(translation.matrices.array(y)) if isinstance(y, Buffer) else y)


def _layer_norm(
    translation: TowerTranslation, _: Node, x: Value, __: list[int], weight: Buffer, bias: Buffer, eps: float, *___: Any
) -> Value:
    arrays = translation.matrices.array(weight), translation.matrices.array(bias)
    return layer_norm(translation.program.open_region(), x, *arrays, eps)


def _gelu(translation: TowerTranslation, node: Node, x: Value) -> Value:
    region = translation.program.open_region()
    return gelu_tanh(region, x) if node.kwargs.get("approximate") == "tanh" else region.gelu(x)


def _mixed_rows(translation: TowerTranslation, _: Node, table: Buffer, rows: Value, weights: Value) -> Value:
    """Four rows of the learned grid a patch, weighed and added up."""
    program, width = translation.program, translation.vision.hidden_size
    taken = program.tensor((*rows.shape, width))
    program.kernel("aten::embedding", "out", [translation.matrices.table(table), rows, -1, False, False], [taken])
    region = program.open_region()
    weighed = region.multiply(taken, region.reshape(weights, (*weights.shape, 1)))
    one, two, three, four = (region.slice(weighed, 2, tap, 1) for tap in range(4))
    total = region.add(region.add(region.add(one, two), three), four)
    total = region.reshape(total, (1, rows.shape[1], width))
    program.require(total)  # before there is more: four rows a patch are the most that the encoder holds at once
    return total


def _rotate(translation: TowerTranslation, _: Node, x: Value, cos: Value, sin: Value) -> Value:
    region = translation.program.open_region()
    half = x.shape[-1] // 2
    first, second = region.slice(x, -1, 0, half), region.slice(x, -1, half, half)
    turned = [
        region.subtract(region.multiply(first, cos), region.multiply(second, sin)),
        region.add(region.multiply(second, cos), region.multiply(first, sin)),
    ]
    return region.concatenate(turned, -1)


def _attention(translation: TowerTranslation, _: Node, q: Value, k: Value, v: Value, scale: float) -> Value:
    """llama::custom_sdpa without a mask: it never holds the square of the number of patches."""
    out = translation.program.tensor(q.shape)
    translation.program.kernel("llama::custom_sdpa", "out", [q, k, v, 0, None, 0.0, False, scale], [out])
    return out


def _merge(translation: TowerTranslation, _: Node, x: Value, __: Any) -> Value:
    """(1, N, C) to (1, N / 4, 4 C)."""
    merge = translation.vision.merge_size**2
    return translation.program.open_region().reshape(x, (1, Dynamic(x.shape[1] // merge), x.shape[2] * merge))


TABLE: dict[Any, Callable[..., Any]] = {
    operator.getitem: _getitem,
    torch.ops.aten.split_with_sizes.default: _split,
    torch.ops.aten.unflatten.int: _unflatten,
    torch.ops.aten.flatten.using_ints: _flatten,
    torch.ops.aten.linear.default: _float_linear,
    torch.ops.aten.add.Tensor: _add,
    torch.ops.aten.layer_norm.default: _layer_norm,
    torch.ops.aten.gelu.default: _gelu,
    torch.ops.aten.reshape.default: _merge,
    torch.ops.edge.linear.default: _linear,
    torch.ops.edge.interpolate_rows.default: _mixed_rows,
    torch.ops.edge.rotate_patches.default: _rotate,
    torch.ops.edge.full_attention.default: _attention,
}

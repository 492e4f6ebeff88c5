"""The vision tower as a Core ML package of its own: one function for each fixed grid, all over the same weights.

Weights are int8 with a scale a row, or float16; what is computed is float32, since the family's tower is reported to
fail in float16 (docs/vision.md): so it runs on CPU and GPU. The learned positions are stored once and resampled by two
small products, rotary tables are constants of each grid.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 (the name that coremltools gives it everywhere)
from coremltools.converters.mil.mil import Function, Program, types
from torch import Tensor, fx

from export.coreml_lowering import arithmetic
from export.coreml_lowering.emit import Element, Matrix
from export.coreml_lowering.package import write_package
from export.coreml_lowering.weights import Weight, shared
from export.decoder import Matrix as TowerMatrix
from export.errors import LoweringError
from export.vision.capture import CapturedTower, capture_tower, walk
from export.vision.config import VisionConfig
from export.vision.positions import patch_positions, resampling
from export.vision.weights import TowerWeights
from runtimes.vision.grids import Grid, function_name

PATCHES, FEATURES = "pixel_values", "image_features"
TYPES = {"float16": types.fp16, "float32": types.fp32}


@dataclass(frozen=True, kw_only=True)
class TowerElements:
    """What float weights are stored as, and what is computed in."""

    stored: Element = "float16"
    computed: Element = "float32"


@dataclass(kw_only=True)
class TowerEmitter:
    """One function under construction: the tower for a grid of `down` x `across` patches."""

    vision: VisionConfig
    down: int
    across: int
    elements: TowerElements
    dense: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.elements.computed)

    def call(self, node: fx.Node, args: list[Any]) -> Any:
        """Emit one node of the captured tower."""
        if node.target not in TABLE:
            known = ", ".join(sorted(str(target) for target in TABLE))
            raise LoweringError(
                f"coreml: the captured vision tower holds {node.target} at {node.name}, which no table lowers; known: "
                f"{known}"
            )
        return TABLE[node.target](self, args, node)

    def constant(self, tensor: Tensor) -> Any:
        """A constant that every use shares."""
        return shared(tensor.contiguous().numpy().astype(self.dtype))

    def plain(self, weight: Weight) -> Any:
        """A float weight in the type that is computed in."""
        if weight.name not in self.dense:
            value = weight.stand_in()
            if weight.element != self.elements.computed:
                value = mb.constexpr_cast(source_val=value, output_dtype="fp32", name=f"{weight.name}_wide")
            self.dense[weight.name] = value
        return self.dense[weight.name]

    def matrix(self, matrix: Matrix) -> Any:
        """The values that a matrix stands for, decompressed by Core ML."""
        if matrix.scales is None:
            return self.plain(matrix.values)
        name = matrix.values.name
        if name not in self.dense:
            self.dense[name] = mb.constexpr_blockwise_shift_scale(
                data=matrix.values.stand_in(), scale=matrix.scales.stand_in(), name=f"{name}_dense"
            )
        return self.dense[name]


def write_tower(
    weights: TowerWeights,
    grids: tuple[Grid, ...],
    elements: TowerElements,
    package: Path,
    progress: Callable[[str, int], None],
) -> None:
    """Write the tower's package: a function for each grid, in tokens."""
    captured = capture_tower(weights)
    stored = tower_buffers(captured, elements)
    mb.name_count.clear()  # names are numbered over all programs of a process; the same input gives the same bytes
    program = Program()
    program.export_as_multifunction = True
    for grid in grids:
        program.add_function(function_name(grid), _function(captured, grid, elements, stored))
    program.default_function_name = function_name(grids[0])
    parts = {part.name: part for weight in stored.values() for part in _parts(weight)}
    write_package(program, parts, package, progress)


def _parts(weight: Matrix | Weight) -> list[Weight]:
    if isinstance(weight, Matrix):
        return [part for part in (weight.values, weight.scales) if part is not None]
    return [weight]


def _function(
    captured: CapturedTower, grid: Grid, elements: TowerElements, stored: Mapping[str, Matrix | Weight]
) -> Function:
    vision = captured.weights.vision
    emitter = TowerEmitter(
        vision=vision, down=grid[0] * vision.merge_size, across=grid[1] * vision.merge_size, elements=elements
    )
    count = emitter.down * emitter.across
    kind = TYPES[elements.computed]
    function = Function({PATCHES: mb.placeholder((count, vision.patch_dim), dtype=kind)}, opset_version=ct.target.iOS18)
    with function:
        at = patch_positions(vision, emitter.down, emitter.across)
        turned = [emitter.constant(table.reshape(1, count, 1, -1)) for table in (at.cos, at.sin)]
        patches = mb.expand_dims(x=function.inputs[PATCHES], axes=[0])
        features = walk(captured, [patches, None, None, *turned], stored, emitter.call)
        function.set_outputs([mb.squeeze(x=features, axes=[0], name=FEATURES)])
    return function


def tower_buffers(captured: CapturedTower, elements: TowerElements) -> dict[str, Matrix | Weight]:
    """What stands for each buffer of the tower; norms and biases are stored as they are computed."""
    modules = dict(captured.tower.named_modules())
    found: dict[str, Matrix | Weight] = {}
    for name, recipe in captured.tower.recipes().items():
        owner, _, part = name.rpartition(".")
        module = modules[owner]
        unit = recipe.parts[0].unit
        shape = tuple(captured.tower.get_buffer(name).shape)

        def weight(suffix: str, kind: str, size: tuple[int, ...], element: str, source: str = unit) -> Weight:
            def make() -> np.ndarray[Any, Any]:
                return captured.weights.field(kind, source).contiguous().numpy()

            return Weight(name=f"{source}.{suffix}".replace(".", "_"), shape=size, element=element, make=make)

        if part == "codes" and isinstance(module, TowerMatrix):
            scales = weight("scales", "scales", tuple(module.scales.shape), elements.computed)
            found[name] = Matrix(values=weight("codes", "codes", shape, "int8"), scales=scales)
        elif part == "weight":
            found[name] = Matrix(values=weight("weight", "weight", shape, elements.stored))
        elif part != "scales":
            is_table = unit == "pos_embed.weight"
            found[name] = weight("value", recipe.field, shape, elements.stored if is_table else elements.computed)
    return found


Emit = Callable[[TowerEmitter, list[Any], fx.Node], Any]


def _linear(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001 (every operator's signature)
    """A product, and the bias that the only node behind it adds."""
    (behind,) = node.users
    bias = behind.args[1]
    if behind.target is not torch.ops.aten.add.Tensor or not isinstance(bias, fx.Node) or bias.op != "placeholder":
        raise LoweringError(f"coreml: no bias follows {node.name} of the vision tower; it has changed")
    return args[0], args[1]


def _add(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    """A residual, or the bias of a product, which is emitted here."""
    if isinstance(args[0], tuple):
        x, matrix = args[0]
        return mb.linear(x=x, weight=emitter.matrix(matrix), bias=emitter.plain(args[1]))
    return mb.add(x=args[0], y=args[1])


def _layer_norm(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, _, weight, bias, eps = args[:5]
    return mb.layer_norm(
        x=x,
        axes=[-1],
        gamma=emitter.plain(weight),
        beta=emitter.plain(bias),
        epsilon=arithmetic.number(eps, x),
    )


def _gelu(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    mode = "TANH_APPROXIMATION" if node.kwargs.get("approximate") == "tanh" else "EXACT"
    return mb.gelu(x=args[0], mode=mode)


def _split(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    return mb.split(x=args[0], split_sizes=list(args[1]), axis=args[2])


def _unflatten(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, _, sizes = args
    return mb.reshape(x=x, shape=[*x.shape[:-1], *sizes])


def _flatten(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x = args[0]
    return mb.reshape(x=x, shape=[*x.shape[:2], x.shape[2] * x.shape[3]])


def _merge(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    """(1, N, C) to (1, N / 4, 4 C)."""
    x = args[0]
    block = emitter.vision.merge_size**2
    return mb.reshape(x=x, shape=[1, x.shape[1] // block, block * x.shape[2]])


def _rows(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    """The learned grid (side x side, C) resampled: rows, then columns, then block by block, (1, N, C)."""
    side, wide, merge = emitter.vision.side, emitter.vision.hidden_size, emitter.vision.merge_size
    down, across = emitter.down, emitter.across
    table = mb.reshape(x=emitter.plain(args[0]), shape=[side, side * wide])
    rows = mb.matmul(x=emitter.constant(resampling(down, side)), y=table)
    columns = emitter.constant(resampling(across, side).unsqueeze(0))
    places = mb.matmul(x=columns, y=mb.reshape(x=rows, shape=[down, side, wide]))  # (down, across, C)
    blocks = mb.reshape(x=places, shape=[down // merge, merge, across // merge, merge, wide])
    ordered = mb.transpose(x=blocks, perm=[0, 2, 1, 3, 4])
    return mb.reshape(x=ordered, shape=[1, down * across, wide])


def _rotate(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    x, cos, sin = args
    first, second = mb.split(x=x, num_splits=2, axis=-1)
    turned = (
        mb.sub(x=mb.mul(x=first, y=cos), y=mb.mul(x=second, y=sin)),
        mb.add(x=mb.mul(x=second, y=cos), y=mb.mul(x=first, y=sin)),
    )
    return mb.concat(values=turned, axis=-1)


def _attention(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Any:  # noqa: ARG001
    q, k, v, scale = args
    q, k, v = (mb.transpose(x=x, perm=[0, 2, 1, 3]) for x in (arithmetic.scaled(q, scale), k, v))
    weights = mb.softmax(x=mb.matmul(x=q, y=k, transpose_y=True), axis=-1)
    return mb.transpose(x=mb.matmul(x=weights, y=v), perm=[0, 2, 1, 3])


TABLE: dict[Any, Emit] = {
    torch.ops.edge.linear.default: _linear,
    torch.ops.aten.linear.default: _linear,
    torch.ops.aten.add.Tensor: _add,
    torch.ops.aten.layer_norm.default: _layer_norm,
    torch.ops.aten.gelu.default: _gelu,
    torch.ops.aten.split_with_sizes.default: _split,
    torch.ops.aten.unflatten.int: _unflatten,
    torch.ops.aten.flatten.using_ints: _flatten,
    torch.ops.aten.reshape.default: _merge,
    torch.ops.edge.interpolate_rows.default: _rows,
    torch.ops.edge.rotate_patches.default: _rotate,
    torch.ops.edge.full_attention.default: _attention,
}

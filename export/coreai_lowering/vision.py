"""The vision tower as a Core AI asset of its own: one function for each fixed grid, all over the same weights.

Weights are int8 with a scale a row, or float16. The blocks compute in float32, since the family's tower is reported to
fail in float16 (docs/vision.md); patch embedding and merger, whose inputs are small, multiply the float16 that they are
stored in. The learned positions are stored once, rotary tables are constants of each grid.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coreai._compiler.dialects import coreai
from torch import Tensor, fx

from export.coreai_lowering import arithmetic as math
from export.coreai_lowering.arithmetic import WIDE
from export.coreai_lowering.emit import Emitter
from export.coreai_lowering.graph import Port, Value, add_function, constant, new_module, save, shape_of
from export.coreai_lowering.weights import Array, Matrix, Weight, Weights
from export.decoder import Matrix as TowerMatrix
from export.errors import LoweringError
from export.vision.capture import CapturedTower, capture_tower, walk
from export.vision.config import VisionConfig
from export.vision.operators import interpolate_rows
from export.vision.positions import patch_positions
from export.vision.weights import TowerWeights
from runtimes.vision.grids import Grid, function_name

PATCHES, FEATURES = "pixel_values", "image_features"
GELU_FACTOR, GELU_CUBE = sqrt(2 / pi), 0.044715


@dataclass(frozen=True, kw_only=True)
class TowerElements:
    """What floats are stored and multiplied as, and int8 matrices are multiplied in; the rest is float32."""

    stored: str = "float16"
    computed: str = WIDE


@dataclass(kw_only=True)
class TowerEmitter(Emitter):
    """One function under construction: the tower for a grid of `down` x `across` patches."""

    elements: TowerElements
    vision: VisionConfig
    down: int
    across: int

    def lower(self, node: fx.Node, args: list[Any]) -> Any:
        """Emit one node of the captured tower."""
        if node.target not in TABLE:
            known = ", ".join(sorted(str(target) for target in TABLE))
            raise LoweringError(
                f"coreai: the captured vision tower holds {node.target} at {node.name}, which no table lowers; known: "
                f"{known}"
            )
        return TABLE[node.target](self, args, node)


def write_tower(
    weights: TowerWeights,
    grids: tuple[Grid, ...],
    elements: TowerElements,
    asset: Path,
    producer: str,
    progress: Callable[[str, int], None],
) -> None:
    """Write the tower's asset: a function for each grid, in tokens."""
    captured = capture_tower(weights)
    stored = tower_buffers(captured, elements)
    held = Weights(progress=progress)
    with new_module() as module:
        for grid in grids:
            _add(captured, grid, elements, stored, held)
    save(module, asset, producer)


def _add(
    captured: CapturedTower,
    grid: Grid,
    elements: TowerElements,
    stored: Mapping[str, Matrix | Weight],
    held: Weights,
) -> None:
    vision = captured.weights.vision
    down, across = (side * vision.merge_size for side in grid)
    count = down * across

    def body(values: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, Value]]:
        emitter = TowerEmitter(
            tokens=count,
            context_length=0,
            element=elements.computed,
            elements=elements,
            inputs=values,
            weights=held,
            vision=vision,
            down=down,
            across=across,
        )
        at = patch_positions(vision, down, across)
        turned = [_constant(table.reshape(1, count, 1, -1)) for table in (at.cos, at.sin)]
        patches = math.reshape(values[PATCHES], [1, count, vision.patch_dim])
        features = walk(captured, [patches, None, None, *turned], stored, emitter.lower)
        return {FEATURES: math.reshape(features, shape_of(features)[1:])}, {}

    add_function(function_name(grid), [Port(name=PATCHES, shape=(count, vision.patch_dim), element=WIDE)], [], body)


def _constant(tensor: Tensor) -> Value:
    return constant(tensor.contiguous().numpy())


def tower_buffers(captured: CapturedTower, elements: TowerElements) -> dict[str, Matrix | Weight]:
    """What stands for each buffer of the tower; norms and biases are float32."""
    modules = dict(captured.tower.named_modules())
    found: dict[str, Matrix | Weight] = {}
    for name, recipe in captured.tower.recipes().items():
        owner, _, part = name.rpartition(".")
        module, unit = modules[owner], recipe.parts[0].unit
        shape = tuple(captured.tower.get_buffer(name).shape)
        if part == "codes" and isinstance(module, TowerMatrix):
            scales = _weight(captured, "scales", unit, (*module.scales.shape, 1, 1), elements.computed)
            found[name] = Matrix(values=_weight(captured, "codes", unit, (*shape, 1, 1), "int8"), scales=scales)
        elif part == "weight":
            found[name] = Matrix(values=_weight(captured, "weight", unit, (*shape, 1, 1), elements.stored))
        elif part != "scales":
            element = elements.stored if unit == "pos_embed.weight" else WIDE
            found[name] = _weight(captured, recipe.field, unit, shape, element)
    return found


def _weight(captured: CapturedTower, field: str, unit: str, shape: tuple[int, ...], element: str) -> Weight:
    def make() -> Array:
        return captured.weights.field(field, unit).contiguous().numpy()

    return Weight(name=f"{unit}.{field}", shape=shape, element=element, make=make)


Emit = Callable[[TowerEmitter, list[Any], fx.Node], Any]


def _linear(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001 (every operator's signature)
    """A product in the type that the matrix is decompressed to, or stored in: Core AI writes a cast constant anew."""
    x, matrix = args[:2]
    element = matrix.values.element if matrix.scales is None else emitter.elements.computed
    return replace(emitter, element=element).product(x, matrix)


def _add_values(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001
    """A residual or a bias."""
    x, y = (emitter.plain(arg) if isinstance(arg, Weight) else arg for arg in args)
    return math.add(x, y)


def _layer_norm(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001
    x, _, weight, bias, eps = args[:5]
    return math.layer_norm(x, emitter.plain(weight), emitter.plain(bias), eps)


def _gelu(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001
    x = args[0]
    if node.kwargs.get("approximate") == "tanh":
        cube = math.mul(math.mul(math.mul(x, x), x), GELU_CUBE)
        bent = coreai.tanh(math.mul(math.add(x, cube), GELU_FACTOR))
    else:
        bent = coreai.erf(math.mul(x, sqrt(0.5)))
    return math.mul(math.mul(x, 0.5), math.add(bent, 1.0))


def _split(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> list[Value]:  # noqa: ARG001
    x, sizes, axis = args
    return math.split(x, sizes, axis % len(shape_of(x)))


def _unflatten(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001
    x, _, sizes = args
    return math.reshape(x, [*shape_of(x)[:-1], *sizes])


def _flatten(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001
    one, patches, heads, width = shape_of(args[0])
    return math.reshape(args[0], [one, patches, heads * width])


def _merge(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001
    """(1, N, C) to (1, N / 4, 4 C)."""
    block = emitter.vision.merge_size**2
    one, patches, width = shape_of(args[0])
    return math.reshape(args[0], [one, patches // block, block * width])


def _rows(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001
    """Four rows of the learned grid for each patch, weighted and summed, (1, N, C); gathered, and only then widened.

    Core AI stores what it gathers beforehand where that is less than the table; then the sums are less still.
    """
    at = patch_positions(emitter.vision, emitter.down, emitter.across)
    count, taps = at.rows.shape
    if at.rows.numel() < emitter.vision.num_position_embeddings:
        table = torch.from_numpy(args[0].make())
        return _constant(interpolate_rows(table, at.rows, at.weights).unsqueeze(0))
    index = constant(at.rows.reshape(-1, 1).numpy().astype(np.int32))
    found = math.cast(coreai.gather_nd(emitter.plain(args[0]), index), WIDE)
    taken = math.reshape(found, [count, taps, emitter.vision.hidden_size])
    total = coreai.reduce_sum(math.mul(taken, _constant(at.weights.unsqueeze(-1))), np.array([1], np.int32))
    return math.reshape(total, [1, count, emitter.vision.hidden_size])


def _rotate(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001
    x, cos, sin = args
    half = shape_of(x)[-1] // 2
    first, second = math.split(x, [half, half], axis=3)
    turned = (
        math.sub(math.mul(first, cos), math.mul(second, sin)),
        math.add(math.mul(second, cos), math.mul(first, sin)),
    )
    return math.concat(turned, axis=3)


def _attention(emitter: TowerEmitter, args: list[Any], node: fx.Node) -> Value:  # noqa: ARG001
    q, k, v, scale = args
    q, k, v = (math.heads_first(x) for x in (math.mul(q, scale), k, v))
    weights = math.softmax(math.matmul(q, math.transpose(k, [0, 1, 3, 2])))
    return math.heads_last(math.matmul(weights, v))


TABLE: dict[Any, Emit] = {
    torch.ops.edge.linear.default: _linear,
    torch.ops.aten.linear.default: _linear,
    torch.ops.aten.add.Tensor: _add_values,
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

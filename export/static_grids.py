"""Static grids of 8-bit activations: one scale and one zero point for each input of quantized matrices, from text.

A runtime that rounds inputs on a grid known beforehand need not look at them first, and can multiply whole matrices in
integers. The grid must then fit every token to come. Calibration text flows through the blocks, one in memory at a
time; the grid of an input covers the text's range, or less where clipping what is rare loses less than a coarser step
does. Errors are of the product: squared, each channel weighted by the column that reads it.

An input of which a few tokens are far larger than the rest has no grid of use: what most tokens hold would fall on a
handful of codes. So an input whose grid loses several times what a grid for each token would stays dynamic; as a rule
those behind SwiGLU, the delta rule and attention (docs/quantization.md). A runtime that also rounds products gets grids
for them, which cover the text's range.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from export import operators as edge
from export.config import ModelConfig
from export.decoder import Activations, Layer, Matrix, input_grid_name, output_grid_name
from export.errors import QuantizationError
from export.materialize import num_rows
from export.quality.reading import Reading, embed, load_reading_layer, run_layer
from export.quantized import QuantizedCheckpoint
from export.schemes import INT8_ROW

TOKENS_AT_MOST = 2048  # what a layer's matrices read and make of them is in memory at once: 250 MB at 0.8B
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # of the text's range, that a grid may cover
MOST_TIMES = 4.0  # what a grid for each token loses
LOWEST, STEPS = -128, 255

Progress = Callable[[str, int], None]
Product = tuple[Tensor, Tensor]  # inputs (tokens, in_features) and outputs (tokens, out_features) of one call


@torch.no_grad()
def with_static_grids(
    store: QuantizedCheckpoint, activations: Activations, tokens: Tensor, progress: Progress
) -> QuantizedCheckpoint:
    """The store with grids learned on some of `tokens` int64 (N, T); `activations` is what all other inputs get.

    Raises QuantizationError where the text made an input that is no number.
    """
    reading = Reading(name="static", weights=store, activations=activations)
    hidden = embed(store, tokens[: max(1, TOKENS_AT_MOST // tokens.shape[1])])
    grids: dict[str, Tensor] = {}
    for index in range(store.config.num_layers):
        layer = load_reading_layer(reading, index)
        with _watching(layer) as seen:
            hidden = run_layer(layer, reading, index, hidden)
        for matrix, products in seen.items():
            found = _grid(matrix, torch.cat([x for x, _ in products]))
            if found is not None:
                grids |= {input_grid_name(part.unit): found for part in matrix.parts}
                if activations.static_outputs:
                    grids |= _output_grids(matrix, torch.cat([y for _, y in products]), store.config)
        progress(f"layer {index + 1} of {store.config.num_layers}", hidden.shape[0] * hidden.shape[1])
    return replace(store, grids=grids)


@contextmanager
def _watching(layer: Layer) -> Iterator[dict[Matrix, list[Product]]]:
    """Collects what goes into and out of matrices of 8-bit rows; there is no integer product of other formats."""
    seen: dict[Matrix, list[Product]] = {}

    def keep(matrix: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(matrix, Matrix)
        seen.setdefault(matrix, []).append((args[0].flatten(0, 1), output.flatten(0, 1)))

    wanted = [one for one in layer.modules() if isinstance(one, Matrix) and one.form == INT8_ROW]
    handles = [matrix.register_forward_hook(keep) for matrix in wanted]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _grid(matrix: Matrix, x: Tensor) -> Tensor | None:
    """The grid of least error for inputs x (tokens, in_features), or None where it loses too much."""
    if not bool(x.isfinite().all()):
        raise QuantizationError(
            f"{matrix.parts[0].unit}: the calibration text made inputs that are no numbers; check the checkpoint with "
            "--scheme float, or give another --calibration"
        )
    weight = edge.dequantize(matrix.codes, matrix.scales).square().sum(0)  # (in_features,)

    def error(rounded: Tensor) -> float:
        return float((rounded - x).square_().sum(0) @ weight)

    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)  # 0 must be on the grid
    grids = [covering(low * share, high * share) for share in SHARES]
    errors = [error(edge.round_to_grid(x, grid)) for grid in grids]
    dynamic = error(edge.quantize_activation(x, "int8_token", x.shape[1]))
    least = min(errors)
    return grids[errors.index(least)] if least <= MOST_TIMES * dynamic else None


def _output_grids(matrix: Matrix, y: Tensor, config: ModelConfig) -> dict[str, Tensor]:
    """Grids of each part's products y (tokens, out_features), over all of their range."""
    products = y.split([num_rows(part, config) for part in matrix.parts], dim=1)
    ranges = [(min(float(one.min()), 0.0), max(float(one.max()), 0.0)) for one in products]
    return {output_grid_name(part): covering(*ends) for part, ends in zip(matrix.parts, ranges, strict=True)}


def covering(low: float, high: float) -> Tensor:
    """The grid (2,) of 256 codes from `low` <= 0 to `high` >= 0: a scale and a zero point in -128..127."""
    scale = (high - low) / STEPS or 1.0
    return torch.tensor([scale, round(LOWEST - low / scale)], dtype=torch.float32)

"""The vision tower as a Core ML package, run by the evaluator of the written file, against eager torch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.decoder import Activations
from export.schemes import FLOAT, INT8_ROW, Format
from export.vision.positions import patch_positions
from export.vision.weights import TowerWeights, load_tower
from tests.vision.towers import seeing_checkpoint, tower_weights

pytest.importorskip("coremltools", reason="needs the package coremltools, of this project's extra 'coreml'")

from export.coreml_lowering.vision import TowerElements, write_tower
from runtimes.mil import load_package
from runtimes.vision.grids import Grid, function_name

GRIDS: tuple[Grid, ...] = ((2, 2), (3, 4), (8, 8))
IN_FLOAT32, STORED_FLOAT16, IN_FLOAT16 = 1e-5, 1e-3, 5e-3  # relative to the largest value; measured: docs/vision.md

STRONG = {"blocks.0.mlp.linear_fc2.bias": 3e4, "blocks.1.mlp.linear_fc2.bias": -3e4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing_checkpoint(tmp_path_factory.mktemp("seeing"))


def weights_of(checkpoint: Path, form: Format) -> TowerWeights:
    """Core ML multiplies codes by inputs that are not rounded."""
    return replace(tower_weights(checkpoint, form), activations=Activations())


@torch.no_grad()
def largest_error(weights: TowerWeights, package: Path, elements: TowerElements, grid: Grid) -> float:
    """Of one grid's function, relative to eager torch's largest value."""
    down, across = (side * weights.vision.merge_size for side in grid)
    patches = torch.rand(down * across, weights.vision.patch_dim, generator=torch.Generator().manual_seed(3)) * 2 - 1
    wanted = load_tower(weights).encode(patches, patch_positions(weights.vision, down, across))
    given = {"pixel_values": patches.numpy().astype(elements.computed)}
    found = load_package(package, function_name(grid)).run(given)["image_features"]
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted.numpy()).max() / wanted.abs().max())


@pytest.mark.parametrize(
    ("form", "elements", "tolerance"),
    [
        (INT8_ROW, TowerElements(), STORED_FLOAT16),
        (FLOAT, TowerElements(stored="float32"), IN_FLOAT32),
        pytest.param(INT8_ROW, TowerElements(computed="float16"), IN_FLOAT16, marks=pytest.mark.slow),
    ],
)
def test_every_grids_function_gives_the_features_of_eager_torch_on_the_same_codes(
    form: Format, elements: TowerElements, tolerance: float, checkpoint: Path, tmp_path: Path
) -> None:
    weights, package = weights_of(checkpoint, form), tmp_path / "vision.mlpackage"
    sizes: dict[str, int] = {}
    write_tower(weights, GRIDS, elements, package, lambda name, size: sizes.update({name: size}))
    for grid in GRIDS:
        assert largest_error(weights, package, elements, grid) < tolerance, grid
    blob = (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    constants = sum(4 * down * across * 4 * weights.vision.head_dim for down, across in GRIDS)  # rotary tables
    assert sum(sizes.values()) <= blob <= sum(sizes.values()) + constants + 20_000  # each weight once for all grids


def test_a_tower_with_a_strong_channel_is_right_because_it_computes_in_float32(
    checkpoint: Path, tmp_path: Path
) -> None:
    weights = weights_of(checkpoint, INT8_ROW)
    strong = StrongWeights(**{name: getattr(weights, name) for name in weights.__dataclass_fields__})
    errors = {}
    for elements in (TowerElements(), TowerElements(computed="float16")):
        package = tmp_path / f"{elements.computed}.mlpackage"
        write_tower(strong, GRIDS[:1], elements, package, lambda *_: None)
        errors[elements.computed] = largest_error(strong, package, elements, GRIDS[0])
    assert errors["float32"] < 2 * STORED_FLOAT16
    assert errors["float16"] > 0.1


class StrongWeights(TowerWeights):
    """One channel of the residual stream is strong between two blocks, as in trained towers."""

    def plain(self, name: str) -> torch.Tensor:
        value = super().plain(name)
        if name in STRONG:
            value[3] = STRONG[name]
        return value

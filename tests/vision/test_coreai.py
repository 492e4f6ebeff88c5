"""The vision tower as a Core AI asset, run by Apple's own runtime, against eager torch."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.decoder import Activations
from export.schemes import FLOAT, INT8_ROW, Format
from export.vision.positions import patch_positions
from export.vision.weights import TowerWeights, load_tower
from tests.vision.towers import seeing_checkpoint, tower_weights

pytest.importorskip("coreai", reason="needs the package coreai-core, of this project's extra 'coreai'")

from coreai.authoring import AIModelAsset
from coreai.runtime import NDArray

from export.coreai_lowering.vision import TowerElements, write_tower
from runtimes.vision.grids import Grid, function_name

GRIDS: tuple[Grid, ...] = ((2, 2), (3, 4), (8, 8))
IN_FLOAT32, STORED_FLOAT16 = 1e-5, 2e-3  # relative to the largest value; measured: docs/vision.md


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing_checkpoint(tmp_path_factory.mktemp("seeing"))


async def encoded(asset: Path, grid: Grid, patches: torch.Tensor) -> "np.ndarray[Any, Any]":
    """The features of one image by the function of its grid."""
    async with AIModelAsset.load(asset).executable() as model:
        outputs = await model.load_function(function_name(grid))({"pixel_values": NDArray(patches.numpy())}, {})
        features: Any = outputs["image_features"]
        found: np.ndarray[Any, Any] = features.numpy()
        return found


@torch.no_grad()
def largest_error(weights: TowerWeights, asset: Path, grid: Grid) -> float:
    """Of one grid's function, relative to eager torch's largest value."""
    down, across = (side * weights.vision.merge_size for side in grid)
    patches = torch.rand(down * across, weights.vision.patch_dim, generator=torch.Generator().manual_seed(3)) * 2 - 1
    wanted = load_tower(weights).encode(patches, patch_positions(weights.vision, down, across))
    found = asyncio.run(encoded(asset, grid, patches))
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted.numpy()).max() / wanted.abs().max())


@pytest.mark.parametrize(
    ("form", "elements", "tolerance"),
    [
        (INT8_ROW, TowerElements(), STORED_FLOAT16),
        (FLOAT, TowerElements(stored="float32"), IN_FLOAT32),
    ],
)
def test_every_grids_function_gives_the_features_of_eager_torch_on_the_same_codes(
    form: Format, elements: TowerElements, tolerance: float, checkpoint: Path, tmp_path: Path
) -> None:
    weights = replace(tower_weights(checkpoint, form), activations=Activations())
    sizes: dict[str, int] = {}
    asset = tmp_path / "vision.aimodel"
    write_tower(weights, GRIDS, elements, asset, "test", lambda name, size: sizes.update({name: size}))
    for grid in GRIDS:
        assert largest_error(weights, asset, grid) < tolerance, grid
    patches = sum(4 * down * across for down, across in GRIDS)
    constants = patches * (4 * weights.vision.head_dim + 32)  # rotary tables, and where positions come from
    program = (asset / "main.mlirb").stat().st_size
    assert sum(sizes.values()) <= program <= sum(sizes.values()) + constants + 80_000  # each weight once for all grids

"""The vision tower is transformers' own, for any grid of patches, and loses little as int8."""

from pathlib import Path
from typing import Any

import pytest
import torch

from export.config import parse_config
from export.errors import ConfigError
from export.schemes import FLOAT, INT8_ROW
from export.vision.config import parse_vision_config
from export.vision.positions import patch_positions
from export.vision.weights import load_tower
from tests.fixtures import TINY, load_reference
from tests.vision.towers import GRIDS, seeing_checkpoint, tower_weights

EXACT = 1e-4  # relative to the largest value; measured: 2e-6


@pytest.fixture(scope="module", params=["random", "tiny"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing_checkpoint(tmp_path_factory.mktemp("seeing")) if request.param == "random" else TINY


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Any:
    return load_reference(checkpoint).model.visual


def patches_of(height: int, width: int, patch_dim: int) -> torch.Tensor:
    return torch.randn(height * width, patch_dim, generator=torch.Generator().manual_seed(height + width))


@torch.no_grad()
def test_the_tower_equals_transformers_on_six_grids(checkpoint: Path, reference: Any) -> None:
    weights = tower_weights(checkpoint)
    tower = load_tower(weights)
    for height, width in GRIDS:
        patches = patches_of(height, width, weights.vision.patch_dim)
        wanted = reference(patches, grid_thw=torch.tensor([[1, height, width]])).pooler_output
        found = tower.encode(patches, patch_positions(weights.vision, height, width))
        assert found.shape == wanted.shape == (height * width // 4, weights.vision.out_hidden_size)
        assert (found - wanted).abs().max() <= EXACT * wanted.abs().max(), (height, width)


@torch.no_grad()
def test_several_images_in_one_call_equal_one_call_each(checkpoint: Path, reference: Any) -> None:
    """Attention never crosses images, so a runner may encode them one by one."""
    weights = tower_weights(checkpoint)
    tower = load_tower(weights)
    grids = [(4, 6), (2, 8), (2, 2)]
    patches = [patches_of(height, width, weights.vision.patch_dim) for height, width in grids]
    together = reference(torch.cat(patches), grid_thw=torch.tensor([[1, *grid] for grid in grids])).pooler_output
    apart = [
        tower.encode(one, patch_positions(weights.vision, *grid)) for one, grid in zip(patches, grids, strict=True)
    ]
    assert (torch.cat(apart) - together).abs().max() <= EXACT * together.abs().max()


@torch.no_grad()
def test_int8_moves_the_embeddings_a_little_and_leaves_patch_embedding_and_merger_float(checkpoint: Path) -> None:
    weights = tower_weights(checkpoint, INT8_ROW)
    exact, rounded = load_tower(tower_weights(checkpoint, FLOAT)), load_tower(weights)
    patches, positions = patches_of(10, 12, weights.vision.patch_dim), patch_positions(weights.vision, 10, 12)
    wanted, found = exact.encode(patches, positions), rounded.encode(patches, positions)
    error = ((found - wanted).norm() / wanted.norm()).item()
    assert 0 < error < 0.05
    floats = {name.split(".")[0] for name, buffer in rounded.named_buffers() if name.endswith("matrix.weight")}
    codes = {name.split(".")[0] for name, buffer in rounded.named_buffers() if name.endswith("matrix.codes")}
    assert (floats, codes) == ({"patch_embed", "merger"}, {"blocks"})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("depth", 0, "depth is 0, expected a positive integer"),
        ("hidden_act", "relu", "hidden_act is 'relu', this tower implements 'gelu_pytorch_tanh' only"),
        ("in_channels", 1, "in_channels is 1"),
        ("deepstack_visual_indexes", [5], r"deepstack_visual_indexes is \[5\]"),
        ("num_position_embeddings", 15, "num_position_embeddings 15 is no square"),
        ("num_heads", 3, "hidden_size 64 over num_heads 3"),
        ("out_hidden_size", 100, "out_hidden_size 100 differs from the text model's hidden_size 192"),
        ("patch_size", "16", "patch_size is '16'"),
    ],
)
def test_a_vision_config_that_is_not_built_is_refused_by_name(field: str, value: object, said: str) -> None:
    raw = tower_weights(TINY).checkpoint.config
    broken = {**raw, "vision_config": {**raw["vision_config"], field: value}}
    with pytest.raises(ConfigError, match=said):
        parse_vision_config(broken, parse_config(raw))


def test_a_checkpoint_without_a_tower_says_which_modality_to_ask_for() -> None:
    raw = {name: value for name, value in tower_weights(TINY).checkpoint.config.items() if name != "vision_config"}
    with pytest.raises(ConfigError, match="has no vision_config.*use --modality text"):
        parse_vision_config(raw, parse_config(raw))

"""Cutting a checkpoint to its first layers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.side_by_side.slice_checkpoint import is_kept, slice_checkpoint, sliced_config

CONFIG = {"text_config": {"num_hidden_layers": 8, "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2}}


def test_the_config_keeps_the_first_layers_and_declares_no_mtp() -> None:
    text = sliced_config(CONFIG, 4)["text_config"]
    assert (text["num_hidden_layers"], len(text["layer_types"]), text["mtp_num_hidden_layers"]) == (4, 4, 0)
    assert CONFIG["text_config"]["num_hidden_layers"] == 8


@pytest.mark.parametrize(("layers", "message"), [(0, "1 to 8"), (9, "1 to 8"), (3, "use 4 or more")])
def test_a_number_of_layers_that_makes_no_model_is_refused(layers: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sliced_config(CONFIG, layers)


def test_layer_ten_is_not_taken_for_layer_one() -> None:
    assert is_kept("model.language_model.layers.1.mlp.up_proj.weight", 4)
    assert not is_kept("model.language_model.layers.10.mlp.up_proj.weight", 4)
    assert is_kept("model.language_model.embed_tokens.weight", 4)
    assert not is_kept("model.visual.patch_embed.proj.weight", 4)


def test_a_sharded_checkpoint_with_vision_and_mtp_becomes_one_text_only_file(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = fixture_checkpoint("like_9b")
    slice_checkpoint(source, tmp_path / "part", 4)
    tensors = load_file(tmp_path / "part" / "model.safetensors")
    assert all(is_kept(name, 4) for name in tensors)
    assert {"lm_head.weight", "model.language_model.norm.weight"} <= set(tensors)
    assert json.loads((tmp_path / "part" / "config.json").read_text())["text_config"]["mtp_num_hidden_layers"] == 0
    assert (tmp_path / "part" / "tokenizer.json").exists()

"""The GGUF that llama.cpp is measured with: the right names, shapes and values."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.side_by_side.workers.build_gguf import for_ggml, tile_value_heads, write_gguf
from benchmarks.side_by_side.workers.weight_bytes import gguf_weight_bytes

Checkpoint = Callable[[str], Path]
TEXT = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 3,
    "linear_value_head_dim": 3,
}


def test_value_heads_go_from_grouped_to_tiled_order() -> None:
    # rows are (key head, repeat): 00 01 10 11, each of width 1
    grouped = torch.tensor([0, 1, 10, 11])
    assert tile_value_heads(grouped, 0, TEXT, 1).tolist() == [0, 10, 1, 11]


def test_only_the_value_rows_of_the_joint_projection_are_reordered() -> None:
    keys, values = 2 * 2 * 3, 4 * 3
    weight = torch.arange(keys + values, dtype=torch.float32).unsqueeze(1)
    _, stored = for_ggml("model.layers.0.linear_attn.in_proj_qkv.weight", weight, TEXT)
    assert stored[:keys].equal(weight[:keys])
    assert stored[keys:].flatten().tolist() == [12, 13, 14, 18, 19, 20, 15, 16, 17, 21, 22, 23]


def test_norms_get_their_one_and_the_gated_norm_keeps_its_own() -> None:
    weight = torch.full((3,), 0.5, dtype=torch.bfloat16)
    assert for_ggml("model.layers.0.input_layernorm.weight", weight, TEXT)[1].tolist() == [1.5] * 3
    assert for_ggml("model.layers.0.linear_attn.norm.weight", weight, TEXT)[1].tolist() == [0.5] * 3


def test_decay_is_stored_as_minus_its_exponential() -> None:
    _, stored = for_ggml("model.layers.0.linear_attn.A_log", torch.zeros(4), TEXT)
    assert stored.tolist() == [-1.0] * 4


@pytest.mark.parametrize("name", ["like_2b", "like_4b", "like_9b", "base_fp16"])
def test_the_file_holds_every_text_tensor_once_under_names_that_llama_cpp_knows(
    name: str, fixture_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint = fixture_checkpoint(name)
    write_gguf(checkpoint, tmp_path / "model.gguf")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    weights: dict[str, torch.Tensor] = {}
    for shard in checkpoint.glob("*.safetensors"):
        weights |= load_file(shard)
    text = [key for key in weights if key.startswith(("model.language_model.", "lm_head."))]
    assert len(tensors) == len(text)
    config = json.loads((checkpoint / "config.json").read_text())["text_config"]
    # gguf gives shapes from the innermost axis out
    assert tensors["token_embd.weight"].shape.tolist() == [config["hidden_size"], config["vocab_size"]]
    assert tensors["blk.0.ssm_conv1d.weight"].shape.tolist()[0] == config["linear_conv_kernel_dim"]
    assert tensors["blk.0.ssm_a"].shape.tolist() == [config["linear_num_value_heads"]]
    assert {"blk.0.ssm_dt.bias", "blk.0.ssm_alpha.weight", "blk.3.attn_q.weight", "output_norm.weight"} <= set(tensors)
    assert ("output.weight" in tensors) == (not config["tie_word_embeddings"])


def test_a_tied_table_is_read_whole_each_token_and_an_untied_embedding_is_not(
    fixture_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    read = {}
    for name in ("like_4b", "like_9b"):
        write_gguf(fixture_checkpoint(name), tmp_path / f"{name}.gguf")
        read[name] = gguf_weight_bytes(tmp_path / f"{name}.gguf")
    # the two differ only in the head of its own
    assert read["like_4b"] == read["like_9b"]


def test_llama_cpp_computes_what_transformers_does(fixture_checkpoint: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is an optional extra")
    from tests.fixtures import load_reference

    checkpoint = fixture_checkpoint("base_fp32")
    write_gguf(checkpoint, tmp_path / "model.gguf")
    ids = list(range(30, 94))
    program = (
        f"import llama_cpp, numpy; m = llama_cpp.Llama({str(tmp_path / 'model.gguf')!r}, n_ctx=256, logits_all=True,"
        f" verbose=False, n_threads=1); m.eval({ids}); numpy.save({str(tmp_path / 'l.npy')!r}, m.scores[:{len(ids)}])"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with torch.inference_mode():
        expected = load_reference(checkpoint)(input_ids=torch.tensor([ids])).logits[0].numpy()
    assert np.abs(np.load(tmp_path / "l.npy") - expected).max() < 1e-3 * np.abs(expected).max()

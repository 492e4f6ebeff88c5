"""Write a Qwen3.5 checkpoint as an unquantized GGUF file, tensor by tensor, for llama.cpp to quantize.

What llama.cpp's qwen35 graph expects of the file (src/models/qwen35.cpp of the release that llama-cpp-python 0.3.36
carries): RMSNorm weights with the +1 baked in, except the gated norm's; A_log as -exp(A_log); the convolution without
its middle axis; value heads in tiled order (all first heads of the key groups, then all second ones) where there are
more value than key heads. Vectors and the convolution are fp32, matrices keep the checkpoint's type.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

RAW_TYPES = {
    torch.bfloat16: gguf.GGMLQuantizationType.BF16,
    torch.float16: gguf.GGMLQuantizationType.F16,
    torch.float32: gguf.GGMLQuantizationType.F32,
}
FILE_TYPES = {
    torch.bfloat16: gguf.LlamaFileType.MOSTLY_BF16,
    torch.float16: gguf.LlamaFileType.MOSTLY_F16,
    torch.float32: gguf.LlamaFileType.ALL_F32,
}


def language_tensors(checkpoint: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The text model's tensors, one at a time, under the names a text-only checkpoint gives them."""
    for shard in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                short = name.replace("model.language_model.", "model.", 1)
                if short.startswith(("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")):
                    yield short, tensors.get_tensor(name)


def tile_value_heads(tensor: torch.Tensor, axis: int, text: dict[str, Any], head_dim: int) -> torch.Tensor:
    """Reorder one axis from value heads grouped by key head to value heads tiled over the key heads."""
    groups = text["linear_num_key_heads"]
    repeats = text["linear_num_value_heads"] // groups
    split = tensor.unflatten(axis, (groups, repeats, head_dim))
    tiled: torch.Tensor = split.transpose(axis, axis + 1).flatten(axis, axis + 2)
    return tiled.contiguous()


def with_tiled_heads(name: str, tensor: torch.Tensor, text: dict[str, Any]) -> torch.Tensor:
    head_dim = text["linear_value_head_dim"]
    if name.endswith((".in_proj_a.weight", ".in_proj_b.weight", ".A_log", ".dt_bias")):
        return tile_value_heads(tensor, 0, text, 1)
    if name.endswith(".in_proj_z.weight"):
        return tile_value_heads(tensor, 0, text, head_dim)
    if name.endswith(".out_proj.weight"):
        return tile_value_heads(tensor, 1, text, head_dim)
    if name.endswith((".in_proj_qkv.weight", ".conv1d.weight")):
        keys = 2 * text["linear_num_key_heads"] * text["linear_key_head_dim"]
        return torch.cat([tensor[:keys], tile_value_heads(tensor[keys:], 0, text, head_dim)])
    return tensor


def for_ggml(name: str, tensor: torch.Tensor, text: dict[str, Any]) -> tuple[str, torch.Tensor]:
    """One checkpoint tensor as llama.cpp wants it, with the name that gguf's own name map knows."""
    if ".linear_attn." in name:
        tensor = with_tiled_heads(name, tensor, text)
    if name.endswith(".A_log"):
        return name, -tensor.float().exp()
    if name.endswith(".dt_bias"):
        return name.removesuffix("dt_bias") + "dt_proj.bias", tensor.float()
    if name.endswith(".conv1d.weight"):
        return name, tensor.float().squeeze(1)
    if name.endswith("norm.weight"):
        offset = 0.0 if ".linear_attn." in name else 1.0
        return name, tensor.float() + offset
    return name, tensor


def as_array(tensor: torch.Tensor) -> NDArray[Any]:
    """The tensor's bytes for numpy, which knows no bfloat16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.numpy()


def ggml_name(names: gguf.TensorNameMap, name: str) -> str:
    mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if mapped is None:
        raise ValueError(f"{name}: gguf {gguf.__name__} has no name for it in architecture qwen35")
    return mapped


def add_shapes(writer: gguf.GGUFWriter, text: dict[str, Any], file_type: gguf.LlamaFileType) -> None:
    rope = text["rope_parameters"]
    writer.add_file_type(file_type)
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(text["head_dim"])
    writer.add_value_length(text["head_dim"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(text["head_dim"] * rope["partial_rotary_factor"]))
    writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
    writer.add_ssm_conv_kernel(text["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(text["linear_key_head_dim"])
    writer.add_ssm_group_count(text["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(text["linear_num_value_heads"])
    writer.add_ssm_inner_size(text["linear_value_head_dim"] * text["linear_num_value_heads"])
    writer.add_full_attention_interval(text["layer_types"].index("full_attention") + 1)


def add_vocabulary(writer: gguf.GGUFWriter, checkpoint: Path, vocabulary: int) -> None:
    """The byte-level BPE of tokenizer.json, padded with unused entries to the embedding's rows."""
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    tokens = [f"[PAD{index}]" for index in range(vocabulary)]
    types = [gguf.TokenType.UNUSED] * vocabulary
    for token, index in tokenizer["model"]["vocab"].items():
        tokens[index], types[index] = token, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], kind
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen35")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    stop = json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"]
    writer.add_eos_token_id(stop[0] if isinstance(stop, list) else stop)
    writer.add_add_bos_token(False)


def write_gguf(checkpoint: Path, path: Path) -> None:
    """Two passes over the checkpoint: names and shapes first, then the bytes, so that one tensor is held at a time."""
    text = json.loads((checkpoint / "config.json").read_text())["text_config"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN35, text["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN35])
    embedding_type = next(tensor.dtype for name, tensor in language_tensors(checkpoint) if "embed_tokens" in name)
    add_shapes(writer, text, FILE_TYPES[embedding_type])
    add_vocabulary(writer, checkpoint, text["vocab_size"])
    for name, tensor in language_tensors(checkpoint):
        known, stored = for_ggml(name, tensor, text)
        array = as_array(stored)
        raw = RAW_TYPES[stored.dtype]
        writer.add_tensor_info(ggml_name(names, known), array.shape, np.dtype(array.dtype), array.nbytes, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in language_tensors(checkpoint):
        writer.write_tensor_data(as_array(for_ggml(name, tensor, text)[1]))
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args()
    options.file.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(options.checkpoint, options.file)
    sys.stdout.write(json.dumps({"file": options.file.name, "bytes": options.file.stat().st_size}) + "\n")


if __name__ == "__main__":
    main()

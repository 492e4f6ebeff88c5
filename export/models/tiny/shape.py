"""The shape and the tokenizer of the tiny model: everything but the weights.

The dimensions are small but keep every feature of the family (gated delta layers and a gated full-attention layer in a
3:1 pattern, partial interleaved mRoPE, tied embeddings, padded vocabulary, a vision tower, an MTP layer), and the input
of each linear layer divides by 64, so that groups of 32 and 64 both fit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen3_5Config
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX

VOCAB_SIZE = 2048  # rows of the embedding; the tokenizer uses fewer, as the family's do
BASE_TOKENS = 2016
# Text-like markers are not "special": a decoder that skips special tokens still shows reasoning and tool calls.
ADDED_TOKENS = (
    ("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<|vision_start|>", True),
    ("<|vision_end|>", True), ("<|image_pad|>", True), ("<|video_pad|>", True), ("<think>", False), ("</think>", False),
    ("<tool_call>", False), ("</tool_call>", False), ("<tool_response>", False), ("</tool_response>", False),
)  # fmt: skip
TOKEN_IDS = {token: BASE_TOKENS + index for index, (token, _) in enumerate(ADDED_TOKENS)}

HIDDEN, LAYERS, INTERMEDIATE = 192, 4, 512
VISION_HIDDEN, VISION_DEPTH = 64, 2


def build_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Train a byte-level BPE with the normaliser and the splitting of Qwen3.5."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    for token, special in ADDED_TOKENS:
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=special)])
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    """What tokenizer_config.json says."""
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(TOKEN_IDS[token]): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": special,
            }
            for token, special in ADDED_TOKENS
        },
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def config() -> dict[str, Any]:
    """What config.json says, with the fields of the family's published ones."""
    layer_types = ["full_attention" if (index + 1) % 4 == 0 else "linear_attention" for index in range(LAYERS)]
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "image_token_id": TOKEN_IDS["<|image_pad|>"],
        "model_type": "qwen3_5",
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_output_gate": True,
            "dtype": "bfloat16",
            "eos_token_id": TOKEN_IDS["<|endoftext|>"],
            "full_attention_interval": 4,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "initializer_range": 0.02,
            "intermediate_size": INTERMEDIATE,
            "layer_types": layer_types,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 32,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
            "linear_value_head_dim": 32,
            "mamba_ssm_dtype": "float32",
            "max_position_embeddings": 4096,
            "mlp_only_layers": [],
            "model_type": "qwen3_5_text",
            "mtp_num_hidden_layers": 1,
            "mtp_use_dedicated_embeddings": False,
            "num_attention_heads": 4,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.25,
            "rms_norm_eps": 1e-06,
            "rope_parameters": {
                "mrope_interleaved": True,
                "mrope_section": [3, 3, 2],
                "partial_rotary_factor": 0.25,
                "rope_theta": 10000000,
                "rope_type": "default",
            },
            "tie_word_embeddings": True,
            "use_cache": True,
            "vocab_size": VOCAB_SIZE,
        },
        "tie_word_embeddings": True,
        "transformers_version": "5.23.0",
        "video_token_id": TOKEN_IDS["<|video_pad|>"],
        "vision_config": {
            "deepstack_visual_indexes": [],
            "depth": VISION_DEPTH,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": VISION_HIDDEN,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": 128,
            "model_type": "qwen3_5",
            "num_heads": 2,
            "num_position_embeddings": 256,
            "out_hidden_size": HIDDEN,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "vision_end_token_id": TOKEN_IDS["<|vision_end|>"],
        "vision_start_token_id": TOKEN_IDS["<|vision_start|>"],
    }


def transformers_config() -> Qwen3_5Config:
    """The same config as transformers reads it."""
    return Qwen3_5Config.from_dict(config())


def generation_config() -> dict[str, Any]:
    """What generation_config.json says."""
    return {
        "do_sample": True,
        "eos_token_id": [TOKEN_IDS["<|im_end|>"], TOKEN_IDS["<|endoftext|>"]],
        "pad_token_id": TOKEN_IDS["<|endoftext|>"],
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "transformers_version": "5.23.0",
    }


def preprocessor_config() -> dict[str, Any]:
    """What preprocessor_config.json says: the family's normalisation, sizes for a small tower."""
    return {
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": 2,
        "patch_size": 16,
        "processor_class": "Qwen3VLProcessor",
        "size": {"longest_edge": 65536, "shortest_edge": 1024},
        "temporal_patch_size": 2,
    }


def mtp_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the MTP layer: one full-attention block behind a projection of [embedding, hidden]."""
    text = config()["text_config"]
    heads, kv_heads, head_dim = text["num_attention_heads"], text["num_key_value_heads"], text["head_dim"]
    layer = {
        "input_layernorm": (HIDDEN,),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "post_attention_layernorm": (HIDDEN,),
        "self_attn.k_norm": (head_dim,),
        "self_attn.k_proj": (kv_heads * head_dim, HIDDEN),
        "self_attn.o_proj": (HIDDEN, heads * head_dim),
        "self_attn.q_norm": (head_dim,),
        "self_attn.q_proj": (2 * heads * head_dim, HIDDEN),
        "self_attn.v_proj": (kv_heads * head_dim, HIDDEN),
    }
    glue = {
        "fc": (HIDDEN, 2 * HIDDEN),
        "norm": (HIDDEN,),
        "pre_fc_norm_embedding": (HIDDEN,),
        "pre_fc_norm_hidden": (HIDDEN,),
    }
    return {f"mtp.layers.0.{name}.weight": shape for name, shape in layer.items()} | {
        f"mtp.{name}.weight": shape for name, shape in glue.items()
    }


def save_json(directory: Path, name: str, content: dict[str, Any]) -> None:
    """Write one of the checkpoint's JSON files."""
    (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

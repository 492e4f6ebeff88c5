"""Every tensor of a Qwen3.5 checkpoint by canonical name and shape, from the config alone.

Names and shapes follow what transformers' `Qwen3_5ForConditionalGeneration` saves (transformers/models/qwen3_5), and
for `mtp.*`, which transformers leaves out, what the published checkpoints hold: one full-attention layer behind a
projection of the hidden state beside the next token's embedding. A test compares them with transformers' own
meta-device model.
"""

from collections.abc import Mapping
from typing import Any

from export.checkpoint import EMBEDDING, HEAD, TEXT_PREFIX, VISION_PREFIX
from export.config import ModelConfig

Shapes = dict[str, tuple[int, ...]]


def text_tensors(config: ModelConfig) -> Shapes:
    """Return the text model's tensors, the head among them unless it is tied."""
    shapes: Shapes = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    for layer, kind in enumerate(config.layer_types):
        mixer = _full_attention(config) if kind == "full_attention" else _linear_attention(config)
        shapes |= _prefixed(f"{TEXT_PREFIX}layers.{layer}.", mixer | _rest_of_layer(config))
    shapes[f"{TEXT_PREFIX}norm.weight"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, config.hidden_size)
    return shapes


def mtp_tensors(config: ModelConfig) -> Shapes:
    """Return the tensors of the one multi-token-prediction layer; it shares embedding and head with the text model."""
    hidden = config.hidden_size
    return {
        "mtp.fc.weight": (hidden, 2 * hidden),
        "mtp.pre_fc_norm_embedding.weight": (hidden,),
        "mtp.pre_fc_norm_hidden.weight": (hidden,),
        "mtp.norm.weight": (hidden,),
    } | _prefixed("mtp.layers.0.", _full_attention(config) | _rest_of_layer(config))


def vision_tensors(vision: Mapping[str, Any]) -> Shapes:
    """Return the vision tower's tensors from the `vision_config` of a config.json."""
    hidden, out, mlp = vision["hidden_size"], vision["out_hidden_size"], vision["intermediate_size"]
    merged = hidden * vision["spatial_merge_size"] ** 2
    patch = (vision["in_channels"], vision["temporal_patch_size"], vision["patch_size"], vision["patch_size"])
    shapes: Shapes = {
        "patch_embed.proj.weight": (hidden, *patch),
        "patch_embed.proj.bias": (hidden,),
        "pos_embed.weight": (vision["num_position_embeddings"], hidden),
    }
    block = (
        _with_bias("norm1", hidden)
        | _with_bias("norm2", hidden)
        | _with_bias("attn.qkv", 3 * hidden, hidden)
        | _with_bias("attn.proj", hidden, hidden)
        | _with_bias("mlp.linear_fc1", mlp, hidden)
        | _with_bias("mlp.linear_fc2", hidden, mlp)
    )
    for depth in range(vision["depth"]):
        shapes |= _prefixed(f"blocks.{depth}.", block)
    shapes |= _with_bias("merger.norm", hidden)
    shapes |= _with_bias("merger.linear_fc1", merged, merged) | _with_bias("merger.linear_fc2", out, merged)
    return _prefixed(VISION_PREFIX, shapes)


def _full_attention(config: ModelConfig) -> Shapes:
    return {
        # query and output gate, interleaved head by head
        "self_attn.q_proj.weight": (2 * config.query_dim, config.hidden_size),
        "self_attn.k_proj.weight": (config.key_value_dim, config.hidden_size),
        "self_attn.v_proj.weight": (config.key_value_dim, config.hidden_size),
        "self_attn.o_proj.weight": (config.hidden_size, config.query_dim),
        "self_attn.q_norm.weight": (config.head_dim,),
        "self_attn.k_norm.weight": (config.head_dim,),
    }


def _linear_attention(config: ModelConfig) -> Shapes:
    heads = config.linear_num_value_heads
    return {
        "linear_attn.in_proj_qkv.weight": (config.conv_dim, config.hidden_size),
        "linear_attn.in_proj_z.weight": (config.linear_value_dim, config.hidden_size),
        "linear_attn.in_proj_a.weight": (heads, config.hidden_size),
        "linear_attn.in_proj_b.weight": (heads, config.hidden_size),
        "linear_attn.conv1d.weight": (config.conv_dim, 1, config.linear_conv_kernel_dim),
        "linear_attn.A_log": (heads,),
        "linear_attn.dt_bias": (heads,),
        "linear_attn.norm.weight": (config.linear_value_head_dim,),
        "linear_attn.out_proj.weight": (config.hidden_size, config.linear_value_dim),
    }


def _rest_of_layer(config: ModelConfig) -> Shapes:
    hidden, mlp = config.hidden_size, config.intermediate_size
    return {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (mlp, hidden),
        "mlp.up_proj.weight": (mlp, hidden),
        "mlp.down_proj.weight": (hidden, mlp),
    }


def _with_bias(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}

"""The one parser of a checkpoint's `config.json`: every dimension in the project comes from here.

Field names follow transformers' `Qwen3_5TextConfig` (transformers/models/qwen3_5/configuration_qwen3_5.py). The file is
untrusted: each field is checked for type and range, and what the decoder does not implement is an error, never ignored.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from export.errors import ConfigError

LayerType = Literal["linear_attention", "full_attention"]

MAX_CONFIG_BYTES = 4 << 20
TEXT_TYPES = ("qwen3_5_text",)
COMPOSITE_TYPES = ("qwen3_5",)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Dimensions of the text model; axis sizes in elements, lengths in tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layer_types: tuple[LayerType, ...]
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    rms_norm_eps: float
    rope_theta: float
    rotary_dim: int
    mrope_section: tuple[int, int, int]
    max_position_embeddings: int
    tie_word_embeddings: bool

    @property
    def num_layers(self) -> int:
        return len(self.layer_types)

    @property
    def linear_key_dim(self) -> int:
        return self.linear_num_key_heads * self.linear_key_head_dim

    @property
    def linear_value_dim(self) -> int:
        return self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def conv_dim(self) -> int:
        return 2 * self.linear_key_dim + self.linear_value_dim

    @property
    def query_dim(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_dim(self) -> int:
        return self.num_key_value_heads * self.head_dim


def read_config(checkpoint_dir: Path) -> dict[str, Any]:
    """Return the raw `config.json` of a checkpoint directory."""
    path = checkpoint_dir / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path}: not found; a checkpoint directory holds config.json beside its safetensors")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{path}: {path.stat().st_size} bytes, more than {MAX_CONFIG_BYTES}; this is not a model config"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); download the file again") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds a {type(raw).__name__}, expected an object; download the file again")
    return raw


def parse_config(raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Check `raw` (a whole or a text-only Qwen3.5 config) and return its text dimensions."""
    model_type = raw.get("model_type")
    text: Any = raw.get("text_config") if model_type in COMPOSITE_TYPES else raw
    if not isinstance(text, Mapping) or (model_type not in COMPOSITE_TYPES and model_type not in TEXT_TYPES):
        raise ConfigError(
            f"{where}: model_type {model_type!r} is not a Qwen3.5 model; expected 'qwen3_5' with a text_config, or "
            "'qwen3_5_text'"
        )
    fields = _Fields(text, where)
    _refuse_unbuilt(fields)
    layer_types = fields.layer_types()
    head_dim = fields.positive("head_dim")
    rope = fields.mapping("rope_parameters")
    rope_fields = _Fields(rope, f"{where}: rope_parameters")
    rotary_dim = int(
        head_dim * rope_fields.number("partial_rotary_factor", fields.number("partial_rotary_factor", 0.25))
    )
    tied = raw.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    config = ModelConfig(
        vocab_size=fields.positive("vocab_size"),
        hidden_size=fields.positive("hidden_size"),
        intermediate_size=fields.positive("intermediate_size"),
        layer_types=layer_types,
        num_attention_heads=fields.positive("num_attention_heads"),
        num_key_value_heads=fields.positive("num_key_value_heads"),
        head_dim=head_dim,
        linear_num_key_heads=fields.positive("linear_num_key_heads"),
        linear_num_value_heads=fields.positive("linear_num_value_heads"),
        linear_key_head_dim=fields.positive("linear_key_head_dim"),
        linear_value_head_dim=fields.positive("linear_value_head_dim"),
        linear_conv_kernel_dim=fields.positive("linear_conv_kernel_dim"),
        rms_norm_eps=fields.number("rms_norm_eps"),
        rope_theta=rope_fields.number("rope_theta"),
        rotary_dim=rotary_dim,
        mrope_section=rope_fields.sections("mrope_section", rotary_dim // 2),
        max_position_embeddings=fields.positive("max_position_embeddings"),
        tie_word_embeddings=bool(tied),
    )
    _check_shape(config, where)
    return config


def _refuse_unbuilt(fields: "_Fields") -> None:
    for name, wanted in (("hidden_act", "silu"), ("attention_bias", False), ("attn_output_gate", True)):
        found = fields.raw.get(name, wanted)
        if found != wanted:
            raise ConfigError(f"{fields.where}: {name} is {found!r}; this decoder implements {wanted!r} only")
    rope_type = fields.mapping("rope_parameters").get("rope_type", "default")
    if rope_type != "default":
        raise ConfigError(f"{fields.where}: rope_type is {rope_type!r}; this decoder implements 'default' only")
    if "num_experts" in fields.raw:
        raise ConfigError(f"{fields.where}: mixture-of-experts checkpoints are not built; use a dense Qwen3.5 size")


def _check_shape(config: ModelConfig, where: str) -> None:
    if config.linear_num_value_heads % config.linear_num_key_heads:
        raise ConfigError(
            f"{where}: linear_num_value_heads {config.linear_num_value_heads} is not a multiple of "
            f"linear_num_key_heads {config.linear_num_key_heads}"
        )
    if config.num_attention_heads % config.num_key_value_heads:
        raise ConfigError(
            f"{where}: num_attention_heads {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}"
        )
    if config.rotary_dim % 2 or not 0 < config.rotary_dim <= config.head_dim:
        raise ConfigError(
            f"{where}: {config.rotary_dim} rotary dimensions of head_dim {config.head_dim}; expected an even share"
        )
    if config.linear_key_head_dim != config.linear_value_head_dim:
        raise ConfigError(
            f"{where}: linear_key_head_dim {config.linear_key_head_dim} differs from linear_value_head_dim "
            f"{config.linear_value_head_dim}; this decoder needs them equal"
        )


class _Fields:
    """Typed access to an untrusted mapping; every failure names the field and what it held."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where

    def positive(self, name: str) -> int:
        value = self.raw.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected a positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.raw.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected a positive number")
        return float(value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.raw.get(name)
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected an object")
        return value

    def sections(self, name: str, total: int) -> tuple[int, int, int]:
        value = self.raw.get(name)
        whole = (
            isinstance(value, list) and len(value) == 3 and all(isinstance(part, int) and part >= 0 for part in value)
        )
        if not whole or sum(value or ()) != total:
            raise ConfigError(f"{self.where}: {name} is {value!r}; expected three counts that sum to {total}")
        assert isinstance(value, list)
        return value[0], value[1], value[2]

    def layer_types(self) -> tuple[LayerType, ...]:
        layers = self.positive("num_hidden_layers")
        interval = self.raw.get("full_attention_interval", 4)
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise ConfigError(f"{self.where}: full_attention_interval is {interval!r}; expected a positive integer")
        default = ["full_attention" if (layer + 1) % interval == 0 else "linear_attention" for layer in range(layers)]
        found = self.raw.get("layer_types") or default
        known = ("linear_attention", "full_attention")
        if not isinstance(found, list) or len(found) != layers or any(kind not in known for kind in found):
            raise ConfigError(f"{self.where}: layer_types is {found!r}; expected {layers} entries out of {known}")
        return tuple(found)

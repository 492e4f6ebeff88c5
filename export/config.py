"""The one parser of a checkpoint's `config.json`: every dimension in the project comes from here.

Field names follow transformers' `Qwen3_5TextConfig` (transformers/models/qwen3_5/configuration_qwen3_5.py). The file is
untrusted: each field is checked for type and range, and what the decoder does not implement is an error, never ignored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from export.errors import ConfigError, shown

LayerType = Literal["linear_attention", "full_attention"]

MAX_CONFIG_BYTES = 4 << 20
LARGEST = 1e30
MAX_LAYERS = 1024  # the layers are listed one by one
TEXT_TYPES = ("qwen3_5_text",)
COMPOSITE_TYPES = ("qwen3_5",)
IMPLEMENTED = {"hidden_act": "silu", "attention_bias": False, "attn_output_gate": True}
IMPLEMENTED_ROPE = {"rope_type": "default", "mrope_interleaved": True}
ORIGINAL = "take config.json from the original checkpoint"
DENSE = "use a dense Qwen3.5 checkpoint of the published kind"


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
        raise ConfigError(
            f"{path}: not found; a checkpoint directory holds config.json beside its safetensors, so name that "
            "directory"
        )
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{path}: {path.stat().st_size} bytes, more than {MAX_CONFIG_BYTES}; this is no model config, download the "
            "file again"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or a number of thousands of digits
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
            f"{where}: model_type {shown(model_type)} is not a Qwen3.5 model, expected 'qwen3_5' with a text_config, "
            "or "
            f"'qwen3_5_text'; {DENSE}"
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
    tied = raw if "tie_word_embeddings" in raw else text
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
        tie_word_embeddings=_Fields(tied, where).flag("tie_word_embeddings", False),
    )
    _check_shape(config, where)
    return config


def _refuse_unbuilt(fields: "_Fields") -> None:
    rope = _Fields(fields.mapping("rope_parameters"), f"{fields.where}: rope_parameters")
    for place, implemented in ((fields, IMPLEMENTED), (rope, IMPLEMENTED_ROPE)):
        for name, wanted in implemented.items():
            found = place.raw.get(name, wanted)
            if found != wanted:
                raise ConfigError(
                    f"{place.where}: {name} is {shown(found)}, this decoder implements {wanted!r} only; {DENSE}"
                )
    if fields.raw.get("num_experts"):
        raise ConfigError(
            f"{fields.where}: num_experts is {shown(fields.raw['num_experts'])}, a mixture of experts is not built; "
            f"{DENSE}"
        )


def _check_shape(config: ModelConfig, where: str) -> None:
    if config.linear_num_value_heads % config.linear_num_key_heads:
        raise ConfigError(
            f"{where}: linear_num_value_heads {config.linear_num_value_heads} is not a multiple of "
            f"linear_num_key_heads {config.linear_num_key_heads}; {ORIGINAL}"
        )
    if config.num_attention_heads % config.num_key_value_heads:
        raise ConfigError(
            f"{where}: num_attention_heads {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}; {ORIGINAL}"
        )
    if config.rotary_dim % 2 or not 0 < config.rotary_dim <= config.head_dim:
        raise ConfigError(
            f"{where}: partial_rotary_factor makes {config.rotary_dim} rotary dimensions of head_dim "
            f"{config.head_dim}, "
            f"expected an even number up to it; {ORIGINAL}"
        )
    if config.linear_key_head_dim != config.linear_value_head_dim:
        raise ConfigError(
            f"{where}: linear_key_head_dim {config.linear_key_head_dim} differs from linear_value_head_dim "
            f"{config.linear_value_head_dim}, this decoder needs them equal; {DENSE}"
        )


class _Fields:
    """Typed access to an untrusted mapping; every failure names the field and what it held."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where

    def positive(self, name: str) -> int:
        value = self.raw.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise self._wrong(name, "a positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.raw.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LARGEST:
            raise self._wrong(name, "a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw.get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.raw.get(name)
        if not isinstance(value, Mapping):
            raise self._wrong(name, "an object")
        return value

    def sections(self, name: str, total: int) -> tuple[int, int, int]:
        value = self.raw.get(name)
        parts = value if isinstance(value, list) else []
        whole = len(parts) == 3 and all(type(part) is int and part >= 0 for part in parts)
        if not whole or sum(parts) != total:
            raise self._wrong(name, f"three counts that sum to {total}, half of the rotary dimensions")
        return parts[0], parts[1], parts[2]

    def layer_types(self) -> tuple[LayerType, ...]:
        layers = self.positive("num_hidden_layers")
        if layers > MAX_LAYERS:
            raise self._wrong("num_hidden_layers", f"{MAX_LAYERS} at most")
        interval = self.positive("full_attention_interval") if "full_attention_interval" in self.raw else 4
        default = ["full_attention" if (layer + 1) % interval == 0 else "linear_attention" for layer in range(layers)]
        found = self.raw.get("layer_types") or default
        known = ("linear_attention", "full_attention")
        if not isinstance(found, list) or len(found) != layers or any(kind not in known for kind in found):
            raise self._wrong("layer_types", f"{layers} entries out of {' and '.join(known)}")
        return tuple(found)

    def _wrong(self, name: str, expected: str) -> ConfigError:
        found = f"is {shown(self.raw[name])}" if name in self.raw else "is missing"
        return ConfigError(f"{self.where}: {name} {found}, expected {expected}; {ORIGINAL}")

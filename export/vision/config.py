"""The one parser of a checkpoint's `vision_config`, and of what its preprocessor says of images.

Field names follow transformers' `Qwen3_5VisionConfig` and `Qwen2VLImageProcessorPil`. Both files are untrusted: what
the tower or the preprocessing does not implement is an error, never ignored.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.config import DENSE, LARGEST, ORIGINAL, ModelConfig
from export.errors import ConfigError, shown
from runtimes.vision.spec import ImageSpec

PREPROCESSOR_CONFIG = "preprocessor_config.json"
IMPLEMENTED = {"hidden_act": "gelu_pytorch_tanh", "in_channels": 3}
NORM_EPS = 1e-6  # modeling_qwen3_5.py `Qwen3_5VisionBlock`; not a config field
ROPE_THETA = 10_000.0
MAX_DEPTH = 1024
TOKEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
# the family's own preprocessor_config.json, for checkpoints that come without one (random weights)
FAMILY = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}
IMAGE_SHARE = 4  # an image may take a quarter of the context: room for four, or for one and a conversation


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Dimensions of the tower and its merger, and the tokens that stand for images; axis sizes in elements."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_position_embeddings: int
    out_hidden_size: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    rope_theta: float
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def side(self) -> int:
        """Rows and columns of the learned grid of positions."""
        return math.isqrt(self.num_position_embeddings)

    @property
    def patch_dim(self) -> int:
        """Values of one patch: channels, frames, rows, columns."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    @property
    def merged_dim(self) -> int:
        """Inputs of the merger: the patches that become one token, side by side."""
        return self.hidden_size * self.merge_size**2


def parse_vision_config(raw: Mapping[str, Any], text: ModelConfig, where: str = "config.json") -> VisionConfig:
    """Check the `vision_config` of a whole Qwen3.5 config and return its dimensions."""
    vision = raw.get("vision_config")
    if not isinstance(vision, Mapping):
        raise ConfigError(f"{where}: has no vision_config, so the checkpoint sees no images; use --modality text")
    where = f"{where}: vision_config"
    _refuse_unbuilt(vision, where)
    rope = vision.get("rope_parameters") or {}
    ids = {name: _token_id(raw, name, text.vocab_size, where) for name in TOKEN_IDS}
    config = VisionConfig(
        depth=_positive(vision, "depth", where, MAX_DEPTH),
        hidden_size=_positive(vision, "hidden_size", where),
        intermediate_size=_positive(vision, "intermediate_size", where),
        num_heads=_positive(vision, "num_heads", where),
        num_position_embeddings=_positive(vision, "num_position_embeddings", where),
        out_hidden_size=_positive(vision, "out_hidden_size", where),
        patch_size=_positive(vision, "patch_size", where),
        temporal_patch_size=_positive(vision, "temporal_patch_size", where),
        merge_size=_positive(vision, "spatial_merge_size", where),
        rope_theta=_number(rope, "rope_theta", ROPE_THETA, where),
        **ids,
    )
    _check_shape(config, text, where)
    return config


def image_spec(directory: Path, config: VisionConfig, context_length: int) -> ImageSpec:
    """How an image becomes patches, from the checkpoint's preprocessor_config.json.

    The largest image is bounded by the context too: a quarter of it, where the family allows 16 million pixels.
    """
    place = directory / PREPROCESSOR_CONFIG
    raw: Any = FAMILY
    if place.is_file():
        try:
            raw = json.loads(place.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{place}: not valid JSON ({error}); download it again") from error
    if not isinstance(raw, Mapping) or not isinstance(raw.get("size"), Mapping):
        raise ConfigError(f"{place}: holds no object with a size; {ORIGINAL.replace('config.json', place.name)}")
    for name, wanted in (
        ("patch_size", config.patch_size),
        ("temporal_patch_size", config.temporal_patch_size),
        ("merge_size", config.merge_size),
    ):
        if raw.get(name, wanted) != wanted:
            raise ConfigError(f"{place}: {name} is {shown(raw[name])}, config.json says {wanted}; {ORIGINAL}")
    token_pixels = (config.patch_size * config.merge_size) ** 2
    fewest = _positive(raw["size"], "shortest_edge", f"{place}: size")
    most = _positive(raw["size"], "longest_edge", f"{place}: size")
    return ImageSpec(
        patch_size=config.patch_size,
        temporal_patch_size=config.temporal_patch_size,
        merge_size=config.merge_size,
        min_pixels=min(fewest, token_pixels * max(1, context_length // IMAGE_SHARE)),
        max_pixels=min(most, token_pixels * max(1, context_length // IMAGE_SHARE)),
        mean=_channels(raw, "image_mean", place),
        std=_channels(raw, "image_std", place),
    )


def _refuse_unbuilt(vision: Mapping[str, Any], where: str) -> None:
    for name, wanted in IMPLEMENTED.items():
        if vision.get(name, wanted) != wanted:
            raise ConfigError(
                f"{where}: {name} is {shown(vision[name])}, this tower implements {wanted!r} only; {DENSE}"
            )
    if vision.get("deepstack_visual_indexes"):
        found = shown(vision["deepstack_visual_indexes"])
        raise ConfigError(f"{where}: deepstack_visual_indexes is {found}, which Qwen3.5 does not use; {DENSE}")


def _check_shape(config: VisionConfig, text: ModelConfig, where: str) -> None:
    if config.hidden_size % config.num_heads or config.head_dim % 4:
        raise ConfigError(
            f"{where}: hidden_size {config.hidden_size} over num_heads {config.num_heads} is no head size that a "
            f"multiple of 4 divides, as rows and columns need; {ORIGINAL}"
        )
    if config.side**2 != config.num_position_embeddings:
        raise ConfigError(f"{where}: num_position_embeddings {config.num_position_embeddings} is no square; {ORIGINAL}")
    if config.out_hidden_size != text.hidden_size:
        raise ConfigError(
            f"{where}: out_hidden_size {config.out_hidden_size} differs from the text model's hidden_size "
            f"{text.hidden_size}; {ORIGINAL}"
        )


def _positive(raw: Mapping[str, Any], name: str, where: str, most: int = (1 << 31) - 1) -> int:
    value = raw.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise ConfigError(f"{where}: {name} is {shown(value)}, expected a positive integer; {ORIGINAL}")
    return value


def _number(raw: Mapping[str, Any], name: str, default: float, where: str) -> float:
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LARGEST:
        raise ConfigError(f"{where}: {name} is {shown(value)}, expected a positive number; {ORIGINAL}")
    return float(value)


def _token_id(raw: Mapping[str, Any], name: str, vocab_size: int, where: str) -> int:
    value = raw.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
        raise ConfigError(
            f"{where}: {name} beside it is {shown(value)}, expected a token id below {vocab_size}; {ORIGINAL}"
        )
    return value


def _channels(raw: Mapping[str, Any], name: str, place: Path) -> tuple[float, float, float]:
    values = raw.get(name)
    found = values if isinstance(values, list) and len(values) == 3 else []
    if not found or any(isinstance(v, bool) or not isinstance(v, int | float) or not 0 < v < LARGEST for v in found):
        raise ConfigError(f"{place}: {name} is {shown(values)}, expected three positive numbers; take the original's")
    return float(found[0]), float(found[1]), float(found[2])

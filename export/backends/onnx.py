"""ONNX on ONNX Runtime's newest fused operators; opens unedited in stock onnxruntime-genai."""

from collections.abc import Callable
from pathlib import Path

from export.backends import Lowered, LoweringRequest
from export.config import ModelConfig
from export.onnx_lowering.initializers import ROW_BLOCK
from export.onnx_lowering.lowering import (
    ACTIVATION_KINDS,
    OPTIONS,
    PACKING,
    SPEED,
    TIED,
    check_blocks,
    lower_with,
)
from export.onnx_lowering.profile_newest import PROFILE
from export.quantized import QuantizedCheckpoint
from export.schemes import Format, Layout

__all__ = ["ACTIVATION_KINDS", "OPTIONS", "PACKING", "SPEED", "TIED"]  # the same for both backends

SUMMARY = "ONNX Runtime's fused operators, 4- and 8-bit weights, int8 activations; also opens in onnxruntime-genai"
RUNTIME = "onnxruntime"
OLDEST_RUNTIME = PROFILE.oldest_runtime
CACHE_KINDS = ("float", "int8")
MODALITIES = ("text", "image")
FINEST = {8: Format(bits=8, group_size=ROW_BLOCK)}  # as many bytes as one scale a row, which is packed in these blocks


def check(layout: Layout, config: ModelConfig) -> None:  # noqa: ARG001 (every backend's signature)
    """Refuse what MatMulNBits cannot hold."""
    check_blocks(layout, "onnx")


def estimate_bytes(layout: Layout, config: ModelConfig, context_length: int) -> int:
    """At most what the model files take."""
    return PACKING.file_bytes(layout, config, context_length)


def lower(
    store: QuantizedCheckpoint, request: LoweringRequest, directory: Path, progress: Callable[[str, int], None]
) -> Lowered:
    """Write model.onnx, its data file and genai_config.json."""
    return lower_with(PROFILE, store, request, directory, progress)

"""coreml-float32: the same Core ML program with everything but its states in float32, for CPU and GPU.

The Neural Engine computes in float16, so this is not the fast way. It is for telling on a device what float16 does to
an answer from what is wrong, and for checkpoints that float16 cannot hold. States are float16, since Core ML has no
others; what that costs a convolution's state is kept beside it.
"""

from collections.abc import Callable
from pathlib import Path

from export.backends import Lowered, LoweringRequest
from export.backends.coreml import (
    ACTIVATION_KINDS,
    FINEST,
    FIXED_GRIDS,
    HOLDS_TABLES,
    MODALITIES,
    OLDEST_RUNTIME,
    OPTIONS,
    RUNTIME,
    SPEED,
    TIED,
    TOWER_ACTIVATIONS,
    check_blocks,
    estimate_with,
    lower_captured,
)
from export.config import ModelConfig
from export.coreml_lowering.program import capture_decoder
from export.coreml_lowering.vision import TowerElements
from export.quantized import QuantizedCheckpoint
from export.schemes import Layout
from export.sizes import FLOAT_BYTES, Packing

__all__ = [
    "ACTIVATION_KINDS",
    "FINEST",
    "FIXED_GRIDS",
    "HOLDS_TABLES",
    "MODALITIES",
    "OLDEST_RUNTIME",
    "OPTIONS",
    "RUNTIME",
    "SPEED",
    "TIED",
    "TOWER_ACTIVATIONS",
]  # as in float16

SUMMARY = "the same in float32 on CPU and GPU: tells what float16 does to an answer; states stay float16"
# scales have the type of what they make
PACKING = Packing(
    scale_bytes={4: FLOAT_BYTES, 8: FLOAT_BYTES},
    row_block=None,
    float_bytes=FLOAT_BYTES,
    layer_bytes=170_000,
    base_bytes=260_000,
    padding_bytes=128,
)


def check(layout: Layout, config: ModelConfig) -> None:  # noqa: ARG001 (every backend's signature)
    """Refuse what blockwise constants cannot hold, and another coremltools than this was written for."""
    check_blocks(layout, "coreml-float32")


def estimate_bytes(layout: Layout, config: ModelConfig, context_length: int) -> int:
    """At most what the model files take."""
    return estimate_with(PACKING, layout, config, context_length)


def lower(
    store: QuantizedCheckpoint, request: LoweringRequest, directory: Path, progress: Callable[[str, int], None]
) -> Lowered:
    """Write the packages and coreml.json."""
    captured = capture_decoder(store, request, "float32")
    return lower_captured(captured, directory, progress, TowerElements(stored="float32"))

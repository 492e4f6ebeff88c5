"""coreai-float32: the same Core AI asset with products and caches in float32 too.

Not the fast way on a phone. It tells on a device what float16 does to an answer from what is wrong, and holds what
float16 cannot. In Apple's runtime for Linux it is the exact one.
"""

from collections.abc import Callable
from pathlib import Path

from export.backends import Lowered, LoweringRequest, Tolerance
from export.backends.coreai import (
    ACTIVATION_KINDS,
    FINEST,
    FIXED_GRIDS,
    HOLDS_TABLES,
    MODALITIES,
    OLDEST_RUNTIME,
    OPTIONS,
    PACKAGE,
    RUNTIME,
    SPEED,
    TIED,
    TOWER_ACTIVATIONS,
    Kind,
    check_blocks,
    lower_captured,
)
from export.config import ModelConfig
from export.coreai_lowering.program import capture_decoder
from export.coreai_lowering.vision import TowerElements
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
    "PACKAGE",
    "RUNTIME",
    "SPEED",
    "TIED",
    "TOWER_ACTIVATIONS",
]  # as in float16

SUMMARY = "the same in float32: tells what float16 does to an answer"
IN_FLOAT32 = Kind(tolerance=Tolerance(float_error=1e-5, quantized_kld=1e-5), tower=TowerElements(stored="float32"))
# scales have the type of what they make
PACKING = Packing(
    scale_bytes={4: FLOAT_BYTES, 8: FLOAT_BYTES},
    row_block=None,
    float_bytes=FLOAT_BYTES,
    layer_bytes=16_000,
    base_bytes=165_000,
    padding_bytes=128,
)


def check(layout: Layout, config: ModelConfig) -> None:  # noqa: ARG001 (every backend's signature)
    """Refuse what Core AI's constants cannot hold, and another coreai-core than this was written for."""
    check_blocks(layout, "coreai-float32")


def estimate_bytes(layout: Layout, config: ModelConfig, context_length: int) -> int:
    """At most what the model files take; a tied table counts once."""
    return PACKING.file_bytes(layout, config, context_length)


def lower(
    store: QuantizedCheckpoint, request: LoweringRequest, directory: Path, progress: Callable[[str, int], None]
) -> Lowered:
    """Write model.aimodel."""
    return lower_captured(capture_decoder(store, request, "float32"), directory, progress, IN_FLOAT32)

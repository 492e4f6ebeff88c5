"""ONNX on ONNX Runtime's newest fused operators; opens unedited in stock onnxruntime-genai."""

import json
from collections.abc import Callable
from pathlib import Path

from export.backends import Lowered, LoweringRequest
from export.config import ModelConfig
from export.decoder import Activations
from export.errors import UnsupportedSchemeError
from export.onnx_lowering.genai_config import genai_config
from export.onnx_lowering.graph import write_graph
from export.onnx_lowering.profile_newest import PROFILE
from export.quantized import QuantizedCheckpoint
from export.schemes import Layout
from export.sizes import model_bytes

SUMMARY = "ONNX Runtime's fused operators, 4- and 8-bit weights, int8 activations; also opens in onnxruntime-genai"
RUNTIME = "onnxruntime"
OLDEST_RUNTIME = "1.31.0"
ROW_BLOCK = 32  # the block that per-row 8-bit codes are packed in, and so that their activations are scaled in
ACTIVATIONS = Activations(kind="int8_group", group_cap=ROW_BLOCK)
BLOCK_SIZES = (16, 32, 64, 128, 256)
MODEL_FILE = "model.onnx"
PREFILL_CHUNK = 128  # longer ones cost activation memory and gain nothing


def check(layout: Layout, config: ModelConfig) -> None:
    """Refuse what MatMulNBits cannot hold."""
    for unit, form in layout.items():
        if form.group_size is not None and form.group_size not in BLOCK_SIZES:
            raise UnsupportedSchemeError(
                f"onnx cannot pack {unit} as {form}: MatMulNBits takes blocks of {', '.join(map(str, BLOCK_SIZES))}; "
                "use --group-size 32, 64 or 128"
            )


def estimate_bytes(layout: Layout, config: ModelConfig) -> int:
    """Bytes of the weights: float32 scales, per-row formats in blocks."""
    return model_bytes(layout, config, scale_bytes=4, row_block=ROW_BLOCK)


def lower(
    store: QuantizedCheckpoint, request: LoweringRequest, directory: Path, progress: Callable[[str, int], None]
) -> Lowered:
    """Write model.onnx, its data file and genai_config.json."""
    model = directory / MODEL_FILE
    state = write_graph(store, request, PROFILE, ACTIVATIONS, model, progress)
    config = directory / "genai_config.json"
    config.write_text(json.dumps(genai_config(request, MODEL_FILE, PREFILL_CHUNK), indent=2) + "\n", encoding="utf-8")
    data = model.with_name(MODEL_FILE + ".data")
    fixed_state = sum(4 * _elements(entry.shape) for entry in state if entry.token_axis is None)
    return Lowered(
        model_file=MODEL_FILE,
        files=(model, data, config),
        state=state,
        prefill_chunk=PREFILL_CHUNK,
        bytes_read_per_token=data.stat().st_size + 2 * fixed_state,
        activations=ACTIVATIONS,
        details={"opset": 21, "domain": "com.microsoft", "accuracy_level": 4},
    )


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count

"""What both ONNX backends do, whichever profile of operators they write with."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

from export.backends import Lowered, LoweringRequest
from export.decoder import Activations
from export.errors import UnsupportedSchemeError
from export.onnx_lowering.data import ALIGNMENT_BYTES, MAPPED_BYTES
from export.onnx_lowering.genai_config import PROCESSOR_FILE, genai_config, processor_config
from export.onnx_lowering.graph import write_graph
from export.onnx_lowering.initializers import ROW_BLOCK
from export.onnx_lowering.translate import Profile
from export.onnx_lowering.vision import EMBEDDING_FILE, TOWER_FILE
from export.quantized import QuantizedCheckpoint
from export.schemes import FLOAT, Format, Layout
from export.sizes import Packing, Speed

ACTIVATIONS = Activations(kind="int8_group", group_cap=ROW_BLOCK)
# MatMulNBits at accuracy_level 4, and at 0; matrices with a static grid are MatMulIntegerToFloat
ACTIVATION_KINDS = {"int8": ACTIVATIONS, "int8_static": ACTIVATIONS, "float": Activations()}
BLOCK_SIZES = (16, 32, 64, 128, 256)
SCALE_BYTES = 4
# the graph takes 8 to 9 KB a layer; tensors of 256 KB and more begin on a page of their own
PACKING = Packing(
    scale_bytes={4: SCALE_BYTES, 8: SCALE_BYTES},
    row_block=ROW_BLOCK,
    layer_bytes=10_000,
    base_bytes=10_000,
    padding_bytes=64,
    page_bytes=ALIGNMENT_BYTES,
    paged_from_bytes=MAPPED_BYTES,
)
# what a search chooses from; time of a weight in one-token products relative to 4 bits in blocks of 32 (docs/log.md),
# floats by their bytes; 39.7 ms a token for 752 M weights on the machine of docs/results.md
SPEED = Speed(
    relative={
        Format(bits=4, group_size=128): 0.745,
        Format(bits=4, group_size=64): 0.84,
        Format(bits=4, group_size=32): 1.0,
        Format(bits=8, group_size=128): 1.45,
        Format(bits=8, group_size=32): 1.82,
        FLOAT: 6.4,
    },
    ns_per_weight=0.0528,
)
OPTIONS = tuple(SPEED.relative)
TIED: tuple[tuple[str, ...], ...] = ()  # each matrix is a node of its own
MODEL_FILE = "model.onnx"
PREFILL_CHUNK = 128  # longer ones cost activation memory and gain nothing (docs/log.md)


def check_blocks(layout: Layout, backend: str) -> None:
    """Refuse what MatMulNBits cannot hold."""
    for unit, form in layout.items():
        if form.group_size is not None and form.group_size not in BLOCK_SIZES:
            known = ", ".join(map(str, BLOCK_SIZES))
            raise UnsupportedSchemeError(
                f"{backend} cannot pack {unit} as {form}: MatMulNBits takes blocks of {known}; "
                "use --group-size 32, 64 or 128"
            )


def lower_with(
    profile: Profile,
    store: QuantizedCheckpoint,
    request: LoweringRequest,
    directory: Path,
    progress: Callable[[str, int], None],
) -> Lowered:
    """Write model.onnx, its data file and genai_config.json."""
    model = directory / MODEL_FILE
    activations = replace(ACTIVATION_KINDS[request.activations], cache=request.cache, static=frozenset(store.grids))
    state, tower_bytes = write_graph(store, request, profile, activations, model, progress)
    config = directory / "genai_config.json"
    chunk = min(PREFILL_CHUNK, request.context_length)
    config.write_text(json.dumps(genai_config(request, MODEL_FILE, chunk), indent=2) + "\n", encoding="utf-8")
    beside = _vision_files(request, directory)
    data = model.with_name(MODEL_FILE + ".data")
    fixed_state_bytes = sum(4 * prod(entry.shape) for entry in state if entry.token_axis is None)
    return Lowered(
        model_file=MODEL_FILE,
        files=(model, data, config, *beside),
        state=state,
        prefill_chunk=chunk,
        # state is read and written; a step sees no image
        bytes_read_per_token=data.stat().st_size - tower_bytes + 2 * fixed_state_bytes,
        activations=activations,
        details={"opset": profile.opset, "oldest_runtime": profile.oldest_runtime},
        vision=None if request.vision is None else request.vision.written(TOWER_FILE, EMBEDDING_FILE),
    )


def _vision_files(request: LoweringRequest, directory: Path) -> tuple[Path, ...]:
    """The further files of a model that sees; onnxruntime-genai's own preprocessing is described in the last."""
    if request.vision is None:
        return ()
    processor = directory / PROCESSOR_FILE
    processor.write_text(json.dumps(processor_config(request.vision.images), indent=2) + "\n", encoding="utf-8")
    return directory / EMBEDDING_FILE, directory / TOWER_FILE, processor

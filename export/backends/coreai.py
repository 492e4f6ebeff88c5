"""Core AI: Apple's runtime from iOS 27 on; decode and prefill as functions of one `.aimodel`."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.backends import Lowered, LoweringRequest, Tolerance
from export.config import ModelConfig
from export.coreai_lowering.program import Captured, capture_decoder, stored_weights, write_asset
from export.coreai_lowering.state import file_states
from export.coreai_lowering.vision import TowerElements, write_tower
from export.decoder import Activations
from export.errors import MissingPackageError, UnsupportedSchemeError
from export.quantized import QuantizedCheckpoint
from export.schemes import FLOAT, INT8_ROW, ROWS_ONLY, Format, Layout
from export.sizes import Packing, Speed

SUMMARY = "Core AI for iOS 27 and later: 4- and 8-bit weights, float16 products, float32 between them"
RUNTIME = "coreai"
PACKAGE = "coreai-core"
OLDEST_RUNTIME = "1.0.0b3"
BUILT_WITH = "1.0.0b3"  # its compiler's bindings are used, which are not versioned
ASSET = "model.aimodel"
MODEL_FILE = f"{ASSET}/main.mlirb"
TOWER_ASSET = "vision.aimodel"  # its functions are named after their grids
TOWER_FILE = f"{TOWER_ASSET}/main.mlirb"
PREFILL_TOKENS = 64
ACTIVATION_KINDS = {"int8": Activations(), "float": Activations()}  # there are only floats
TOLERANCE = Tolerance(float_error=5e-3, quantized_kld=1e-3)
FINEST = ROWS_ONLY
HOLDS_TABLES = True
MODALITIES = ("text", "image")
FIXED_GRIDS = True
TOWER_ACTIVATIONS = Activations()  # int8 weights of the tower meet floats, as those of the text model do
# by their bytes: nothing was measured on a phone
SPEED = Speed(
    relative={
        Format(bits=4, group_size=128): 4.125 / 4.5,
        Format(bits=4, group_size=64): 4.25 / 4.5,
        Format(bits=4, group_size=32): 1.0,
        INT8_ROW: 8 / 4.5,
        FLOAT: 16 / 4.5,
    },
    ns_per_weight=0.05,
)
OPTIONS = tuple(SPEED.relative)
TIED = (("in_proj_qkv", "in_proj_z"), ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
PACKING = Packing(
    scale_bytes={4: 2, 8: 2},
    row_block=None,
    float_bytes=2,
    layer_bytes=16_000,
    base_bytes=165_000,
    padding_bytes=128,
)


def check_version(found: str) -> None:
    """Refuse another coreai-core than this was written for."""
    if found != BUILT_WITH:
        raise MissingPackageError(
            f"backend 'coreai' needs {PACKAGE} {BUILT_WITH}, found {found}; install it with `make venv`, or "
            f"`pip install {PACKAGE}=={BUILT_WITH}`"
        )


def check(layout: Layout, config: ModelConfig) -> None:  # noqa: ARG001 (every backend's signature)
    """Refuse what Core AI's constants cannot hold, and another coreai-core than this was written for."""
    check_blocks(layout, "coreai")


def check_blocks(layout: Layout, backend: str) -> None:
    """`check` in the name of a backend that writes Core AI assets."""
    check_version(importlib.metadata.version(PACKAGE))
    for unit, form in layout.items():
        if form.bits not in (4, 8, FLOAT.bits):
            raise UnsupportedSchemeError(
                f"{backend} cannot pack {unit} as {form}; its constants hold 4 and 8 bits, so use the scheme int4, "
                "int8 or mixed"
            )


def estimate_bytes(layout: Layout, config: ModelConfig, context_length: int) -> int:
    """At most what the model files take; a tied table counts once."""
    return PACKING.file_bytes(layout, config, context_length)


def lower(
    store: QuantizedCheckpoint, request: LoweringRequest, directory: Path, progress: Callable[[str, int], None]
) -> Lowered:
    """Write model.aimodel."""
    return lower_captured(capture_decoder(store, request, "float16"), directory, progress, IN_FLOAT16)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What tells the backends of this format apart beside the type of their products."""

    tolerance: Tolerance
    tower: TowerElements


IN_FLOAT16 = Kind(tolerance=TOLERANCE, tower=TowerElements())


def lower_captured(captured: Captured, directory: Path, progress: Callable[[str, int], None], kind: Kind) -> Lowered:
    """Write the asset of a captured decoder, and the vision tower of a model that sees."""
    request = captured.request
    producer = f"{PACKAGE} {BUILT_WITH}"
    chunk = prefill_tokens(request.context_length)
    asset = directory / ASSET
    write_asset(captured, {"decode": 1, "prefill": chunk}, asset, producer, progress)
    files = [asset, *sorted(asset.iterdir())]
    if request.vision is not None:
        tower = directory / TOWER_ASSET
        write_tower(request.vision.weights, request.vision.images.grids, kind.tower, tower, producer, progress)
        files += [tower, *sorted(tower.iterdir())]
    states = file_states(request.config, request.context_length, captured.element)
    return Lowered(
        model_file=MODEL_FILE,
        files=tuple(files),
        state=tuple(state.written() for state in states),
        prefill_chunk=chunk,
        bytes_read_per_token=_bytes_read(captured),
        activations=ACTIVATION_KINDS[request.activations],
        details={"products": captured.element},
        tolerance=kind.tolerance,
        float_activations=captured.element,
        vision=None if request.vision is None else request.vision.written(TOWER_FILE, MODEL_FILE),
    )


def prefill_tokens(context_length: int) -> int:
    """The largest power of two that fits the context, up to a chunk."""
    return min(PREFILL_TOKENS, 1 << (context_length.bit_length() - 1))


def _bytes_read(captured: Captured) -> int:
    """Weights of one step, and the fixed-size state read and written; of an embedding table only a row is read."""
    request = captured.request
    everything = sum(weight.num_bytes for weight in stored_weights(captured))
    states = file_states(request.config, request.context_length, captured.element)
    return everything + 2 * sum(state.num_bytes for state in states if state.token_axis is None)

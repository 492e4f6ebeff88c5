"""Core ML: a stateful ML program for iOS 18 and later, decode and prefill as functions of one package."""

import importlib.metadata
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from math import prod
from pathlib import Path

from export.backends import Lowered, LoweringRequest, Tolerance
from export.config import ModelConfig
from export.coreml_lowering.package import PACKAGE_LIST, write_package
from export.coreml_lowering.program import Captured, FunctionSpec, build_program, capture_decoder, package_weights
from export.coreml_lowering.state import file_states
from export.coreml_lowering.vision import TowerElements, write_tower
from export.decoder import Activations
from export.errors import MissingPackageError, UnsupportedSchemeError
from export.quantized import QuantizedCheckpoint
from export.schemes import FLOAT, INT8_ROW, ROWS_ONLY, Format, Layout
from export.sizes import Packing, Speed
from export.weights import EMBEDDING, units

SUMMARY = "Core ML for iOS 18 and later: 4- and 8-bit weights, float16 activations, state kept by Core ML"
RUNTIME = "coreml"
PACKAGE = "coremltools"
OLDEST_RUNTIME = "9"  # of the specification: iOS 18, macOS 15
BUILT_WITH = "9.0"  # coremltools; its internals are used, and other versions are known to write worse packages
DESCRIPTION = "coreml.json"
TOWER_PACKAGE = "vision.mlpackage"  # its functions are named after their grids
TOWER_FILE = f"{TOWER_PACKAGE}/{PACKAGE_LIST}"
FORMAT = 1
MOST_PACKAGE_BYTES = 12 * 10**8  # at about 1.4 GB Core ML is reported to leave the Neural Engine without a word
PREFILL_TOKENS = 64
LAYOUTS = {"inside": False, "outside": True}  # by name, whether fixed-size states are inputs and outputs
DEFAULT_LAYOUT = "inside"
ACTIVATION_KINDS = {"int8": Activations(), "float": Activations()}  # there is only float16
TOLERANCE = Tolerance(float_error=8e-3, quantized_kld=1e-3)
FINEST = ROWS_ONLY
HOLDS_TABLES = True
MODALITIES = ("text", "image")
FIXED_GRIDS = True
TOWER_ACTIVATIONS = Activations()  # int8 weights of the tower meet floats, as those of the text model do
TOWER_ELEMENTS = TowerElements()
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
# a blob is a header of 64 bytes and its data, each aligned to 64
PACKING = Packing(
    scale_bytes={4: 2, 8: 2},
    row_block=None,
    float_bytes=2,
    layer_bytes=150_000,
    base_bytes=170_000,
    padding_bytes=128,
)


def check_version(found: str) -> None:
    """Refuse another coremltools than this was written for: its classes that write programs are not its interface."""
    if found != BUILT_WITH:
        raise MissingPackageError(
            f"backend 'coreml' needs {PACKAGE} {BUILT_WITH}, found {found}; install it with `make venv`, or "
            f"`pip install {PACKAGE}=={BUILT_WITH}`"
        )


def check(layout: Layout, config: ModelConfig) -> None:  # noqa: ARG001 (every backend's signature)
    """Refuse what `constexpr_blockwise_shift_scale` cannot hold, and another coremltools than this was written for."""
    check_blocks(layout, "coreml")


def check_blocks(layout: Layout, backend: str) -> None:
    """`check` in the name of a backend that writes Core ML programs."""
    check_version(importlib.metadata.version(PACKAGE))
    for unit, form in layout.items():
        if form.bits not in (4, 8, FLOAT.bits):
            raise UnsupportedSchemeError(
                f"{backend} cannot pack {unit} as {form}; its blockwise constants hold 4 and 8 bits, so use the scheme "
                "int4, int8 or mixed"
            )


def estimate_bytes(layout: Layout, config: ModelConfig, context_length: int) -> int:
    """At most what the model files take."""
    return estimate_with(PACKING, layout, config, context_length)


def estimate_with(packing: Packing, layout: Layout, config: ModelConfig, context_length: int) -> int:
    """At most what the model files take so packed; a tied table is in the first package and in the last."""
    # the head has a bias of zeros
    found = packing.file_bytes(layout, config, context_length) + packing.float_bytes * config.vocab_size
    if found <= MOST_PACKAGE_BYTES or not config.tie_word_embeddings:
        return found
    (table,) = (unit for unit in units(config) if unit.name == EMBEDDING)
    return found + packing.unit_bytes(table, layout[EMBEDDING])


def lower(
    store: QuantizedCheckpoint, request: LoweringRequest, directory: Path, progress: Callable[[str, int], None]
) -> Lowered:
    """Write the packages and coreml.json."""
    return lower_captured(capture_decoder(store, request), directory, progress, TOWER_ELEMENTS)


def lower_captured(
    captured: Captured, directory: Path, progress: Callable[[str, int], None], tower: TowerElements
) -> Lowered:
    """Write the packages and coreml.json of a captured decoder, and the vision tower of a model that sees."""
    request = captured.request
    packages = split_layers(captured, MOST_PACKAGE_BYTES)
    for name, layers in packages.items():
        write_layers(captured, layers, directory / name, progress)
    description = directory / DESCRIPTION
    description.write_text(json.dumps(_description(request, packages), indent=2) + "\n", encoding="utf-8")
    states = file_states(request.config, request.context_length, outside=LAYOUTS[DEFAULT_LAYOUT])
    if request.vision is not None:
        write_tower(request.vision.weights, request.vision.images.grids, tower, directory / TOWER_PACKAGE, progress)
    written = [*packages, *([TOWER_PACKAGE] if request.vision is not None else [])]
    return Lowered(
        model_file=DESCRIPTION,
        files=(description, *(file for name in written for file in sorted((directory / name).rglob("*")))),
        state=tuple(state.written() for state in states),
        prefill_chunk=_prefill_tokens(request),
        bytes_read_per_token=bytes_read(captured, request),
        activations=ACTIVATION_KINDS[request.activations],
        details={"packages": {name: [layers.start, layers.stop] for name, layers in packages.items()}},
        tolerance=TOLERANCE,
        float_activations=captured.element,
        vision=None if request.vision is None else request.vision.written(TOWER_FILE, DESCRIPTION),
    )


def write_layers(captured: Captured, layers: range, package: Path, progress: Callable[[str, int], None]) -> None:
    """Write one package of these layers with every function."""
    weights = {weight.name: weight for weight in package_weights(captured, layers)}
    write_package(build_program(captured, layers, _functions(captured.request)), weights, package, progress)


def _prefill_tokens(request: LoweringRequest) -> int:
    """The largest power of two that fits the context, up to a chunk."""
    return min(PREFILL_TOKENS, 1 << (request.context_length.bit_length() - 1))


def _functions(request: LoweringRequest) -> list[FunctionSpec]:
    tokens = {"decode": 1, "prefill": _prefill_tokens(request)}
    return [
        FunctionSpec(name=_function_name(call, layout), tokens=count, outside=outside)
        for layout, outside in LAYOUTS.items()
        for call, count in tokens.items()
    ]


def _function_name(call: str, layout: str) -> str:
    return call if layout == DEFAULT_LAYOUT else f"{call}_{layout}"


def split_layers(captured: Captured, most_bytes: int) -> dict[str, range]:
    """Runs of layers by package name, none above `most_bytes` unless one layer is."""
    layers = captured.request.config.num_layers
    cuts, start = [], 0
    for layer in range(1, layers):
        if _size(captured, range(start, layer + 1)) > most_bytes:
            cuts.append(range(start, layer))
            start = layer
    runs = [*cuts, range(start, layers)]
    if len(runs) == 1:
        return {"model.mlpackage": runs[0]}
    return {f"model_{index}.mlpackage": run for index, run in enumerate(runs)}


def _size(captured: Captured, layers: range) -> int:
    return sum(weight.num_bytes for weight in package_weights(captured, layers))


def _description(request: LoweringRequest, packages: Iterable[str]) -> dict[str, object]:
    """What `docs/coreml.md` describes."""
    return {
        "format": FORMAT,
        "packages": list(packages),
        "tokens": {"decode": 1, "prefill": _prefill_tokens(request)},
        "default_layout": DEFAULT_LAYOUT,
        "layouts": {
            layout: {
                "functions": {call: _function_name(call, layout) for call in ("decode", "prefill")},
                "states": [
                    asdict(state.written())
                    for state in file_states(request.config, request.context_length, outside=outside)
                ],
            }
            for layout, outside in LAYOUTS.items()
        },
    }


def bytes_read(captured: Captured, request: LoweringRequest) -> int:
    """Weights of one step, and the fixed-size state read and written; of an embedding table only a row is read."""
    everything = _size(captured, range(request.config.num_layers))
    states = file_states(request.config, request.context_length, outside=False)
    fixed = sum(2 * prod(state.shape) for state in states if state.token_axis is None)
    return everything + 2 * fixed

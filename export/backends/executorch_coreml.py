"""executorch-coreml: a `.pte` for apps that have ExecuTorch already; its delegate hands one Core ML program the tokens.

The delegate makes states for each method of its own, so a prefill could not hand its state to a decode: there is one
method, for one token, and a prompt takes as many calls. The program clears its state itself where a sequence begins.
`coreml` is the fast way on the same engine.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from export.backends import Lowered, LoweringRequest, coreml
from export.backends.coreml import (
    ACTIVATION_KINDS,
    FINEST,
    HOLDS_TABLES,
    MOST_PACKAGE_BYTES,
    OPTIONS,
    SPEED,
    TIED,
    TOLERANCE,
    bytes_read,
    check_blocks,
)
from export.config import ModelConfig
from export.coreml_lowering.delegate import PACKAGE as INNER_PACKAGE
from export.coreml_lowering.delegate import ROOT, Interface, flatten, write_delegate
from export.coreml_lowering.package import write_package
from export.coreml_lowering.program import (
    LOGITS,
    ONLY_FUNCTION,
    FunctionSpec,
    build_program,
    capture_decoder,
    package_weights,
)
from export.coreml_lowering.state import file_states
from export.errors import UnsupportedSchemeError
from export.quantized import QuantizedCheckpoint
from export.schemes import Layout

__all__ = ["ACTIVATION_KINDS", "FINEST", "HOLDS_TABLES", "OPTIONS", "SPEED", "TIED"]  # those of `coreml`

SUMMARY = "ExecuTorch's Core ML delegate around the same program, one token a call, for apps that have ExecuTorch"
RUNTIME = "executorch_coreml"
PACKAGE = "executorch"
OLDEST_RUNTIME = "1.5.0"
MODEL_FILE = "model.pte"
PACKING = replace(coreml.PACKING, layer_bytes=35_000, base_bytes=50_000)  # one function, not four


def check(layout: Layout, config: ModelConfig) -> None:
    """Refuse what blockwise constants cannot hold, and what does not fit one package."""
    check_blocks(layout, "executorch-coreml")
    found = PACKING.file_bytes(layout, config, 0)
    if found > MOST_PACKAGE_BYTES:
        raise UnsupportedSchemeError(
            f"executorch-coreml writes one package, and {found} bytes are more than the {MOST_PACKAGE_BYTES} at which "
            "Core ML is reported to leave the Neural Engine; use --backend coreml, which writes several, or a smaller "
            "scheme"
        )


def estimate_bytes(layout: Layout, config: ModelConfig, context_length: int) -> int:
    """At most what the model file takes; the head has a bias of zeros."""
    return PACKING.file_bytes(layout, config, context_length) + PACKING.float_bytes * config.vocab_size


def lower(
    store: QuantizedCheckpoint, request: LoweringRequest, directory: Path, progress: Callable[[str, int], None]
) -> Lowered:
    """Write model.pte."""
    captured = capture_decoder(store, request)
    layers = range(request.config.num_layers)
    spec = FunctionSpec(name=ONLY_FUNCTION, tokens=1, outside=False, for_delegate=True)
    interface = Interface(
        inputs={"input_ids": (1, 1), "position": (1,)}, output=(LOGITS, (1, 1, request.config.vocab_size))
    )
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        place = Path(temporary) / ROOT
        weights = {weight.name: weight for weight in package_weights(captured, layers)}
        write_package(build_program(captured, layers, [spec]), weights, place / INNER_PACKAGE, progress)
        payload = flatten(place, interface)
    file = directory / MODEL_FILE
    write_delegate(file, payload, interface, _metadata(request), lambda *_: None)
    states = file_states(request.config, request.context_length, outside=False)
    return Lowered(
        model_file=MODEL_FILE,
        files=(file,),
        state=tuple(state.written() for state in states),
        prefill_chunk=1,
        bytes_read_per_token=bytes_read(captured, request),
        activations=ACTIVATION_KINDS[request.activations],
        details={"delegate": "CoreMLBackend"},
        tolerance=TOLERANCE,
        float_activations="float16",
    )


def _metadata(request: LoweringRequest) -> dict[str, list[int | bool]]:
    """What ExecuTorch's text runners read (extension/llm/runner/constants.h)."""
    return {
        "get_max_seq_len": [1],
        "get_max_context_len": [request.context_length],
        "get_vocab_size": [request.config.vocab_size],
        "get_n_layers": [request.config.num_layers],
        "use_kv_cache": [True],
        "enable_dynamic_shape": [False],
        "get_eos_ids": list(request.eos_token_ids),
    }

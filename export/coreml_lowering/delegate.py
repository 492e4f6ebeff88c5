"""A `.pte` of one call: ExecuTorch's Core ML delegate, and a package in the form in which it keeps one.

ExecuTorch's own way there converts a graph anew, apart from the program that `coreml` writes and verifies. The form is
that of executorch/backends/apple/coreml/compiler/coreml_preprocess.py (1.5): a directory with the package and a list of
its inputs and outputs, flattened to bytes. What the delegate calls with is copied into the element types of the model.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from executorch.backends.apple.coreml import executorchcoreml
from executorch.exir import schema

from export.errors import LoweringError
from export.executorch_lowering.program import Call, ProgramBuilder, getter
from export.executorch_lowering.pte import SCHEMA_VERSION, Progress, Segments, write_program
from export.executorch_lowering.tensors import Element

BACKEND = "CoreMLBackend"
PACKAGE = "model.mlpackage"
METADATA = "metadata.json"
ROOT = "lowered_module"  # the directory's name is part of the bytes
# as `CoreMLBackend.generate_compile_specs` spells them; 9 is iOS 18
SPECS = {
    "compute_units": b"all",
    "min_deployment_target": b"9",
    "model_compute_precision": b"mlmodel",
    "model_type": b"model",
}


@dataclass(frozen=True, kw_only=True)
class Interface:
    """Inputs of the package's function, int32 there and int64 for the caller, and its one float32 output, by shape."""

    inputs: Mapping[str, tuple[int, ...]]
    output: tuple[str, tuple[int, ...]]


def flatten(directory: Path, interface: Interface) -> bytes:
    """The bytes of a directory called ROOT that holds PACKAGE; the list of inputs and outputs is added to it."""
    weights = (directory / PACKAGE).rglob("*")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(weights) if file.is_file())).hexdigest()
    metadata = {
        "inputNames": list(interface.inputs),
        "outputNames": [interface.output[0]],
        "identifier": f"executorch_{digest[:32]}",  # names the compiled model in the device's cache
    }
    (directory / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    found: bytes = executorchcoreml.flatten_directory_contents(str(directory.resolve()))
    if not found:
        raise LoweringError(f"executorch-coreml: {directory} could not be flattened by ExecuTorch")
    return found


def write_delegate(
    file: Path, payload: bytes, interface: Interface, metadata: Mapping[str, Sequence[int | bool]], progress: Progress
) -> None:
    """Write a program whose method `forward` is one call of the delegate."""
    builder, segments = ProgramBuilder(), Segments()
    inputs = [builder.input(shape, Element.INT64) for shape in interface.inputs.values()]
    output = builder.tensor(interface.output[1])
    arguments = [builder.require(value) for value in (*inputs, output)]
    call = schema.DelegateCall(delegate_index=0, args=arguments)
    builder.calls.append(Call(schema.Instruction(call), tuple(inputs), (output,)))
    segment = segments.add_segment(len(payload), lambda: np.frombuffer(payload, dtype=np.uint8))
    forward = builder.plan(output, [segment])
    (delegate,) = forward.delegates
    delegate.id = BACKEND
    delegate.compile_specs = [schema.CompileSpec(key=key, value=value) for key, value in SPECS.items()]
    program = schema.Program(
        version=SCHEMA_VERSION,
        execution_plan=[forward, *(getter(name, numbers) for name, numbers in sorted(metadata.items()))],
        constant_buffer=[],
        backend_delegate_data=[],
        segments=segments.places,
        constant_segment=schema.SubsegmentOffsets(segment_index=0, offsets=[]),
        mutable_data_segments=None,
        named_data=[],
    )
    write_program(file, program, segments, progress)

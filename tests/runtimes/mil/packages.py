"""Write Core ML packages with coremltools itself, for the evaluator to read back."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.backend.mil.load import CoreMLProtoExporter, MILProtoExporter
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Function, Program, types

SPECIFICATION = 9
ELEMENTS = {
    np.dtype(np.float16): types.fp16,
    np.dtype(np.float32): types.fp32,
    np.dtype(np.int32): types.int32,
    np.dtype(np.int16): types.int16,
    np.dtype(np.int8): types.int8,
    np.dtype(np.uint8): types.uint8,
    np.dtype(np.uint16): types.uint16,
    np.dtype(np.bool_): types.bool,
}
Body = Callable[..., Any]


def element(dtype: Any) -> Any:
    """coremltools' name for a numpy dtype."""
    return ELEMENTS[np.dtype(dtype)]


def numpy_type(var: Any) -> np.dtype[Any]:
    """The numpy dtype of a value of a program under construction."""
    return next(dtype for dtype, known in ELEMENTS.items() if known == var.dtype)


def function(inputs: Mapping[str, Any], states: Mapping[str, Sequence[int]], body: Body) -> Function:
    """A function: `inputs` are arrays like those it will get, `states` shapes in fp16, `body` gives its outputs."""
    placeholders = {name: mb.placeholder(value.shape, dtype=element(value.dtype)) for name, value in inputs.items()}
    placeholders |= {name: mb.state_tensor_placeholder(shape, dtype=types.fp16) for name, shape in states.items()}
    made = Function(placeholders, opset_version=ct.target.iOS18)
    with made:
        results = body(**made.inputs)
        made.set_outputs(list(results) if isinstance(results, list | tuple) else [results])
    return made


def save(functions: Mapping[str, Function], path: Path) -> Path:
    """A package of these functions, the first the default one."""
    program = Program()
    for name, made in functions.items():
        program.add_function(name, made)
    program.default_function_name = next(iter(functions))
    program.export_as_multifunction = list(functions) != ["main"]
    with tempfile.TemporaryDirectory() as weights:
        translated = MILProtoExporter(program, weights, SPECIFICATION).export()
        exporter = CoreMLProtoExporter(
            program,
            translated,
            predicted_feature_name=None,
            predicted_probabilities_name=None,
            classifier_config=None,
            convert_to="mlprogram",
            convert_from="milinternal",
            specification_version=SPECIFICATION,
        )
        model = ct.models.MLModel(exporter.export(SPECIFICATION), skip_model_load=True, weights_dir=weights)
        model.save(str(path))
    return path

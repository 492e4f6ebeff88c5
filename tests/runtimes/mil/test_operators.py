"""Every operator that the evaluator knows, against coremltools' own inference of values, torch, or numpy by hand."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Function
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from numpy.typing import NDArray

from runtimes.mil import Program, load_package, open_package, operators
from runtimes.mil.binding import NARROW
from tests.runtimes.mil.cases import Case, cases
from tests.runtimes.mil.packages import function, numpy_type, save

CASES = dict(cases())
IN_FP16 = {name: case for name, case in CASES.items() if case.floats}
# built into a program in another way: see test_what_depends_on_no_input
WITHOUT_INPUTS = {"fill", "range_1d"}
# None with us: the default is zero (or one) of a type that the output has
TYPED_BY_OUTPUT = {("fill", "value"), ("fill_like", "value"), ("one_hot", "on_value"), ("one_hot", "off_value")}
FUSED_TOLERANCE = 2e-6  # relative to the largest: fp32 sums in another order


def inputs_of(case: Case, dtype: Any = None) -> dict[str, NDArray[Any]]:
    """The arrays of a case, lists flattened, floats in another type where asked."""
    found: dict[str, NDArray[Any]] = {}
    for name, value in case.inputs.items():
        parts = {name: value} if not isinstance(value, list) else {f"{name}_{at}": v for at, v in enumerate(value)}
        found |= parts
    return {name: _typed(value, dtype) for name, value in found.items()}


def _typed(value: Any, dtype: Any) -> Any:
    is_float = isinstance(value, np.ndarray | np.generic) and value.dtype == np.float32
    return value.astype(dtype) if dtype is not None and is_float else value


def build(case: Case, dtype: Any = None) -> Function:
    """A function that applies the operator to its inputs."""

    def body(**given: Any) -> Any:
        inside = {name: _cast(given[name], value.dtype) for name, value in typed.items()}
        arguments: dict[str, Any] = {}
        for name, value in case.inputs.items():
            several = isinstance(value, list)
            arguments[name] = [inside[f"{name}_{at}"] for at in range(len(value))] if several else inside[name]
        parameters = {name: _typed(value, dtype) for name, value in case.parameters.items()}
        results = getattr(mb, case.operator)(**arguments, **parameters)
        results = results if isinstance(results, list | tuple) else [results]
        return [_cast(var, at_the_border(numpy_type(var))) for var in results]

    typed = inputs_of(case, dtype)
    return function(outside(typed), {}, body)


def at_the_border(dtype: Any) -> np.dtype[Any]:
    """What inputs and outputs of this type are outside a program, where Core ML has no bool and no narrow integer."""
    kind = np.dtype(dtype)
    if kind == np.float16:
        return kind
    return np.dtype(np.float32 if kind.kind == "f" else np.int32)


def outside(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Inputs as a program takes them."""
    return {name: value.astype(at_the_border(value.dtype)) for name, value in arrays.items()}


def _cast(var: Any, dtype: Any) -> Any:
    names = {"float16": "fp16", "float32": "fp32"}
    name = str(np.dtype(dtype))
    return var if numpy_type(var) == np.dtype(dtype) else mb.cast(x=var, dtype=names.get(name, name))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Program]:
    """Every case as a function of one package, in fp32 and in fp16."""
    functions = {name: build(case) for name, case in CASES.items()}
    functions |= {f"{name}_fp16": build(case, np.float16) for name, case in IN_FP16.items()}
    package = open_package(save(functions, tmp_path_factory.mktemp("operators") / "all.mlpackage"))
    return {name: load_package(package, name) for name in functions}


def expected(case: Case) -> list[NDArray[Any]]:
    """What must come out: the case's own reference, else what coremltools infers from constant inputs."""
    if case.reference is not None:
        results = case.reference(**case.inputs, **case.parameters)
    else:
        made = Function({"unused": mb.placeholder((1,))}, opset_version=ct.target.iOS18)
        with made:
            found = getattr(mb, case.operator)(**case.inputs, **case.parameters)
        found = list(found) if isinstance(found, list | tuple) else [found]
        results = [var.val for var in found]
        assert all(result is not None for result in results), "coremltools infers nothing; write a reference"
    return [np.asarray(result) for result in (results if isinstance(results, list) else [results])]


def close(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Equal where whole, within a few roundings where not."""
    if found.shape != wanted.shape:
        return False
    if found.dtype.kind != "f":
        return bool(np.array_equal(found, wanted))
    size = max(1.0, float(np.abs(wanted).max(initial=0)))
    return bool(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max(initial=0) <= FUSED_TOLERANCE * size)


@pytest.mark.parametrize("name", CASES)
def test_an_operator_gives_what_the_reference_gives(programs: Mapping[str, Program], name: str) -> None:
    found = programs[name].run(outside(inputs_of(CASES[name])))
    wanted = expected(CASES[name])
    assert len(found) == len(wanted)
    for ours, theirs in zip(found.values(), wanted, strict=True):
        assert close(ours, theirs.astype(at_the_border(theirs.dtype))), (ours, theirs)


@pytest.mark.parametrize("name", IN_FP16)
def test_fp16_is_fp32_rounded_once(programs: Mapping[str, Program], name: str) -> None:
    """The same function on the same numbers: inputs that fp16 holds, one rounding at the end."""
    case = IN_FP16[name]
    rounded = inputs_of(case, np.float16)
    ours = programs[f"{name}_fp16"].run(outside(rounded))
    widened = {key: value.astype(np.float32) if value.dtype == np.float16 else value for key, value in rounded.items()}
    parameters = {key: _half_and_back(value) for key, value in case.parameters.items()}
    wide = Case(operator=case.operator, inputs={}, parameters=parameters)
    exact = _run_alone(wide, widened, case)
    for found, wanted in zip(ours.values(), exact, strict=True):
        assert found.dtype == (np.float16 if wanted.dtype.kind == "f" else np.int32)
        np.testing.assert_array_equal(found, wanted.astype(found.dtype))


def _half_and_back(value: Any) -> Any:
    is_float = isinstance(value, np.ndarray | np.generic) and value.dtype == np.float32
    return value.astype(np.float16).astype(np.float32) if is_float else value


def _run_alone(wide: Case, inputs: dict[str, NDArray[Any]], case: Case) -> list[NDArray[Any]]:
    """The operator's function called directly, without program or file."""
    from runtimes.mil.arithmetic import Arithmetic
    from runtimes.mil.binding import signature_of

    operator = operators()[case.operator]
    signature = signature_of(operator)
    arguments: dict[str, Any] = {}
    for name, value in case.inputs.items():
        parts = [inputs[f"{name}_{at}"] for at in range(len(value))] if isinstance(value, list) else [inputs[name]]
        arguments[name] = signature.kinds[name].convert([torch.from_numpy(np.asarray(part)) for part in parts])
    for name, parameter in wide.parameters.items():
        text = isinstance(parameter, str)
        raw = parameter if text else torch.from_numpy(np.asarray(parameter))
        arguments[name] = signature.kinds[name].convert([raw])
    if signature.accumulates:
        arguments[NARROW] = Arithmetic()
    results = operator(**arguments)
    return [part.numpy() for part in (results if isinstance(results, tuple) else (results,))]


def test_every_operator_has_a_case() -> None:
    tested = {case.operator for case in CASES.values()} | WITHOUT_INPUTS
    assert tested == set(operators())


def test_what_depends_on_no_input(tmp_path: Path) -> None:
    """Shapes and ranges that are computed while the program runs."""
    x = np.zeros((2, 5), np.float32)
    end = np.array([7], np.int32)

    def body(x: Any, end: Any) -> list[Any]:
        size = mb.squeeze(x=end, axes=[0])
        return [
            mb.fill(shape=mb.shape(x=x), value=np.float32(2.5)),
            mb.range_1d(start=np.int32(1), end=size, step=np.int32(2)),
        ]

    place = save({"main": function({"x": x, "end": end}, {}, body)}, tmp_path / "made.mlpackage")
    filled, counted = load_package(place).run({"x": x, "end": end}).values()
    np.testing.assert_array_equal(filled, np.full((2, 5), 2.5, np.float32))
    np.testing.assert_array_equal(counted, [1, 3, 5])


@pytest.mark.parametrize("name", sorted(operators()))
def test_parameters_are_those_of_coreml(name: str) -> None:
    """Names and defaults of our signatures against coremltools' definition for iOS 18."""
    by_opset = SSAOpRegistry.core_ops[name]
    definition = by_opset[max(by_opset, key=lambda opset: opset.value)]
    wanted = definition.input_spec.input_types
    ours = {
        parameter: value
        for parameter, value in inspect.signature(operators()[name]).parameters.items()
        if parameter != NARROW
    }
    assert set(ours) == set(wanted)
    optional = {parameter for parameter, kind in wanted.items() if kind.optional}
    without_default = {p for p, value in ours.items() if value.default is inspect.Parameter.empty}
    assert not optional & without_default
    try:
        defaults = dict(definition.default_inputs(_Nothing()).items())
    except (AttributeError, TypeError):  # defaults that depend on x; the cases cover them
        return
    for parameter, value in defaults.items():
        if value is not None and (name, parameter) not in TYPED_BY_OUTPUT:
            assert ours[parameter].default == pytest.approx(value) or ours[parameter].default == value


class _Nothing:
    """An operation of which nothing is known yet."""

    def __getattr__(self, name: str) -> Any:
        if name in ("x", "weight", "shape", "dtype"):
            raise AttributeError(name)
        return None


def test_the_page_lists_these_operators() -> None:
    page = (Path(__file__).parents[3] / "docs/coreml.md").read_text(encoding="utf-8")
    section = page[page.index("### Operators that can be evaluated") :]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ") and line.count("|") == 4]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == set(operators())

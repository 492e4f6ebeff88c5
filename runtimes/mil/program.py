"""Evaluate one function of a written Core ML program, operator by operator, in torch.

Loading checks everything that can be checked without inputs: every operator, parameter, type and constant is known and
there, every name is defined before it is used, inputs and outputs are those of the model's description. Running
computes each operator in fp32 (or in integers), rounds the result to the type that the file declares for it, and holds
it against the declared shape. So the numbers are those of a device that keeps every intermediate value as the file says
and rounds once an operator; what fused kernels, fp16 accumulation or flushed subnormals change is not modelled, except
by `accumulate="float16"` (see `arithmetic`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtimes.mil.arithmetic import Accumulate, Arithmetic
from runtimes.mil.binding import NARROW, Kind, Signature, check_parameters, signature_of
from runtimes.mil.constants import DECODERS, Constant, Constants
from runtimes.mil.errors import ProgramError, UnsupportedProgramError
from runtimes.mil.operators import Operator, operators
from runtimes.mil.package import OPSETS, Package, open_package
from runtimes.mil.state import State
from runtimes.mil.types import TensorType, state_type, tensor_type
from runtimes.mil.values import check_value, read_value, value_key

MAX_ELEMENTS: Final = 1 << 31
WIDENED_FOR: Final = {"linear", "matmul", "einsum", "conv", "conv_transpose", "scaled_dot_product_attention"}
READ_STATE, WRITE_STATE, UPDATE_STATE = "read_state", "write_state", "coreml_update_state"

# what torch and Python raise for arguments that make no sense
FAILURES: Final = (
    ArithmeticError, AssertionError, IndexError, KeyError, MemoryError, RuntimeError, TypeError, ValueError
)  # fmt: skip

Source = str | Constant  # the name of a computed value, or a constant


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operator of a program with its arguments bound."""

    where: str
    kind: str
    operator: Operator | None  # None: reads or writes a state
    arguments: Mapping[str, tuple[Kind, list[Source]]]
    plain: Mapping[str, Any]  # arguments that are known already
    outputs: tuple[tuple[str, TensorType], ...]
    state: str | None = None
    forget: list[str] = field(default_factory=list)  # names that nothing after this step uses


class Program:
    """One function, ready to run; states live outside, so that functions can share them."""

    def __init__(
        self,
        package: Package,
        function: str | None = None,
        *,
        accumulate: Accumulate = "float32",
        constants: Constants | None = None,
    ) -> None:
        self.package = package
        self.constants = constants if constants is not None else Constants()
        self.name, proto = package.function(function)
        self._accumulate = accumulate
        self._where = f"{package.path}: function {self.name!r}"
        self.inputs: dict[str, TensorType] = {}
        self.states: dict[str, TensorType] = {}
        for entry in proto.inputs:
            state = state_type(entry.type)
            (self.states if state else self.inputs)[entry.name] = state or tensor_type(entry.type)
        block = _block(proto, package, self._where)
        self._values: dict[str, Source] = {name: name for name in self.inputs}
        self._types: dict[str, TensorType] = dict(self.inputs)
        self.operators: list[str] = []  # what is evaluated, in order: for listings
        self.steps = [step for operation in block.operations for step in self._step(operation)]
        self.outputs = {name: self._output_type(name) for name in block.outputs}
        self._plan_forgetting()
        _check_description(self)

    def new_state(self) -> State:
        """The states of this function, zero, as Core ML makes them."""
        return State(self.states)

    def run(self, inputs: Mapping[str, Any], state: State | None = None) -> dict[str, NDArray[Any]]:
        """The outputs for these inputs, numpy arrays of their own; `state` is read and written."""
        values: dict[str, Any] = self._inputs(inputs)
        held = self._state(state)
        with torch.no_grad():
            for step in self.steps:
                self._run_step(step, values, held)
                for name in step.forget:
                    del values[name]
        found = {name: self._get(name, values).to(kind.element.torch) for name, kind in self.outputs.items()}
        return {name: np.array(value.numpy()) for name, value in found.items()}

    def _run_step(self, step: Step, values: dict[str, Any], state: State) -> None:
        try:
            results = self._evaluate(step, values, state)
        except (ProgramError, UnsupportedProgramError) as error:
            raise type(error)(f"{step.where}: {error}") from error
        except FAILURES as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ProgramError(f"{step.where}: {reason}") from error
        for (name, declared), result in zip(step.outputs, results, strict=True):
            values[name] = _as_declared(result, declared, step.where)

    def _evaluate(self, step: Step, values: dict[str, Any], state: State) -> Sequence[Tensor]:
        arguments = dict(step.plain)
        for parameter, (kind, sources) in step.arguments.items():
            wide = not kind.stored and step.kind in WIDENED_FOR
            arguments[parameter] = kind.convert([self._get(source, values, wide=wide) for source in sources])
        if step.operator is not None:
            results = step.operator(**arguments)
            results = results if isinstance(results, tuple) else (results,)
            if len(results) != len(step.outputs):
                raise ProgramError(f"gives {len(results)} values, the program names {len(step.outputs)}")
            return results
        assert step.state is not None
        if step.kind == READ_STATE:
            return (state.read(step.state),)
        state.write(step.state, arguments["data"])
        return (state.read(step.state),) if step.outputs else ()

    def _get(self, source: Source, values: dict[str, Any], *, wide: bool = False) -> Any:
        if isinstance(source, str) and source in values:
            return values[source]
        constant = self._values[source] if isinstance(source, str) else source
        assert isinstance(constant, Constant)
        return self.constants.value(constant, wide=wide)

    # -- loading ----------------------------------------------------------------------------------------------------

    def _step(self, operation: Any) -> list[Step]:
        """The step for one operation; none for a constant."""
        label = _label(operation)
        where = f"{self._where}: operator {operation.type!r} ({label})"
        if operation.blocks:
            raise UnsupportedProgramError(f"{where}: has blocks of its own (control flow), which are not evaluated")
        try:
            outputs = tuple((entry.name, tensor_type(entry.type)) for entry in operation.outputs)
            for name, declared in outputs:
                _check_size(declared)
                if name in self._values or name in self.states:
                    raise ProgramError(f"{name!r} is defined twice")
            if operation.type == "const" or operation.type in DECODERS:
                self._define_constant(operation, outputs)
                return []
            step = self._bind(operation, outputs, where)
        except (ProgramError, UnsupportedProgramError) as error:
            prefix = "" if str(error).startswith(str(self.package.path)) else f"{where}: "
            raise type(error)(f"{prefix}{error}") from error
        except FAILURES as error:
            raise ProgramError(f"{where}: {error}") from error
        self.operators.append(operation.type)
        for name, declared in outputs:
            self._values[name] = name
            self._types[name] = declared
        return [step]

    def _bind(self, operation: Any, outputs: tuple[tuple[str, TensorType], ...], where: str) -> Step:
        if operation.type in (READ_STATE, WRITE_STATE, UPDATE_STATE):
            return self._bind_state(operation, outputs, where)
        operator = operators().get(operation.type)
        if operator is None:
            raise UnsupportedProgramError("the evaluator does not know this operator; see docs/coreml.md for its list")
        signature = signature_of(operator)
        given = self._arguments(operation)
        check_parameters(signature, set(given))
        arguments, plain = self._split(signature, given)
        if signature.accumulates:
            is_fp16 = all(declared.element.name == "fp16" for _, declared in outputs)
            plain[NARROW] = Arithmetic(narrow=self._accumulate == "float16" and is_fp16)
        return Step(
            where=where, kind=operation.type, operator=operator, arguments=arguments, plain=plain, outputs=outputs
        )

    def _split(
        self, signature: Signature, given: Mapping[str, list[Source]]
    ) -> tuple[dict[str, tuple[Kind, list[Source]]], dict[str, Any]]:
        """Arguments that are tensors or computed, and plain values that are known now."""
        arguments: dict[str, tuple[Kind, list[Source]]] = {}
        plain: dict[str, Any] = {}
        for parameter, sources in given.items():
            kind = signature.kinds[parameter]
            constants = [source for source in sources if isinstance(source, Constant)]
            if kind.python is not None and len(constants) == len(sources):
                plain[parameter] = kind.convert([self.constants.value(constant) for constant in constants])
            else:
                arguments[parameter] = (kind, sources)
        return arguments, plain

    def _bind_state(self, operation: Any, outputs: tuple[tuple[str, TensorType], ...], where: str) -> Step:
        target = {READ_STATE: "input", WRITE_STATE: "input", UPDATE_STATE: "state"}[operation.type]
        content = {READ_STATE: None, WRITE_STATE: "data", UPDATE_STATE: "value"}[operation.type]
        wanted = {target, content} - {None}
        if set(operation.inputs) != wanted:
            raise ProgramError(f"takes {sorted(map(str, wanted))}, was given {sorted(operation.inputs)}")
        names = [binding.name for binding in operation.inputs[target].arguments]
        if len(names) != 1 or names[0] not in self.states:
            raise ProgramError(f"{names} is not a state of this function")
        given = {} if content is None else {"data": self._sources(operation.inputs[content])}
        written = [binding.name for binding in operation.inputs[content].arguments] if content else []
        for name in written:
            if self._types.get(name) != self.states[names[0]]:
                raise ProgramError(
                    f"state {names[0]!r} is {self.states[names[0]]}, {name!r} is {self._types.get(name)}"
                )
        return Step(
            where=where,
            kind=operation.type,
            operator=None,
            arguments={name: (Kind(stored=True), sources) for name, sources in given.items()},
            plain={},
            outputs=outputs,
            state=names[0],
        )

    def _arguments(self, operation: Any) -> dict[str, list[Source]]:
        """What each parameter is given, attributes besides the name included."""
        given = {parameter: self._sources(argument) for parameter, argument in operation.inputs.items()}
        for parameter, value in operation.attributes.items():
            if parameter != "name":
                given[parameter] = [self._immediate(value)]
        return given

    def _sources(self, argument: Any) -> list[Source]:
        found: list[Source] = []
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                found.append(self._immediate(binding.value))
                continue
            if binding.name not in self._values:
                raise ProgramError(f"{binding.name!r} is used before it is defined")
            found.append(self._values[binding.name])
        return found

    def _immediate(self, value: Any) -> Constant:
        check_value(value, self.package)
        return Constant(key=value_key(value, self.package), decode=partial(read_value, value, self.package))

    def _define_constant(self, operation: Any, outputs: tuple[tuple[str, TensorType], ...]) -> None:
        if len(outputs) != 1:
            raise ProgramError(f"a constant has {len(outputs)} outputs; expected 1")
        name, declared = outputs[0]
        if operation.type == "const":
            if "val" not in operation.attributes:
                raise ProgramError("a constant has no value")
            found = tensor_type(operation.attributes["val"].type)
            if found != declared:
                raise ProgramError(f"a constant of type {found} is declared {declared}")
            self._values[name] = self._immediate(operation.attributes["val"])
        else:
            self._values[name] = self._compressed(operation, declared)
        self._types[name] = declared

    def _compressed(self, operation: Any, declared: TensorType) -> Constant:
        decoder = DECODERS[operation.type]
        parts = {parameter: sources[0] for parameter, sources in self._arguments(operation).items() if sources}
        check_parameters(signature_of(decoder), set(parts))
        for parameter, part in parts.items():
            if not isinstance(part, Constant):
                raise ProgramError(f"parameter {parameter!r} is not a constant")
        constants = {parameter: part for parameter, part in parts.items() if isinstance(part, Constant)}

        def decode() -> Tensor:
            result = decoder(**{parameter: part.decode() for parameter, part in constants.items()})
            return _as_declared(result, declared, f"{self._where}: {operation.type!r}")

        key = (operation.type, tuple(sorted((parameter, part.key) for parameter, part in constants.items())))
        return Constant(key=(key, str(declared)), decode=decode)

    def _output_type(self, name: str) -> TensorType:
        if name not in self._types:
            raise ProgramError(f"{self._where}: its output {name!r} is not defined")
        return self._types[name]

    def _plan_forgetting(self) -> None:
        """Drop each value after its last use, so that memory follows the widest place and not the length."""
        seen = set(self.outputs)
        for step in reversed(self.steps):
            used = {source for _, sources in step.arguments.values() for source in sources if isinstance(source, str)}
            step.forget.extend(name for name in (*used, *(name for name, _ in step.outputs)) if name not in seen)
            seen |= used
            seen |= {name for name, _ in step.outputs}

    # -- inputs -----------------------------------------------------------------------------------------------------

    def _inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        odd = sorted(set(inputs) ^ set(self.inputs))
        if odd:
            raise ProgramError(f"{self._where}: input {odd[0]!r} is in only one of call and program")
        return {
            name: _input(inputs[name], declared, f"{self._where}: input {name!r}")
            for name, declared in self.inputs.items()
        }

    def _state(self, state: State | None) -> State:
        held = state if state is not None else State({})
        for name, declared in self.states.items():
            if held.types.get(name) != declared:
                found = held.types.get(name) or "missing"
                raise ProgramError(f"{self._where}: state {name!r} is {found}; the program says {declared}")
        return held


def load_package(
    path: str | Path | Package,
    function: str | None = None,
    *,
    accumulate: Accumulate = "float32",
    constants: Constants | None = None,
) -> Program:
    """One function of the package on disk; give the `package` and `constants` of another to share what they read."""
    package = path if isinstance(path, Package) else open_package(path)
    return Program(package, function, accumulate=accumulate, constants=constants)


def _block(proto: Any, package: Package, where: str) -> Any:
    """The body of a function in the opset of its specification version."""
    opset = OPSETS[package.specification_version]
    if proto.opset not in OPSETS.values() or proto.opset not in proto.block_specializations:
        raise UnsupportedProgramError(
            f"{where}: opset {proto.opset!r}; this project evaluates {', '.join(OPSETS.values())}"
        )
    if proto.opset > opset:
        raise ProgramError(
            f"{where}: opset {proto.opset!r} in a package of specification version {package.specification_version}"
        )
    return proto.block_specializations[proto.opset]


def _label(operation: Any) -> str:
    names = [entry.name for entry in operation.outputs]
    return ", ".join(map(repr, names)) or "no outputs"


def _check_size(declared: TensorType) -> None:
    known = [size for size in declared.shape if size is not None]
    if np.prod(known, dtype=object) > MAX_ELEMENTS:
        raise ProgramError(f"a value of type {declared} has more than {MAX_ELEMENTS} elements")


def _as_declared(result: Tensor, declared: TensorType, where: str) -> Tensor:
    """A result rounded to its declared type, refused where shape or kind of number differ."""
    wanted = declared.element.torch
    same_kind = wanted is not None and _kind_of(result.dtype) == _kind_of(wanted)
    if not same_kind or not declared.fits(tuple(result.shape)):
        found = f"{str(result.dtype).removeprefix('torch.')} {tuple(result.shape)}"
        raise ProgramError(f"{where}: gives {found}, the program declares {declared}")
    assert wanted is not None
    return result.to(wanted)


def _kind_of(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return "float"
    return "bool" if dtype == torch.bool else "int"


def _input(value: Any, declared: TensorType, where: str) -> Tensor:
    """An input as the program types it: floats are rounded, integers must fit."""
    array = np.asarray(value)
    if declared.element.numpy is None or not declared.fits(array.shape):
        raise ProgramError(f"{where}: is {array.dtype} {array.shape}, the program says {declared}")
    cast = array.astype(declared.element.numpy)
    if array.dtype.kind not in "fiub" or (declared.element.is_float) != (array.dtype.kind == "f"):
        raise ProgramError(f"{where}: is {array.dtype}, the program says {declared}")
    if not declared.element.is_float and not np.array_equal(cast, array):
        raise ProgramError(f"{where}: holds values that {declared.element.name} cannot")
    return torch.from_numpy(np.ascontiguousarray(cast).reshape(array.shape))


def _check_description(program: Program) -> None:
    """Hold inputs, outputs and states against what the model's description tells an app."""
    description = program.package.description
    described = next((entry for entry in description.functions if entry.name == program.name), description)
    pairs = (
        ("input", {feature.name for feature in described.input}, set(program.inputs)),
        ("state", {feature.name for feature in described.state}, set(program.states)),
        ("output", {feature.name for feature in described.output}, set(program.outputs)),
    )
    for what, told, found in pairs:
        odd = sorted(told ^ found)
        if odd:
            raise ProgramError(
                f"{program.package.path}: function {program.name!r}: {what} {odd[0]!r} is in only one of the program "
                "and the model's description"
            )

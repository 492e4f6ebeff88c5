"""A Core AI module under construction: its functions, its constants, and the asset that it is saved as.

Operators come from `coreai._compiler.dialects.coreai`, the layer that Apple's own converter from torch builds on. It
is not versioned, so backend `coreai` asks for one version of the package by name. The public layer above it
(`coreai.authoring`) knows neither states nor packed 4-bit constants; what it lacks is in this file.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from coreai._compiler import ir
from coreai._compiler._mlir_libs._coreaiIR._bindings.mlir import set_block_arg_location, set_op_location
from coreai._compiler._mlir_libs._coreaiIR._bindings.mlir.dialects.coreai import create_elements_attr
from coreai._compiler.dialects import coreai
from coreai.authoring import AIProgram, Module
from coreai.authoring.graph_builder import GraphOp

STATE = "MutableBuffers.buffer_mutation"  # on an input: the output that the runtime writes back into it
PROGRAM, HASH, METADATA = "main.mlirb", "main.hash", "metadata.json"
NIBBLES = 2
ALIGNMENT = 64  # bytes
MOST_INLINE = 128  # elements; more lie behind the program
# by content, what the module whose block is open holds
_HELD: ContextVar[dict[str, Any]] = ContextVar("held")

Value = Any  # an operator's result; the bindings have no types
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or a state of a function."""

    name: str
    shape: tuple[int, ...]
    element: str


@contextmanager
def new_module() -> Iterator[Any]:
    """An empty module, to add functions to inside the block; Core AI's own rewriting runs as the block ends."""
    module = Module.create()
    token = _HELD.set({})
    try:
        with module:
            yield module
    finally:
        _HELD.reset(token)
    _forget_places(module)


def add_function(
    name: str, inputs: Sequence[Port], states: Sequence[Port], body: Callable[[Mapping[str, Value]], tuple[Any, Any]]
) -> None:
    """Add a function to the module whose block is open.

    `body` gets every input's and state's value by name, and returns outputs and new states, both by name.
    """
    ports = [*inputs, *states]
    with ir.Location.unknown():
        graph = GraphOp(
            name=name,
            input_types=[tensor_type(port.shape, port.element) for port in ports],
            result_types=[],
            input_names=[port.name for port in ports],
        )
        with graph.block:
            outputs, new_states = body(dict(zip((port.name for port in ports), graph.arguments, strict=True)))
        results = {**outputs, **{_written(state.name): new_states[state.name] for state in states}}
        graph.outputs_spec = list(results.items())
        graph.arg_attrs = ir.ArrayAttr.get([_attributes(port, port in states) for port in ports])


def _attributes(port: Port, is_state: bool) -> Any:
    found = {"coreai.name": ir.StringAttr.get(port.name)}
    if is_state:
        found[STATE] = ir.StringAttr.get(_written(port.name))
    return ir.DictAttr.get(found)


def _written(state: str) -> str:
    return f"{state}_out"


def element_type(element: str) -> Any:
    """An element type by its numpy name, or int4 or uint4."""
    if element == "float16":
        return ir.F16Type.get()
    if element == "float32":
        return ir.F32Type.get()
    if element.startswith("uint"):
        return ir.IntegerType.get_unsigned(int(element.removeprefix("uint")))
    return ir.IntegerType.get_signed(int(element.removeprefix("int")))


def tensor_type(shape: Sequence[int], element: str) -> Any:
    return ir.RankedTensorType.get(list(shape), element_type(element))


def constant(array: Array) -> Value:
    """A constant of the array's values."""
    return place(held(array))


def held(array: Array, element: str | None = None) -> Any:
    """The array's values in the module's own memory, to `place` in one function or several.

    4-bit codes come as bytes and are packed. What is large is named by its content and written once; Core AI would name
    it so too, by a hash that is another in each process.
    """
    kind = element or array.dtype.name
    found = tensor_type(array.shape, kind)
    data = np.atleast_1d(pack_nibbles(array) if kind.endswith("int4") else np.ascontiguousarray(array))
    small = array.size <= MOST_INLINE and not kind.endswith("int4")
    if small or (data == data.flat[0]).all():
        return create_elements_attr(ir.Location.unknown(), found, data)
    name = f"data_{hashlib.sha256(str(found).encode() + data.tobytes()).hexdigest()[:32]}"
    held_here = _HELD.get()
    if name not in held_here:
        buffer: Any = data
        held_here[name] = ir.DenseResourceElementsAttr.get_from_buffer(buffer, name, found, alignment=ALIGNMENT)
    return held_here[name]


def place(attribute: Any) -> Value:
    """A constant of what is held."""
    return coreai.ConstantOp(value=attribute).result


def zeros(shape: Sequence[int], element: str) -> Value:
    """A constant of zeros, which takes no room in the file."""
    kind = element_type(element)
    zero = ir.FloatAttr.get(kind, 0.0) if element.startswith("float") else ir.IntegerAttr.get(kind, 0)
    attribute = ir.DenseElementsAttr.get_splat(tensor_type(shape, element), zero)
    return coreai.ConstantOp(value=attribute).result


def pack_nibbles(codes: Array) -> npt.NDArray[np.uint8]:
    """Two 4-bit codes a byte, in two's complement, the first in the low bits."""
    flat = codes.reshape(-1).view(np.uint8) & np.uint8(15)
    packed: npt.NDArray[np.uint8] = flat[::NIBBLES] | (flat[1::NIBBLES] << np.uint8(4))
    return packed


def shape_of(x: Value) -> tuple[int, ...]:
    return tuple(ir.RankedTensorType(x.type).shape)


def element_of(x: Value) -> str:
    """The numpy name of a value's element type."""
    return {"f16": "float16", "f32": "float32", "si32": "int32"}[str(ir.RankedTensorType(x.type).element_type)]


def save(module: Any, asset: Path, producer: str) -> None:
    """Write the module as an `.aimodel` directory; the same module gives the same bytes.

    Core AI's own writer puts the time of day into the metadata.
    """
    asset.mkdir(parents=True)
    program = AIProgram(module)
    program._save_bytecode(asset / PROGRAM)
    metadata = {"assetVersion": "2.0", "producer": producer}
    (asset / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    with (asset / PROGRAM).open("rb") as file:
        (asset / HASH).write_bytes(hashlib.file_digest(file, "sha256").digest())


def _forget_places(module: Any) -> None:
    """Take out where in our source each operator was made: paths of this machine, and lines that move."""
    root = module._mlir_module.operation
    with module._context:
        unknown = ir.Location.unknown()
        set_op_location(root, unknown)
        for operation in _nested(root):
            set_op_location(operation, unknown)
            for region in operation.regions:
                for block in region:
                    for argument in block.arguments:
                        set_block_arg_location(argument, unknown)


def _nested(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region:
            for inner in block.operations:
                yield inner
                yield from _nested(inner)

"""One package's program: the functions that run a run of layers, for one token or many, with state in either place.

The decoder is captured once, with any number of tokens; each function is that graph walked again with its own number.
A package that does not begin with the embedding begins where a layer's norm reads the sum of what came before, and one
that does not end with the head ends there.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 (the name that coremltools gives it everywhere)
from coremltools.converters.mil.mil import Function, Program, types
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from export.backends import LoweringRequest
from export.capture import capture, fake_tensors
from export.coreml_lowering import arithmetic
from export.coreml_lowering.emit import Element, Emitter, Matrix, call
from export.coreml_lowering.state import FileState, file_states
from export.coreml_lowering.tables import ENTRIES, codes_of, values_of
from export.coreml_lowering.weights import Weight
from export.decoder import Decoder, Recipe
from export.decoder import Matrix as DecoderMatrix
from export.errors import LoweringError
from export.materialize import materialize
from export.quantized import QuantizedCheckpoint
from export.state import zero_state

LOGITS = "logits"
ONLY_FUNCTION = "main"  # the name of a function that is not one of several
INPUT_NORM = re.compile(r"decoder\.layers\.(\d+)\.input_norm\.value")


@dataclass(frozen=True, kw_only=True)
class FunctionSpec:
    """A function by name: tokens a call, and whether fixed-size states are inputs and outputs.

    One for ExecuTorch's delegate clears its states at position 0 itself, and gives logits in float32.
    """

    name: str
    tokens: int
    outside: bool
    for_delegate: bool = False


@dataclass(frozen=True, kw_only=True)
class Captured:
    """The decoder's graph, and what stands for each of its buffers."""

    program: ExportedProgram
    weights: Mapping[str, Any]
    request: LoweringRequest
    element: Element


class _Text(nn.Module):
    """The decoder with its state as arguments; functions keep the state themselves, only logits are asked for."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, positions: Tensor, start: Tensor, state: list[Tensor]) -> tuple[Tensor]:
        logits, _ = self.decoder(tokens, positions, start, state, last_only=True)
        return (logits,)


def capture_decoder(store: QuantizedCheckpoint, request: LoweringRequest, element: Element = "float16") -> Captured:
    """Capture the decoder under fake tensors and name its weights."""
    with fake_tensors():
        decoder = Decoder(request.config, request.layout, request.context_length)
        state = zero_state(request.config, request.context_length)
        tokens, start = torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        length = Dim("tokens", min=1, max=request.context_length)
        shapes = ({1: length}, {2: length}, None, [None] * len(state))
        program = capture(_Text(decoder), (tokens, tokens.expand(3, 1, 8), start, state), shapes)
        weights = _weights(decoder, store, request.context_length, element)
    return Captured(program=program, weights=weights, request=request, element=element)


def build_program(captured: Captured, layers: range, functions: Sequence[FunctionSpec]) -> Program:
    """The program of one package: `layers`, and what stands before the first and behind the last of the model."""
    mb.name_count.clear()  # names are numbered over all programs of a process; the same input gives the same bytes
    program = Program()
    program.export_as_multifunction = [spec.name for spec in functions] != [ONLY_FUNCTION]
    for spec in functions:
        program.add_function(spec.name, _function(captured, layers, spec))
    program.default_function_name = functions[0].name
    return program


def package_weights(captured: Captured, layers: range) -> list[Weight]:
    """The weights that a package of these layers holds."""
    found: dict[str, Weight] = {}
    buffers = captured.program.graph_signature.inputs_to_buffers
    for node in _nodes_of(captured, layers):
        for used in node.all_input_nodes:
            for weight in _parts(captured.weights.get(buffers.get(used.name, ""))):
                found[weight.name] = weight
    return list(found.values())


def _parts(weight: Any) -> list[Weight]:
    if isinstance(weight, Matrix):
        return [part for part in (weight.values, weight.scales, weight.tables) if part is not None]
    return [weight] if isinstance(weight, Weight) else []


def _function(captured: Captured, layers: range, spec: FunctionSpec) -> Function:
    request = captured.request
    states = file_states(request.config, request.context_length, outside=spec.outside)
    function = Function(_placeholders(captured, layers, spec, states), opset_version=ct.target.iOS18)
    with function:
        emitter = Emitter(
            tokens=spec.tokens,
            context_length=request.context_length,
            inputs=function.inputs,
            element=captured.element,
            clears_states=spec.for_delegate,
            image_token_id=None if request.vision is None else request.vision.config.image_token_id,
        )
        result = _walk(captured, layers, emitter, states)
        if spec.for_delegate and captured.element == "float16":
            result = mb.cast(x=result, dtype="fp32")
        name = LOGITS if layers.stop == request.config.num_layers else _hidden(layers.stop)
        outputs = [mb.identity(x=result, name=name), *emitter.outputs.values()]
        function.set_outputs(outputs)
    return function


def _placeholders(captured: Captured, layers: range, spec: FunctionSpec, states: Sequence[FileState]) -> dict[str, Any]:
    config = captured.request.config
    float_type = {"float16": types.fp16, "float32": types.fp32}[captured.element]
    found = {}
    if layers.start == 0:
        found["input_ids"] = mb.placeholder((1, spec.tokens), dtype=types.int32)
    else:
        found[_hidden(layers.start)] = mb.placeholder((1, spec.tokens, config.hidden_size), dtype=float_type)
    found["position"] = mb.placeholder((1,), dtype=types.int32)
    if captured.request.vision is not None:
        found["position_ids"] = mb.placeholder((3, spec.tokens), dtype=types.int32)
        if layers.start == 0:
            found["image_features"] = mb.placeholder((1, spec.tokens, config.hidden_size), dtype=float_type)
    if spec.tokens > 1:
        found["length"] = mb.placeholder((1,), dtype=types.int32)
    for state in states:
        if state.layer in layers:
            kind = mb.placeholder if state.is_input else mb.state_tensor_placeholder
            found[state.name] = kind(state.shape, dtype=types.fp16)
    return found


def _hidden(layer: int) -> str:
    """What one package hands to the next, by the layer that reads it; a function's names are all different."""
    return f"hidden_{layer}"


def _walk(captured: Captured, layers: range, emitter: Emitter, states: Sequence[FileState]) -> Any:
    """Emit the package's part of the graph; its last value."""
    environment = _placeholder_values(captured, emitter, states)
    first, last = _boundary(captured, layers.start), _boundary(captured, layers.stop)
    for node in _nodes_of(captured, layers):
        args: Any = fx.node.map_arg(node.args, lambda arg: environment[arg])
        if node is first and layers.start > 0:
            hidden = emitter.inputs[_hidden(layers.start)]
            environment[node] = (arithmetic.rms_norm(hidden, args[2].stand_in(), args[3]), hidden)
        elif node is last:
            return mb.add(x=args[0], y=args[1])
        elif node.op == "output":
            return args[0][0]
        else:
            environment[node] = call(emitter, node, list(args))
        environment.setdefault(node, None)
    raise LoweringError("coreml: the captured graph ends before its last layer; the decoder has changed")


def _placeholder_values(captured: Captured, emitter: Emitter, states: Sequence[FileState]) -> dict[fx.Node, Any]:
    """What stands for each input of the graph: a weight, the token ids, a state. Values before the package are None."""
    signature = captured.program.graph_signature
    buffers = signature.inputs_to_buffers
    given = {spec.arg.name for spec in signature.input_specs if spec.kind.name == "USER_INPUT"}
    values = iter([emitter.inputs.get("input_ids"), None, None, *states])  # positions and start follow from `position`
    environment: dict[fx.Node, Any] = {}
    for node in captured.program.graph.nodes:
        if node.op != "placeholder":
            environment[node] = None
        elif node.name in buffers:
            environment[node] = captured.weights.get(buffers[node.name])  # scales go with their codes
        elif node.name in given:
            environment[node] = next(values)
    return environment


def _nodes_of(captured: Captured, layers: range) -> list[fx.Node]:
    """The calls from the package's first boundary to its last, that one or the graph's output included."""
    nodes = [node for node in captured.program.graph.nodes if node.op in ("call_function", "output")]
    start, stop = _boundary(captured, layers.start), _boundary(captured, layers.stop)
    begin = 0 if layers.start == 0 or start is None else nodes.index(start)
    end = len(nodes) if stop is None else nodes.index(stop) + 1
    return [node for node in nodes[begin:end] if node.target is not torch.ops.aten.sym_size.int]


def _boundary(captured: Captured, layer: int) -> fx.Node | None:
    """The norm that a layer begins with; None behind the last layer."""
    buffers = captured.program.graph_signature.inputs_to_buffers
    nodes: list[fx.Node] = list(captured.program.graph.nodes)
    for node in nodes:
        for used in node.all_input_nodes:
            found = INPUT_NORM.fullmatch(buffers.get(used.name, ""))
            if found and int(found[1]) == layer:
                return node
    return None


def _weights(
    decoder: Decoder, store: QuantizedCheckpoint, context_length: int, float_element: Element
) -> dict[str, Any]:
    """What stands for each buffer of the captured module."""
    modules = dict(decoder.named_modules())
    found: dict[str, Any] = {}
    for name, recipe in decoder.recipes().items():
        owner, _, field = name.rpartition(".")
        module = modules[owner]
        shape = tuple(decoder.get_buffer(name).shape)
        if field == "scales":
            continue
        if field == "codes" and isinstance(module, DecoderMatrix):
            element = "int4" if module.form.bits == 4 else "int8"
            scales_shape = tuple(module.scales.shape)
            scales = _weight(f"{owner}.scales", module.recipes["scales"], scales_shape, float_element, store, 0)
            codes = _weight(name, recipe, shape, element, store, 0)
            found[f"decoder.{name}"] = Matrix(values=codes, scales=scales)
        elif field == "weight" and isinstance(module, DecoderMatrix) and module.form.table_rows is not None:
            found[f"decoder.{name}"] = _in_tables(name, recipe, shape, module.form.table_rows, float_element, store)
        elif field == "weight":
            found[f"decoder.{name}"] = Matrix(values=_weight(name, recipe, shape, float_element, store, 0))
        else:
            stored = _plain_shape(name, recipe, shape)
            found[f"decoder.{name}"] = _weight(name, recipe, stored, float_element, store, context_length)
    return found


def _in_tables(
    name: str, recipe: Recipe, shape: tuple[int, ...], rows: int, float_element: Element, store: QuantizedCheckpoint
) -> Matrix:
    """A matrix of few values as codes and tables."""

    def tables() -> Tensor:
        return values_of(name, materialize(recipe, store, 0), rows)

    def codes() -> np.ndarray[Any, Any]:
        weight = materialize(recipe, store, 0)
        return codes_of(weight, values_of(name, weight, rows)).numpy()

    plain = name.replace(".", "_")
    return Matrix(
        values=Weight(name=plain, shape=shape, element="uint4", make=codes),
        tables=Weight(
            name=f"{plain}_tables",
            shape=(shape[0] // rows, 1, ENTRIES, 1),
            element=float_element,
            make=lambda: tables().numpy(),
        ),
    )


def _plain_shape(name: str, recipe: Recipe, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Norm weights are stored twice over, as `arithmetic.rms_norm` reads them; a convolution has one input channel."""
    if recipe.field == "conv":
        return (shape[0], 1, shape[1])
    return (2 * shape[0],) if name.endswith("norm.value") else shape


def _weight(
    name: str, recipe: Recipe, shape: tuple[int, ...], element: str, store: QuantizedCheckpoint, context_length: int
) -> Weight:
    def make() -> np.ndarray[Any, Any]:
        found = materialize(recipe, store, context_length)
        if len(shape) == 1 and shape[0] == 2 * found.numel():
            found = torch.cat([found, found])
        return found.contiguous().numpy()

    return Weight(name=name.replace(".", "_"), shape=shape, element=element, make=make)

"""The asset's functions: the decoder is captured once, each function is that graph walked with its own token count."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from export.backends import LoweringRequest
from export.capture import capture, fake_tensors
from export.coreai_lowering.arithmetic import WIDE
from export.coreai_lowering.emit import Emitter, call
from export.coreai_lowering.graph import Port, Value, add_function, new_module, save
from export.coreai_lowering.state import FileState, file_states
from export.coreai_lowering.weights import Array, Matrix, Weight, Weights
from export.coreml_lowering.tables import ENTRIES, codes_of, values_of
from export.decoder import Decoder, Recipe
from export.decoder import Matrix as DecoderMatrix
from export.errors import LoweringError
from export.materialize import materialize
from export.quantized import QuantizedCheckpoint
from export.state import zero_state

LOGITS = "logits"
CAPTURED_TOKENS = 8  # any number but one: the graph is for all


@dataclass(frozen=True, kw_only=True)
class Captured:
    """The decoder's graph, what stands for each of its buffers, and the type of its products."""

    program: ExportedProgram
    weights: Mapping[str, Matrix | Weight]
    request: LoweringRequest
    element: str


class _Text(nn.Module):
    """The decoder with its state as arguments; functions keep the state themselves, only logits are asked for."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, positions: Tensor, start: Tensor, state: list[Tensor]) -> tuple[Tensor]:
        logits, _ = self.decoder(tokens, positions, start, state, last_only=True)
        return (logits,)


def capture_decoder(store: QuantizedCheckpoint, request: LoweringRequest, element: str) -> Captured:
    """Capture the decoder under fake tensors and name its weights."""
    with fake_tensors():
        decoder = Decoder(request.config, request.layout, request.context_length)
        state = zero_state(request.config, request.context_length)
        tokens = torch.zeros(1, CAPTURED_TOKENS, dtype=torch.int64)
        start = torch.zeros(1, dtype=torch.int64)
        length = Dim("tokens", min=1, max=request.context_length)
        shapes = ({1: length}, {2: length}, None, [None] * len(state))
        program = capture(_Text(decoder), (tokens, tokens.expand(3, 1, -1), start, state), shapes)
        weights = _weights(decoder, store, request.context_length, element)
    return Captured(program=program, weights=weights, request=request, element=element)


def write_asset(
    captured: Captured,
    functions: Mapping[str, int],
    asset: Path,
    producer: str,
    progress: Callable[[str, int], None],
) -> None:
    """Write an asset whose functions, by name, take that many tokens; they share weights and states."""
    weights = Weights(progress=progress)
    with new_module() as module:
        for name, tokens in functions.items():
            _add(captured, name, tokens, weights)
    save(module, asset, producer)


def _add(captured: Captured, name: str, tokens: int, weights: Weights) -> None:
    request = captured.request
    states = file_states(request.config, request.context_length, captured.element)
    inputs = [
        Port(name="input_ids", shape=(1, tokens), element="int32"),
        Port(name="position", shape=(1,), element="int32"),
    ]
    if tokens > 1:
        inputs.append(Port(name="length", shape=(1,), element="int32"))
    if request.vision is not None:
        inputs.append(Port(name="position_ids", shape=(3, tokens), element="int32"))
        inputs.append(Port(name="image_features", shape=(1, tokens, request.config.hidden_size), element=WIDE))

    def body(values: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, Value]]:
        emitter = Emitter(
            tokens=tokens,
            context_length=request.context_length,
            element=captured.element,
            inputs=values,
            weights=weights,
            image_token_id=None if request.vision is None else request.vision.config.image_token_id,
        )
        return {LOGITS: _walk(captured, emitter, states)}, emitter.new_states

    add_function(name, inputs, [state.port for state in states], body)


def _walk(captured: Captured, emitter: Emitter, states: Sequence[FileState]) -> Value:
    """Emit the graph; its logits."""
    environment = _placeholders(captured, emitter, states)
    for node in captured.program.graph.nodes:
        args: Any = fx.node.map_arg(node.args, lambda arg: environment[arg])
        if node.op == "output":
            return args[0][0]
        if node.op == "call_function":
            skipped = node.target is torch.ops.aten.sym_size.int
            environment[node] = None if skipped else call(emitter, node, list(args))
    raise LoweringError("coreai: the captured graph has no output; the decoder has changed")


def _placeholders(captured: Captured, emitter: Emitter, states: Sequence[FileState]) -> dict[fx.Node, Any]:
    """What stands for each input of the graph: a weight, the token ids, a state."""
    signature = captured.program.graph_signature
    given = {spec.arg.name for spec in signature.input_specs if spec.kind.name == "USER_INPUT"}
    values = iter([emitter.inputs["input_ids"], None, None, *states])  # positions and start follow from `position`
    environment: dict[fx.Node, Any] = {}
    for node in captured.program.graph.nodes:
        if node.op == "placeholder" and node.name in signature.inputs_to_buffers:
            # scales go with their codes
            environment[node] = captured.weights.get(signature.inputs_to_buffers[node.name])
        elif node.op == "placeholder" and node.name in given:
            environment[node] = next(values)
    return environment


def stored_weights(captured: Captured) -> list[Weight]:
    """Every tensor of the asset."""
    return [
        part
        for weight in captured.weights.values()
        for part in (weight.parts if isinstance(weight, Matrix) else [weight])
    ]


def _weights(
    decoder: Decoder, store: QuantizedCheckpoint, context_length: int, element: str
) -> dict[str, Matrix | Weight]:
    """What stands for each buffer of the captured module."""
    modules = dict(decoder.named_modules())
    found: dict[str, Matrix | Weight] = {}
    for name, recipe in decoder.recipes().items():
        owner, _, field = name.rpartition(".")
        module = modules[owner]
        shape = tuple(decoder.get_buffer(name).shape)
        if field == "codes" and isinstance(module, DecoderMatrix):
            kind = "int4" if module.form.bits == 4 else "int8"
            groups = (*module.scales.shape, 1, 1)
            scales = _weight(f"{owner}.scales", module.recipes["scales"], groups, element, store)
            found[f"decoder.{name}"] = Matrix(values=_weight(name, recipe, (*shape, 1, 1), kind, store), scales=scales)
        elif field == "weight" and isinstance(module, DecoderMatrix) and module.form.table_rows is not None:
            found[f"decoder.{name}"] = _in_tables(name, recipe, shape, module.form.table_rows, element, store)
        elif field == "weight":
            found[f"decoder.{name}"] = Matrix(values=_weight(name, recipe, (*shape, 1, 1), element, store))
        elif field != "scales":
            stored = shape[::-1] if recipe.field == "conv" else shape  # the kernel's taps first
            found[f"decoder.{name}"] = _weight(name, recipe, stored, WIDE, store, context_length)
    return found


def _in_tables(
    name: str, recipe: Recipe, shape: tuple[int, ...], rows: int, element: str, store: QuantizedCheckpoint
) -> Matrix:
    """A matrix of few values as codes and tables."""

    def tables() -> Array:
        return values_of(name, materialize(recipe, store, 0), rows).numpy()

    def codes() -> Array:
        weight = materialize(recipe, store, 0)
        return codes_of(weight, values_of(name, weight, rows)).numpy()

    runs = (shape[0] // rows, 1, 1, 1, ENTRIES, 1)
    return Matrix(
        values=Weight(name=name, shape=(*shape, 1, 1), element="uint4", make=codes),
        tables=Weight(name=f"{name}_tables", shape=runs, element=element, make=tables),
    )


def _weight(
    name: str,
    recipe: Recipe,
    shape: tuple[int, ...],
    element: str,
    store: QuantizedCheckpoint,
    context_length: int = 0,
) -> Weight:
    def make() -> Array:
        found = materialize(recipe, store, context_length)
        return (found.T if recipe.field == "conv" else found).contiguous().numpy()

    return Weight(name=name, shape=shape, element=element, make=make)

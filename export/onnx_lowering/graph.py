"""The whole ONNX text model: graph inputs and outputs as onnxruntime-genai names them, the decoder in between."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from export.backends import LoweringRequest, WrittenState
from export.capture import capture, fake_tensors
from export.decoder import Activations, Decoder
from export.onnx_lowering.data import DataFile
from export.onnx_lowering.initializers import Source, initializers
from export.onnx_lowering.translate import Emitter, Profile, Value, translate
from export.onnx_lowering.vision import EMBEDDING_FILE, TOWER_FILE, write_embedding, write_tower
from export.quantized import QuantizedCheckpoint
from export.state import StateTensor, state_tensors

ELEMENT_TYPES = {"float32": ir.DataType.FLOAT, "int8": ir.DataType.INT8}
IR_VERSION = 10  # what ONNX Runtime 1.20 and later open
TRACED_TOKENS = 8
TRACED_PAST = 16
PAST_NAMES = {
    "key": "past_key_values.{}.key",
    "value": "past_key_values.{}.value",
    "conv": "past.{}.conv",
    "recurrent": "past.{}.recurrent",
}
PRESENT_NAMES = {
    "key": "present.{}.key",
    "value": "present.{}.value",
    "conv": "present.{}.conv",
    "recurrent": "present.{}.recurrent",
}


@dataclass(frozen=True)
class Bounds:
    """How far each sequence reaches, as GroupQueryAttention wants it: int32 (1,) last slot, int32 (1,) total tokens."""

    last_slots: ir.Value
    total: ir.Value


class _EmbeddedModel(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, embeddings: Tensor, positions: Tensor, bounds: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        logits, new_state = self.decoder.run(embeddings, positions, bounds, state, last_only=True)
        return logits, new_state


class _TextModel(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor, positions: Tensor, bounds: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        logits, new_state = self.decoder(tokens, positions, bounds, state, last_only=True)
        return logits, new_state


def write_graph(
    store: QuantizedCheckpoint,
    request: LoweringRequest,
    profile: Profile,
    activations: Activations,
    path: Path,
    progress: Callable[[str, int], None],
) -> tuple[tuple[WrittenState, ...], int]:
    """Write `path` and `path`.data, and return the state as the graph declares it, and the bytes of the vision tower.

    A model that sees reads embeddings, and two more graphs beside it make them (export/onnx_lowering/vision.py).
    """
    vision = request.vision
    state = state_tensors(request.config, request.context_length)
    stored = tuple(_as_stored(entry) for entry in state)
    with fake_tensors():
        decoder = Decoder(request.config, request.layout, request.context_length, activations, fuse_quantized=False)
        program = _capture(decoder, state, request.config.hidden_size if vision else None)
    data = DataFile(path.with_name(path.name + ".data"), progress)
    tower_bytes = 0
    try:
        weights = initializers(decoder, Source(store, request.context_length, data))
        emitter = Emitter()
        if vision is None:
            tokens = _input("input_ids", ir.DataType.INT64, [1, "sequence_length"])
        else:
            tokens = _input("inputs_embeds", ir.DataType.FLOAT, [1, "sequence_length", request.config.hidden_size])
        mask = _input("attention_mask", ir.DataType.INT64, [1, "total_sequence_length"])
        positions = _input("position_ids", ir.DataType.INT64, [3, 1, "sequence_length"])
        pasts = [
            _input(
                PAST_NAMES[entry.kind].format(entry.layer),
                ELEMENT_TYPES[_dtype(entry, activations)],
                _shape(entry, "past_sequence_length"),
            )
            for entry in stored
        ]
        names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
        values = [
            Value(packed=tokens),
            Value(packed=positions),
            _bounds(emitter, mask),
            *(Value(packed=past) for past in pasts),
        ]
        named_weights = {f"decoder.{name}": weight for name, weight in weights.items()}
        results = translate(emitter, program, dict(zip(names, values, strict=True)), named_weights, profile)
        outputs = [emitter.packed(results[0], "logits")]
        _declare(outputs[0], "logits", [1, 1, request.config.vocab_size], ir.DataType.FLOAT)
        for entry, result in zip(stored, results[1:], strict=True):
            present = result.packed
            assert present is not None
            shape = _shape(entry, "total_sequence_length")
            element = ELEMENT_TYPES[_dtype(entry, activations)]
            _declare(present, PRESENT_NAMES[entry.kind].format(entry.layer), shape, element)
            outputs.append(present)
        if vision is not None:
            write_embedding(weights, vision.config, path.with_name(EMBEDDING_FILE))
            before = data.length
            write_tower(vision.weights, data, path.with_name(TOWER_FILE))
            tower_bytes = data.length - before
    finally:
        data.close()
    graph = ir.Graph(
        [tokens, mask, positions, *pasts],
        outputs,
        nodes=emitter.nodes,
        initializers=list(emitter.initializers.values()),
        opset_imports={"": profile.opset, "com.microsoft": 1},
        name="qwen3_5_text",
    )
    ir.save(ir.Model(graph, ir_version=IR_VERSION, producer_name="qwen-edge"), path)
    return tuple(_written(entry, _dtype(entry, activations)) for entry in stored), tower_bytes


def _capture(
    decoder: Decoder, state: tuple[StateTensor, ...], embedding_size: int | None
) -> torch.export.ExportedProgram:
    """The decoder from tokens on, or from embeddings of that size."""
    tokens = Dim("tokens", min=1, max=1 << 20)
    past = Dim("past", min=1, max=1 << 20)
    ids = torch.zeros(1, TRACED_TOKENS, dtype=torch.int64)
    args = (
        ids if embedding_size is None else torch.zeros(1, TRACED_TOKENS, embedding_size),
        torch.zeros(3, 1, TRACED_TOKENS, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int32),
        [
            torch.empty(
                tuple(TRACED_PAST if axis == entry.token_axis else size for axis, size in enumerate(entry.shape))
            )
            for entry in state
        ],
    )
    grows = [None if entry.token_axis is None else {entry.token_axis: past} for entry in state]
    model = _TextModel(decoder) if embedding_size is None else _EmbeddedModel(decoder)
    return capture(model, args, ({1: tokens}, {2: tokens}, None, grows))


def _bounds(emitter: Emitter, mask: ir.Value) -> Bounds:
    """GroupQueryAttention's two scalars from the attention mask's length; one sequence, never padded."""
    total = emitter.one("Shape", [mask], {"start": 1, "end": 2}, "bounds/total_int64")
    last = emitter.one("Sub", [total, emitter.constant([1])], {}, "bounds/last_int64")
    return Bounds(
        last_slots=emitter.one("Cast", [last], {"to": ir.DataType.INT32}, "bounds/last_slots"),
        total=emitter.one("Cast", [total], {"to": ir.DataType.INT32}, "bounds/total"),
    )


def _input(name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _declare(value: ir.Value, name: str, shape: list[int | str], element: ir.DataType) -> None:
    value.name, value.type, value.shape = name, ir.TensorType(element), ir.Shape(shape)


def _dtype(entry: StateTensor, activations: Activations) -> str:
    """The element type of a state tensor in the file."""
    return "int8" if entry.kind in ("key", "value") and activations.cache == "int8" else "float32"


def _as_stored(entry: StateTensor) -> StateTensor:
    """The state in the layout of the operators: the convolution keeps it channels-last, (1, K - 1, C)."""
    if entry.kind != "conv":
        return entry
    batch, channels, width = entry.shape
    return replace(entry, shape=(batch, width, channels))


def _shape(entry: StateTensor, length: str) -> list[int | str]:
    return [length if axis == entry.token_axis else size for axis, size in enumerate(entry.shape)]


def _written(entry: StateTensor, dtype: str) -> WrittenState:
    return WrittenState(
        name=entry.name,
        kind=entry.kind,
        layer=entry.layer,
        shape=entry.shape,
        dtype=dtype,
        token_axis=entry.token_axis,
        input_name=PAST_NAMES[entry.kind].format(entry.layer),
        output_name=PRESENT_NAMES[entry.kind].format(entry.layer),
    )

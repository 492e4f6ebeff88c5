"""ExecuTorch: one `.pte` on XNNPACK and the LLM custom kernels, for the stock text runners."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from export.backends import Lowered, LoweringRequest, WrittenState
from export.capture import capture, fake_tensors
from export.config import ModelConfig
from export.decoder import Activations, Decoder
from export.errors import LoweringError, UnsupportedSchemeError
from export.executorch_lowering.delta import CHUNK
from export.executorch_lowering.image import COORDINATES
from export.executorch_lowering.matrices import Matrices
from export.executorch_lowering.program import ProgramBuilder
from export.executorch_lowering.pte import ALIGNMENT, Method, write_pte
from export.executorch_lowering.seeing import (
    DECODE_METHOD,
    EMBED_METHOD,
    segment_length,
    write_text_decoder,
    write_token_embedding,
)
from export.executorch_lowering.state import kept_state
from export.executorch_lowering.tensors import Dynamic, Element, Value
from export.executorch_lowering.tower import METHOD as ENCODE_METHOD
from export.executorch_lowering.tower import write_encoder
from export.executorch_lowering.translate import Inputs, Translation, write_prologue
from export.quantized import QuantizedCheckpoint
from export.schemes import FLOAT, INT8_ROW, ROWS_ONLY, Format, Layout
from export.sizes import Packing, Speed
from export.state import StateTensor, zero_state
from export.vision.request import VisionRequest
from runtimes.artifact import Vision

SUMMARY = "XNNPACK and ExecuTorch's LLM kernels, 4- and 8-bit weights, int8 activations; also opens in TextLLMRunner"
RUNTIME = "executorch"
OLDEST_RUNTIME = "1.5.0"  # the first with llama::gated_delta_rule
PREFILL_CHUNK = CHUNK
ACTIVATIONS = Activations(kind="int8_token")
# XNNPACK has no float products with 4-bit groups, and no static ones with float results
ACTIVATION_KINDS = {"int8": ACTIVATIONS, "int8_static": replace(ACTIVATIONS, static_outputs=True)}
TOWER_ACTIVATIONS = ACTIVATIONS
MODALITIES = ("text", "image")
MODEL_FILE = "model.pte"
BLOCK = 32
# by their bytes: only 4 bits in groups of 32 were measured, 40.2 ms a token for 752 M weights (docs/results.md)
SPEED = Speed(
    relative={
        Format(bits=4, group_size=128): 4.125 / 4.5,
        Format(bits=4, group_size=64): 4.25 / 4.5,
        Format(bits=4, group_size=32): 1.0,
        INT8_ROW: 8 / 4.5,
        FLOAT: 32 / 4.5,
    },
    ns_per_weight=0.0534,
)
OPTIONS = tuple(SPEED.relative)
# matrices that read one input share its quantization; ARM kernels that pack it too need readers of one width
TIED = (("in_proj_qkv", "in_proj_z"), ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
FINEST = ROWS_ONLY
# bfloat16 scales of groups, float32 scales of rows; 17 KB of program a layer, masks and the rest in `base_bytes`
PACKING = Packing(
    scale_bytes={4: 2, 8: 4}, row_block=None, layer_bytes=20_000, base_bytes=170_000, padding_bytes=2 * ALIGNMENT
)


def check(layout: Layout, config: ModelConfig) -> None:  # noqa: ARG001 (every backend's signature)
    """Refuse what XNNPACK cannot hold."""
    for unit, form in layout.items():
        if form.bits == 4 and (form.group_size is None or form.group_size % BLOCK):
            raise UnsupportedSchemeError(
                f"executorch cannot pack {unit} as {form}: XNNPACK takes 4-bit groups that are a multiple of {BLOCK}; "
                "use --group-size 32, 64 or 128"
            )
        if form.bits == 8 and form.group_size is not None:
            raise UnsupportedSchemeError(
                f"executorch cannot pack {unit} as {form}: XNNPACK takes 8-bit codes with one scale a row; "
                "use 8 bits without groups (the schemes int8 and mixed do)"
            )


def estimate_bytes(layout: Layout, config: ModelConfig, context_length: int) -> int:
    """At most what the model file takes; a tied table counts once."""
    return PACKING.file_bytes(layout, config, context_length)


def lower(
    store: QuantizedCheckpoint, request: LoweringRequest, directory: Path, progress: Callable[[str, int], None]
) -> Lowered:
    """Write model.pte."""
    activations = replace(ACTIVATION_KINDS[request.activations], static=frozenset(store.grids))
    write = _write_text if request.vision is None else _write_seeing
    methods, inputs = write(store, request, activations)
    decoder = methods[0].builder
    file = directory / MODEL_FILE
    write_pte(file, methods, _metadata(request), progress)
    return Lowered(
        model_file=MODEL_FILE,
        files=(file,),
        state=tuple(_written(tensor, value) for tensor, value in zip(inputs.state_tensors, inputs.state, strict=True)),
        prefill_chunk=_prefill_chunk(request),
        bytes_read_per_token=_bytes_read(methods, inputs),
        activations=activations,
        details={
            "delegate": "XnnpackBackend",
            "delegates": sum(len(method.builder.regions) for method in methods),
            "kernels": _kernels(decoder),
        },
        vision=None if request.vision is None else _vision(request.vision),
    )


def _write_text(
    store: QuantizedCheckpoint, request: LoweringRequest, activations: Activations
) -> tuple[list[Method], Inputs]:
    """One method, for the stock text runners."""
    decoder, captured = _capture(request, activations)
    builder = ProgramBuilder()
    inputs = _inputs(builder, request)
    prologue = write_prologue(builder, store, request.context_length, inputs)
    translation = Translation(builder, Matrices(builder, store, request.context_length), inputs, prologue)
    recipes = {f"decoder.{name}": recipe for name, recipe in decoder.recipes().items()}
    return [Method(builder, translation.run(captured, recipes))], inputs


def _write_seeing(
    store: QuantizedCheckpoint, request: LoweringRequest, activations: Activations
) -> tuple[list[Method], Inputs]:
    """Three methods, for the stock multimodal runner; the decoder is the first."""
    assert request.vision is not None
    decoder = ProgramBuilder(DECODE_METHOD)
    embedding = decoder.beside(EMBED_METHOD)
    encoder = embedding.beside(ENCODE_METHOD)
    features = write_encoder(encoder, request.vision, store.path.name)
    matrices = Matrices(embedding, store, request.context_length)
    rows = write_token_embedding(matrices, request)
    reader = replace(matrices, program=decoder)
    logits, inputs = write_text_decoder(reader, request, activations, _prefill_chunk(request))
    return [Method(decoder, logits), Method(embedding, rows), Method(encoder, features)], inputs


def _vision(request: VisionRequest) -> Vision:
    """Rows of both kinds carry positions behind the model's channels."""
    written = request.written(MODEL_FILE, MODEL_FILE)
    return replace(written, hidden_size=written.hidden_size + COORDINATES)


class _Text(nn.Module):
    """The decoder with its state as arguments; only the logits are asked for, a backend keeps the state itself."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, positions: Tensor, start: Tensor, state: list[Tensor]) -> tuple[Tensor]:
        logits, _ = self.decoder(tokens, positions, start, state, last_only=True)
        return (logits,)


def _capture(request: LoweringRequest, activations: Activations) -> tuple[Decoder, ExportedProgram]:
    length = Dim("tokens", min=1, max=_prefill_chunk(request))
    with fake_tensors():
        decoder = Decoder(request.config, request.layout, request.context_length, activations)
        state = zero_state(request.config, request.context_length)
        tokens, start = torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        args = (tokens, tokens.expand(3, 1, 8), start, state)
        shapes = ({1: length}, {2: length}, None, [None] * len(state))
        return decoder, capture(_Text(decoder), args, shapes)


def _prefill_chunk(request: LoweringRequest) -> int:
    return min(PREFILL_CHUNK, request.context_length)


def _inputs(builder: ProgramBuilder, request: LoweringRequest) -> Inputs:
    sequence = builder.input((1, Dynamic(_prefill_chunk(request))), Element.INT64)
    start = builder.input((1,), Element.INT64)
    tensors, state = kept_state(builder, request)
    return Inputs(sequence=sequence, start=start, state=state, state_tensors=tensors)


def _written(tensor: StateTensor, value: Value) -> WrittenState:
    return WrittenState(
        name=tensor.name,
        kind=tensor.kind,
        layer=tensor.layer,
        shape=tuple(int(size) for size in value.shape),
        dtype="float32",
        token_axis=None if tensor.token_axis is None else 1,
        input_name=None,
        output_name=None,
    )


def _metadata(request: LoweringRequest) -> dict[str, Sequence[int | bool]]:
    """What ExecuTorch's text runners read (extension/llm/runner/constants.h)."""
    found: dict[str, Sequence[int | bool]] = {
        "get_max_seq_len": [_prefill_chunk(request) if request.vision is None else segment_length(request)],
        "get_max_context_len": [request.context_length],
        "get_vocab_size": [request.config.vocab_size],
        "get_n_layers": [request.config.num_layers],
        "use_kv_cache": [True],
        "use_sdpa_with_kv_cache": [True],
        "enable_dynamic_shape": [True],
        "get_eos_ids": list(request.eos_token_ids),
    }
    if request.bos_token_id is not None:
        found["get_bos_id"] = [request.bos_token_id]
    return found


def _bytes_read(methods: Sequence[Method], inputs: Inputs) -> int:
    """Weights of the decoder's delegates, and the fixed-size state read and written."""
    decoder, *others = [_read_by(method) for method in methods]
    elsewhere = set().union(*others) - decoder
    weights = sum(blob.num_bytes for blob in methods[0].builder.named if blob.key not in elsewhere)
    state = sum(tensor.num_bytes for tensor in inputs.state_tensors if tensor.token_axis is None)
    return weights + 2 * state


def _read_by(method: Method) -> set[str]:
    """The names of what a method's delegates read."""
    return {constant.named_key for region in method.builder.regions for constant in region.constants}


EXPECTED_KERNELS = ("llama::gated_delta_rule", "llama::update_cache", "llama::custom_sdpa")


def _kernels(builder: ProgramBuilder) -> dict[str, int]:
    """How often the program calls each kernel."""
    counts: dict[str, int] = {}
    for call in builder.calls:
        index = getattr(call.instruction.instr_args, "op_index", None)
        if index is not None:
            name = builder.operators[index].name
            counts[name] = counts.get(name, 0) + 1
    missing = [name for name in EXPECTED_KERNELS if name not in counts]
    if missing:
        raise LoweringError(f"executorch program lacks {', '.join(missing)}; the decoder's graph has changed")
    return dict(sorted(counts.items()))

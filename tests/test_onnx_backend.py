"""The written ONNX file in stock ONNX Runtime against eager torch on the same codes."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from export import catalog
from export.backends import Lowered
from export.decoder import Activations, text_positions
from export.errors import UnsupportedSchemeError
from export.quantized import QuantizedCheckpoint
from export.schemes import Format
from tests.subjects import CONTEXT, chunked_logits, eager, quantized, random_tokens, relative_error, request

SHAPES = ("like_2b", "like_4b", "like_9b", "untied_fp32")
BACKENDS = [name for name in catalog.names("backends") if name.startswith("onnx")]
TOKENS = 150
FLOAT_TOLERANCE = 1e-4
KLD_TOLERANCE = 1e-4
FUSED = {
    "LinearAttention",
    "LinearAttentionGate",
    "GroupQueryAttention",
    "MatMulNBits",
    "SkipSimplifiedLayerNormalization",
}

Made = tuple[QuantizedCheckpoint, Lowered, Path]
Make = Callable[..., Made]


@pytest.fixture(scope="module")
def make(fixture_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Lower a fixture by a backend and a scheme, once a module."""

    @cache
    def lower(shape: str, scheme: str, backend: str = "onnx", group_size: int | None = None) -> Made:
        root = tmp_path_factory.mktemp("onnx")
        store = quantized(fixture_checkpoint(shape), root / "store", scheme, group_size)
        module = catalog.load("backends", backend)
        module.check(store.layout, store.config)
        directory = root / "artifact"
        directory.mkdir()
        return store, module.lower(store, request(store), directory, lambda *_: None), directory

    return lower


def session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options)


def run(model: onnxruntime.InferenceSession, tokens: Tensor, chunks: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """The position and logits that end each chunk."""
    state = {
        entry.name: np.zeros([0 if isinstance(size, str) else size for size in entry.shape], np.float32)
        for entry in model.get_inputs()[3:]
    }
    position = 0
    for count in chunks:
        feeds = {
            "input_ids": tokens[:, position : position + count].numpy(),
            "attention_mask": np.ones((1, position + count), np.int64),
            "position_ids": text_positions(position, count).contiguous().numpy(),
        }
        logits, *present = model.run(None, feeds | state)
        state = dict(zip(state, present, strict=True))
        position += count
        yield position - 1, torch.from_numpy(logits[0, -1])


def plans() -> list[list[int]]:
    """One shot, single steps, chunks of 7, 64 and 128, and a prefill followed by steps."""
    by_size = [[size] * (TOKENS // size) + [TOKENS % size] * (TOKENS % size > 0) for size in (TOKENS, 1, 7, 64, 128)]
    return [*by_size, [100] + [1] * 50]


def check_float(model: onnxruntime.InferenceSession, tokens: Tensor, expected: Tensor) -> None:
    for plan in plans():
        for position, logits in run(model, tokens, plan):
            error = relative_error(logits, expected[position])
            assert error <= FLOAT_TOLERANCE, f"relative error {error} at {position} in chunks of {plan[0]}"
            assert logits.argmax() == expected[position].argmax()


def check_quantized(model: onnxruntime.InferenceSession, tokens: Tensor, expected: Tensor) -> None:
    """Mean divergence over all chunkings: one int8 code on the other side of a rounding may move one position."""
    found = [answer for plan in plans() for answer in run(model, tokens, plan)]
    divergence = [
        functional.kl_div(logits.log_softmax(-1), expected[position].log_softmax(-1), log_target=True, reduction="sum")
        for position, logits in found
    ]
    assert float(torch.stack(divergence).mean()) <= KLD_TOLERANCE
    largest = max(float((logits - expected[position]).abs().max()) for position, logits in found)
    for position, logits in found:
        first, second = expected[position].topk(2).values
        if first - second > 2 * largest:
            assert logits.argmax() == expected[position].argmax(), f"position {position}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_float_file_equals_eager(shape: str, backend: str, make: Make) -> None:
    store, lowered, directory = make(shape, "float", backend)
    tokens = random_tokens(store.config, TOKENS)
    check_float(session(directory / lowered.model_file), tokens, chunked_logits(eager(store), tokens, TOKENS))


@pytest.mark.parametrize(
    ("shape", "scheme", "group_size"),
    [
        *((shape, "int4", None) for shape in SHAPES),
        ("like_4b", "int4", 64),
        ("like_2b", "int8", None),
        ("like_9b", "int8", None),
    ],
)
def test_quantized_file_equals_emulating_eager(shape: str, scheme: str, group_size: int | None, make: Make) -> None:
    store, lowered, directory = make(shape, scheme, "onnx", group_size)
    tokens = random_tokens(store.config, TOKENS)
    expected = chunked_logits(eager(store, lowered.activations), tokens, TOKENS)
    check_quantized(session(directory / lowered.model_file), tokens, expected)


@pytest.mark.parametrize(("shape", "scheme"), [("like_2b", "int4"), ("like_9b", "int4"), ("like_4b", "int8")])
def test_with_float_activations_the_codes_are_exact(shape: str, scheme: str, make: Make) -> None:
    store, lowered, directory = make(shape, scheme)
    model = onnx.load(directory / lowered.model_file, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    copy = directory / "float_activations.onnx"
    onnx.save(model, copy)
    tokens = random_tokens(store.config, TOKENS)
    check_float(session(copy), tokens, chunked_logits(eager(store, Activations()), tokens, TOKENS))


def test_strong_decay_survives_the_fused_operator(
    make: Make, fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    store, lowered, directory = make("like_4b", "float")
    model = onnx.load(directory / lowered.model_file)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("decay_scale.value"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(tensor.dims), -20.0, np.float32), tensor.name))
    onnx.save(model, tmp_path / "strong.onnx")
    decoder = eager(store)
    for name in decoder.recipes():
        if name.endswith("decay_scale.value"):
            decoder.get_buffer(name).fill_(-20.0)
    tokens = random_tokens(store.config, TOKENS)
    check_float(session(tmp_path / "strong.onnx"), tokens, chunked_logits(decoder, tokens, TOKENS))


def test_tied_table_lies_once_in_the_file(make: Make) -> None:
    store, lowered, directory = make("like_2b", "int4")
    weights = sum(entry.size_bytes for name, entry in store.entries.items() if name.endswith(".codes"))
    scales = sum(2 * entry.size_bytes for name, entry in store.entries.items() if name.endswith(".scales"))
    data = (directory / (lowered.model_file + ".data")).stat().st_size
    assert data < 1.25 * (weights + scales), "the embedding table seems to be stored twice"
    model = onnx.load(directory / lowered.model_file, load_external_data=False)
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer
    }
    table = next(place for name, place in places.items() if name == "embed.codes.table")
    matrix = next(place for name, place in places.items() if name.startswith("embed.codes.matrix"))
    assert table["offset"] == matrix["offset"]


def test_graph_is_made_of_fused_operators_and_little_else(make: Make) -> None:
    _, lowered, directory = make("like_2b", "int4")
    model = onnx.load(directory / lowered.model_file, load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert set(kinds) >= FUSED
    assert kinds.count("Shape") == 1, "shape arithmetic crept in"
    assert model.ir_version == 10
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 21, "com.microsoft": 1}


def test_a_head_larger_than_a_piece_is_multiplied_in_pieces(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.onnx_lowering.initializers.PIECE_BYTES", 1 << 14)
    store, _, _ = make("like_2b", "int4")
    lowered = catalog.load("backends", "onnx").lower(store, request(store), tmp_path, lambda *_: None)
    model = onnx.load(tmp_path / lowered.model_file, load_external_data=False)
    assert sum("rows_" in node.name for node in model.graph.node if node.op_type == "MatMulNBits") >= 4
    tokens = random_tokens(store.config, TOKENS)
    expected = chunked_logits(eager(store, lowered.activations), tokens, TOKENS)
    check_quantized(session(tmp_path / lowered.model_file), tokens, expected)


def test_equal_inputs_give_equal_bytes(make: Make, tmp_path: Path) -> None:
    store, lowered, _ = make("like_4b", "int4")
    again = catalog.load("backends", "onnx").lower(store, request(store), tmp_path, lambda *_: None)
    for file in lowered.files:
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name
    assert again.state == lowered.state


def test_rope_tables_are_cut_to_the_context(make: Make) -> None:
    store, lowered, directory = make("like_2b", "int4")
    model = onnx.load(directory / lowered.model_file, load_external_data=False)
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "cos_table")
    assert tuple(table.dims) == (CONTEXT, store.config.rotary_dim // 2)


def test_a_block_size_that_matmulnbits_lacks_is_refused(make: Make) -> None:
    store, _, _ = make("like_2b", "int4")
    layout = dict(store.layout) | {"layers.0.mlp.up_proj": Format(bits=4, group_size=96)}
    with pytest.raises(UnsupportedSchemeError, match="onnx cannot pack layers.0.mlp.up_proj as int4_g96"):
        catalog.load("backends", "onnx").check(layout, store.config)

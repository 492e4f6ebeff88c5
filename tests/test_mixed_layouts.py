"""Artifacts in which matrices differ in format: the codes in the files, and what the runtimes make of them."""

import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program
from executorch.exir._serialize._program import _ExtendedHeader
from torch import Tensor

from export.backends import Lowered, executorch
from export.backends import onnx as onnx_backend
from export.config import parse_config, read_config
from export.decoder import Activations, Decoder, Part
from export.errors import UnsupportedSchemeError
from export.materialize import select_rows
from export.plan import make_plan
from export.quantized import QuantizedCheckpoint
from export.schemes import FLOAT, INT8_FINEST, INT8_ROW, KEEP_GATES, Format, Rule, Scheme, layout
from tests.exports import exported, small_spec
from tests.fixtures import TINY
from tests.subjects import chunked_logits, eager, quantized, random_tokens, request
from tests.test_executorch_backend import Model
from tests.test_executorch_backend import check_quantized as check_pte
from tests.test_onnx_backend import TOKENS, check_float, check_quantized, session

G32, G64, G128 = (Format(bits=4, group_size=size) for size in (32, 64, 128))


def scheme(embedding: Format, *others: tuple[str, Format]) -> Scheme:
    """Neighbours that read the same input differ in format, which the decoder would else fuse."""
    rules = (
        *(Rule(pattern=pattern, format=form) for pattern, form in others),
        Rule(pattern="embed_tokens", format=embedding),
        Rule(pattern="*.q_proj", format=G32),
        Rule(pattern="*.in_proj_z", format=G32),
        Rule(pattern="*.gate_proj", format=FLOAT),
        Rule(pattern="layers.0.mlp.down_proj", format=G128),
    )
    return Scheme(summary="", rules=(*KEEP_GATES, *rules, Rule(pattern="*", format=G64)))


ON_EXECUTORCH = scheme(INT8_ROW, ("*.out_proj", INT8_ROW), ("*.k_proj", INT8_ROW), ("lm_head", INT8_ROW))
ON_ONNX = scheme(
    Format(bits=8, group_size=32),
    ("*.out_proj", Format(bits=8, group_size=64)),
    ("*.k_proj", INT8_ROW),
    ("*.v_proj", Format(bits=8, group_size=32)),
    ("layers.1.mlp.down_proj", Format(bits=8, group_size=128)),
    ("lm_head", Format(bits=8, group_size=64)),
)
Made = tuple[QuantizedCheckpoint, Lowered, Path]


@pytest.fixture(scope="module")
def make(
    fixture_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Made]:
    """Lower a fixture, or the tiny model, in a mixed layout; once a module."""

    @cache
    def lower(shape: str, backend: str) -> Made:
        root = tmp_path_factory.mktemp(backend)
        module, mixed = (onnx_backend, ON_ONNX) if backend == "onnx" else (executorch, ON_EXECUTORCH)
        store = quantized(TINY if shape == "tiny" else fixture_checkpoint(shape), root / "store", mixed)
        module.check(store.layout, store.config)
        return store, module.lower(store, request(store), root, lambda *_: None), root

    return lower


@pytest.mark.parametrize("shape", ["like_2b", "like_9b"])
def test_a_mixed_onnx_file_equals_emulating_eager(shape: str, make: Callable[[str, str], Made]) -> None:
    store, lowered, directory = make(shape, "onnx")
    tokens = random_tokens(store.config, TOKENS)
    expected = chunked_logits(eager(store, lowered.activations), tokens, TOKENS)
    check_quantized(session(directory / lowered.model_file), tokens, expected)


@pytest.mark.parametrize("shape", ["like_2b", "like_9b"])
def test_a_mixed_executorch_file_equals_emulating_eager(shape: str, make: Callable[[str, str], Made]) -> None:
    store, lowered, directory = make(shape, "executorch")
    tokens = random_tokens(store.config, TOKENS)
    expected = chunked_logits(eager(store, lowered.activations), tokens, TOKENS)
    check_pte(Model(directory / lowered.model_file), tokens, expected)


@pytest.mark.parametrize("shape", ["like_9b", "tiny"])
def test_a_mixed_onnx_file_with_float_activations_is_exact(
    shape: str, make: Callable[[str, str], Made], tmp_path: Path
) -> None:
    store, _, _ = make(shape, "onnx")
    lowered = onnx_backend.lower(store, request(store, activations="float"), tmp_path, lambda *_: None)
    assert lowered.activations == Activations()
    tokens = random_tokens(store.config, TOKENS)
    check_float(session(tmp_path / lowered.model_file), tokens, chunked_logits(eager(store), tokens, TOKENS))


def test_a_backend_refuses_activations_that_it_cannot_multiply(tmp_path: Path) -> None:
    spec = small_spec(tmp_path, TINY, scheme="w4a16", backends=("executorch",))
    with pytest.raises(UnsupportedSchemeError, match="executorch cannot multiply quantized weights with float"):
        make_plan(spec)
    assert make_plan(small_spec(tmp_path, TINY, scheme="w4a16")).builds[0].layout["embed_tokens"].bits == 8


@pytest.mark.slow
def test_the_tiny_model_in_the_scheme_mixed_passes_verification_on_both_backends(tmp_path: Path) -> None:
    bundle, _ = exported(small_spec(tmp_path / "out", TINY, scheme="mixed", backends=("onnx", "executorch")))
    assert sorted(bundle.artifacts) == ["executorch", "onnx"]


@pytest.mark.parametrize("shape", ["like_9b", "tiny"])
def test_codes_in_the_onnx_file_are_the_stores(shape: str, make: Callable[[str, str], Made]) -> None:
    store, lowered, directory = make(shape, "onnx")
    model = onnx.load(directory / lowered.model_file)
    found = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    with torch.device("meta"):
        decoder = Decoder(store.config, store.layout, 16, lowered.activations, fuse_quantized=False)
    checked = 0
    for name, recipe in decoder.recipes().items():
        if recipe.field != "codes":
            continue
        (part,) = recipe.parts
        expected = select_rows(store.codes(part.unit), part, store.config)
        for stored in (f"{name}.matrix.0", f"{name}.table"):
            if stored in found:
                codes = unsigned_codes(found[stored], store.layout[part.unit].bits).reshape(expected.shape)
                assert torch.equal(codes, expected), name
                checked += 1
        scales = torch.from_numpy(found[name.replace(".codes", ".scales")].copy()).view(expected.shape[0], -1)
        wanted = select_rows(store.scales(part.unit), part, store.config)
        assert torch.equal(scales, wanted.repeat_interleave(scales.shape[1] // wanted.shape[1], dim=1)), name
    assert checked > len([form for form in store.layout.values() if not form.is_float])


def unsigned_codes(array: Any, bits: int) -> Tensor:
    data = torch.from_numpy(array.astype(np.int16).ravel())
    return data - 128 if bits == 8 else torch.stack([data & 15, data >> 4], dim=-1).flatten() - 8


@pytest.mark.parametrize("shape", ["like_9b", "tiny"])
def test_codes_in_the_executorch_file_are_the_stores(shape: str, make: Callable[[str, str], Made]) -> None:
    store, lowered, directory = make(shape, "executorch")
    data = named_data(directory / lowered.model_file)
    checked = 0
    for part in parts(store):
        form = store.layout[part.unit]
        if form.is_float:
            continue
        is_table = part.unit == "embed_tokens"
        stored = data[key(store, part, "swapped codes" if is_table else "codes")]
        expected = select_rows(store.packed(part.unit), part, store.config)
        assert stored == expected.contiguous().view(torch.uint8).numpy().tobytes(), part
        scales = select_rows(store.scales(part.unit), part, store.config)
        scales = scales.to(torch.bfloat16) if form.bits == 4 else scales
        assert data[key(store, part, "scales")] == scales.contiguous().view(torch.uint8).numpy().tobytes(), part
        checked += 1
    assert checked >= len([form for form in store.layout.values() if not form.is_float])


def parts(store: QuantizedCheckpoint) -> Iterator[Part]:
    for unit in store.layout:
        if unit.endswith("q_proj"):
            yield from (Part(unit=unit, rows="query"), Part(unit=unit, rows="gate"))
        else:
            yield Part(unit=unit)


def key(store: QuantizedCheckpoint, part: Part, kind: str) -> str:
    return hashlib.sha256(f"{store.path.name} {part.unit} {part.rows} {kind}".encode()).hexdigest()


def named_data(file: Path) -> dict[str, bytes]:
    """What the program's delegates read by name, found by the offsets in the file."""
    content = file.read_bytes()
    header = _ExtendedHeader.from_bytes(content[8 : 8 + _ExtendedHeader.EXPECTED_LENGTH])
    program = _flatbuffer_to_program(content[: header.program_size])
    found: dict[str, bytes] = {}
    for entry in program.named_data or []:
        place = program.segments[entry.segment_index]
        start = header.segment_base_offset + place.offset
        found[entry.key] = content[start : start + place.size]
    return found


def test_the_finest_format_is_the_backends_own(fixture_checkpoint: Callable[[str], Path]) -> None:
    checkpoint = fixture_checkpoint("like_9b")
    config = parse_config(read_config(checkpoint), str(checkpoint))
    finest = Scheme(summary="", rules=(*KEEP_GATES, Rule(pattern="*", format=INT8_FINEST)))
    assert layout(finest, config, onnx_backend.FINEST)["lm_head"] == Format(bits=8, group_size=32)
    assert layout(finest, config, executorch.FINEST)["lm_head"] == INT8_ROW
    executorch.check(layout(finest, config, executorch.FINEST), config)
    with pytest.raises(UnsupportedSchemeError, match="executorch cannot pack embed_tokens as int8_g32"):
        executorch.check(layout(finest, config, onnx_backend.FINEST), config)

"""An int8 KV cache: its scales, the files that hold it, and who refuses it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.side_by_side.tiny_quality import TINY
from export import user_cache
from export.cache_scales import with_cache_scales
from export.decoder import Activations, Decoder, FullAttention, cache_scale_names, text_positions
from export.errors import QuantizationError, UnsupportedSchemeError
from export.materialize import load
from export.plan import make_plan
from export.quality.subjects import open_candidates, open_reference, quantized_subject
from export.quantized import QuantizedCheckpoint, open_quantized
from export.state import zero_state
from runtimes.artifact import Artifact
from tests.exports import exported, small_spec


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an int8 cache, verified as every export is (onnxruntime-genai included)."""
    place = tmp_path_factory.mktemp("kv8")
    prose = place / "prose.txt"  # the model's own answers, the default, would take a minute
    prose.write_text((TINY / "held_out.txt").read_text(encoding="utf-8") * 3, encoding="utf-8")
    exported(small_spec(place / "bundle", TINY, scheme="mixed-kv8", method="rtn", calibration=prose))
    return place / "bundle"


@pytest.fixture(scope="module")
def store(bundle: Path) -> QuantizedCheckpoint:
    artifact = Artifact.open(bundle / "onnx")
    plan = make_plan(small_spec(bundle, TINY, scheme="mixed-kv8", method="rtn"))
    reference = open_reference(TINY)
    candidate = open_candidates(str(bundle), reference, None)[0]
    assert candidate.subject is not None
    found = candidate.subject.reading.weights
    assert isinstance(found, QuantizedCheckpoint)
    assert artifact.manifest.scheme == plan.spec.scheme
    return found


def test_keys_and_values_take_a_byte_each_and_nothing_else_changes(bundle: Path) -> None:
    state = Artifact.open(bundle / "onnx").manifest.state
    kinds = {tensor.kind: tensor.dtype for tensor in state}
    assert kinds == {"conv": "float32", "recurrent": "float32", "key": "int8", "value": "int8"}


def test_the_scale_is_the_largest_key_or_value_of_the_text(store: QuantizedCheckpoint) -> None:
    bare = open_quantized(user_cache.directory("quantized") / store.path.name, store.config, store.layout)
    tokens = torch.randint(0, store.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
    scales = with_cache_scales(bare, tokens, lambda *_: None).cache_scales
    decoder = load(Decoder(store.config, store.layout, 24), bare, 24)
    largest: dict[int, list[float]] = {}
    for sequence in tokens:
        _, state = decoder(sequence[None], text_positions(0, 24), torch.tensor([0]), zero_state(store.config, 24))
        for layer, module in enumerate(decoder.layers):
            if isinstance(module.mixer, FullAttention):
                found = [float(cache.abs().max()) for cache in state[2 * layer : 2 * layer + 2]]
                largest[layer] = [max(pair) for pair in zip(found, largest.get(layer, [0.0, 0.0]), strict=True)]
    assert largest
    for layer, expected in largest.items():
        for name, value in zip(cache_scale_names(layer), expected, strict=True):
            assert float(scales[name]) == pytest.approx(value / 127, rel=1e-5)


def test_what_exceeds_the_range_is_clipped_and_halves_round_to_even() -> None:
    x = torch.tensor([0.25, 0.75, 1.25, 100.0, -100.0])
    rounded = torch.ops.edge.round_to_cache(x, torch.tensor([0.5]))
    assert rounded.tolist() == [0.0, 1.0, 1.0, 63.5, -64.0]


def test_the_quality_report_rounds_the_cache_as_the_runtime_does(store: QuantizedCheckpoint, bundle: Path) -> None:
    candidate = open_candidates(str(bundle), open_reference(TINY), None)[0]
    assert candidate.subject is not None
    assert candidate.subject.reading.activations == Activations(kind="int8_group", group_cap=32, cache="int8")
    names = [
        name
        for layer, kind in enumerate(store.config.layer_types)
        if kind == "full_attention"
        for name in cache_scale_names(layer)
    ]
    assert sorted(store.cache_scales) == sorted(names)


def test_a_rounded_cache_is_measured_apart_from_a_float_one(store: QuantizedCheckpoint) -> None:
    activations = Activations(kind="int8_group", group_cap=32, cache="int8")
    rounded = quantized_subject("rounded", store, activations)
    plain = quantized_subject("plain", replace(store, cache_scales={}), Activations(kind="int8_group", group_cap=32))
    assert rounded.key() != plain.key()


@pytest.mark.parametrize("backend", ["executorch", "onnx-portable"])
def test_a_backend_that_cannot_hold_it_says_so_before_work_starts(backend: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSchemeError, match=f"{backend} cannot keep keys and values as int8"):
        make_plan(small_spec(tmp_path, TINY, scheme="mixed-kv8", backends=(backend,)))


def test_the_scales_are_in_the_file_that_the_report_reads(bundle: Path) -> None:
    from safetensors import safe_open

    with safe_open(bundle / "onnx" / "reference.safetensors", framework="np") as file:
        scales = json.loads(file.metadata()["cache_scales"])
    assert all(0 < value < 1e3 for value in scales.values())
    assert len(scales) == 2 * sum(tensor.kind == "key" for tensor in Artifact.open(bundle / "onnx").manifest.state)


def test_a_key_that_is_no_number_is_refused_by_name(
    store: QuantizedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = QuantizedCheckpoint.plain

    def with_nan(self: QuantizedCheckpoint, name: str) -> torch.Tensor:
        found = plain(self, name)
        return torch.full_like(found, torch.nan) if "k_norm" in name else found

    monkeypatch.setattr(QuantizedCheckpoint, "plain", with_nan)
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    with pytest.raises(QuantizationError, match=r"key_cache_scale: the calibration text made keys or values of nan"):
        with_cache_scales(store, tokens, lambda *_: None)

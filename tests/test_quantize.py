"""Schemes, methods and the quantized checkpoint on disk."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export import catalog
from export.calibrate import FloatWeights, input_importance
from export.checkpoint import Checkpoint
from export.config import parse_config
from export.errors import QuantizationError, StoreError
from export.operators import dequantize
from export.quantize import Codes
from export.quantized import Method, StoreKey, open_quantized, pack_int4, quantize_checkpoint, unpack_int4
from export.schemes import FLOAT, INT8_ROW, Format, Rule, Scheme, layout
from export.weights import units
from tests.subjects import quantized, random_tokens

FORMATS = [Format(bits=4, group_size=32), Format(bits=4, group_size=64), INT8_ROW]


@pytest.mark.parametrize("method", catalog.names("quantize"))
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_every_method_keeps_the_numeric_contract(method: str, form: Format) -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    found: Codes = catalog.load("quantize", method).quantize(weight, form, None)
    limit = 2 ** (form.bits - 1)
    assert found.codes.dtype == torch.int8
    assert found.codes.shape == weight.shape
    assert int(found.codes.min()) >= -limit
    assert int(found.codes.max()) <= limit - 1
    assert torch.equal(found.scales, found.scales.to(torch.bfloat16).float()), "scales must be bfloat16 numbers"
    assert bool((found.scales > 0).all())
    step = found.scales.repeat_interleave(form.group_size or 128, dim=1)
    within = (dequantize(found.codes, found.scales) - weight).abs() <= step * (0.51 if method == "rtn" else 1.2)
    assert within.float().mean() > 0.99
    assert torch.equal(dequantize(found.codes, found.scales)[3], weight[3])


def test_mse_is_never_worse_than_rtn() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    form = Format(bits=4, group_size=32)
    errors = {}
    for method in ("rtn", "mse"):
        found = catalog.load("quantize", method).quantize(weight, form, None)
        errors[method] = (dequantize(found.codes, found.scales) - weight).pow(2).view(64, 8, 32).sum(-1)
    assert bool((errors["mse"] <= errors["rtn"] + 1e-9).all())
    assert errors["mse"].sum() < 0.9 * errors["rtn"].sum()


def test_packing_four_bits_loses_nothing() -> None:
    codes = torch.randint(-8, 8, (5, 64), dtype=torch.int8)
    packed = pack_int4(codes)
    assert packed.shape == (5, 32)
    assert torch.equal(unpack_int4(packed), codes)
    assert int(packed[0, 0]) & 15 == int(codes[0, 0]) + 8, "the even column sits in the low nibble"


def test_codes_on_disk_are_what_the_method_gave(fixture_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(fixture_checkpoint("like_4b"))
    store = quantized(checkpoint.path, tmp_path, "int4")
    method = catalog.load("quantize", "rtn")
    for unit in units(store.config):
        form = store.layout[unit.name]
        weight = checkpoint.read(unit.tensor).float()
        if form.is_float:
            assert torch.equal(store.weight(unit.name), weight)
            continue
        expected = method.quantize(weight, form, None)
        assert torch.equal(store.codes(unit.name), expected.codes), unit.name
        assert torch.equal(store.scales(unit.name), expected.scales), unit.name
        assert torch.equal(store.codes(unit.name, slice(2, 5)), expected.codes[2:5]), unit.name


def test_an_interrupted_quantization_resumes_at_the_first_missing_block(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(fixture_checkpoint("like_2b"))
    config = parse_config(checkpoint.config)
    formats = layout(catalog.load("schemes", "int4").SCHEME, config)
    key = StoreKey(checkpoint_hash="x", layout=formats, method="rtn")
    rtn = catalog.load("quantize", "rtn").quantize
    calls: list[int] = []

    def interrupted(weight: torch.Tensor, form: Format, importance: torch.Tensor | None) -> Codes:
        calls.append(1)
        if len(calls) > 12:
            raise KeyboardInterrupt
        return rtn(weight, form, importance)  # type: ignore[no-any-return]

    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(checkpoint, config, key, tmp_path, Method(quantize=interrupted), lambda *_: None)
    directory = tmp_path / key.digest()
    done = sorted(path.name for path in directory.iterdir())
    assert "layers.0.safetensors" in done
    assert "layers.3.safetensors" not in done
    assert not [name for name in done if name.endswith(".partial")]
    with pytest.raises(StoreError, match="missing or damaged; run the same export again"):
        open_quantized(directory, config, formats)
    before = {name: (directory / name).stat().st_mtime_ns for name in done}
    store = quantize_checkpoint(checkpoint, config, key, tmp_path, Method(quantize=rtn), lambda *_: None)
    assert {name: (directory / name).stat().st_mtime_ns for name in done} == before, (
        "finished blocks were written again"
    )
    assert store.codes("layers.3.mlp.up_proj").shape == (128, 64)


def test_a_damaged_block_is_made_again(fixture_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    store = quantized(fixture_checkpoint("like_2b"), tmp_path, "int4")
    file = store.path / "layers.1.safetensors"
    expected = store.codes("layers.1.mlp.up_proj")
    os.truncate(file, file.stat().st_size // 2)
    again = quantized(fixture_checkpoint("like_2b"), tmp_path, "int4")
    assert torch.equal(again.codes("layers.1.mlp.up_proj"), expected)


@pytest.mark.parametrize("scheme", catalog.names("schemes"))
def test_every_scheme_keeps_the_gates_float(scheme: str, fixture_checkpoint: Callable[[str], Path]) -> None:
    config = parse_config(Checkpoint.open(fixture_checkpoint("like_4b")).config)
    formats = layout(catalog.load("schemes", scheme).SCHEME, config)
    assert set(formats) == {unit.name for unit in units(config)}
    gates = [form for name, form in formats.items() if name.endswith(("in_proj_a", "in_proj_b"))]
    assert gates
    assert set(gates) == {FLOAT}


def test_first_matching_rule_wins(fixture_checkpoint: Callable[[str], Path]) -> None:
    config = parse_config(Checkpoint.open(fixture_checkpoint("like_2b")).config)
    rules = (Rule(pattern="layers.0.*", format=INT8_ROW), Rule(pattern="*", format=FLOAT))
    formats = layout(Scheme(summary="", rules=rules), config)
    assert formats["layers.0.mlp.up_proj"] == INT8_ROW
    assert formats["layers.1.mlp.up_proj"] == FLOAT


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((Rule(pattern="layers.*", format=FLOAT),), "embed_tokens: no rule of the scheme matches"),
        (
            (Rule(pattern="*", format=Format(bits=4, group_size=48)),),
            "group_size 48 .* is not a multiple of 32; use 32 or 64",
        ),
        (
            (Rule(pattern="*", format=Format(bits=4, group_size=96)),),
            "64 is not divisible by group_size 96 .*; use 32 or 64",
        ),
        ((Rule(pattern="*", format=Format(bits=4)),), "4-bit group_size None"),
    ],
)
def test_a_rule_that_cannot_quantize_is_an_error(
    rules: tuple[Rule, ...], message: str, fixture_checkpoint: Callable[[str], Path]
) -> None:
    config = parse_config(Checkpoint.open(fixture_checkpoint("like_2b")).config)
    with pytest.raises(QuantizationError, match=message):
        layout(Scheme(summary="", rules=rules), config)


def test_calibration_finds_the_inputs_of_every_matrix(fixture_checkpoint: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint.open(fixture_checkpoint("like_4b"))
    config = parse_config(checkpoint.config)
    tokens = random_tokens(config, 64).view(2, 32)
    found = input_importance(FloatWeights(checkpoint=checkpoint, config=config), tokens, lambda *_: None)
    assert set(found) == {unit.name for unit in units(config)}
    assert all(found[unit.name].shape == (unit.in_features,) for unit in units(config))
    norm = checkpoint.read("model.language_model.layers.0.input_layernorm.weight").float()
    embedding = checkpoint.read("model.language_model.embed_tokens.weight").float()[tokens.flatten()]
    normed = embedding * torch.rsqrt(embedding.square().mean(-1, keepdim=True) + config.rms_norm_eps) * (1 + norm)
    expected = normed.square().mean(0)
    assert torch.allclose(found["layers.0.linear_attn.in_proj_qkv"], expected, rtol=1e-4)
    assert torch.equal(found["layers.0.linear_attn.in_proj_qkv"], found["layers.0.linear_attn.in_proj_z"])


def test_weighted_search_spends_precision_where_inputs_are_large() -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
    importance = torch.ones(64)
    importance[::8] = 100.0
    form = Format(bits=4, group_size=32)
    errors = {}
    for method in ("mse", "weighted"):
        found = catalog.load("quantize", method).quantize(weight, form, importance)
        errors[method] = ((dequantize(found.codes, found.scales) - weight).square() * importance).sum()
    assert errors["weighted"] < 0.9 * errors["mse"]

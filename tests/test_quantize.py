"""Schemes, methods and the quantized checkpoint on disk."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export import catalog
from export.blocks import BlockResult, BlockTask, Statistics
from export.calibration import tokens_hash
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.config import parse_config
from export.errors import QuantizationError, StoreError
from export.operators import dequantize
from export.quantize import Codes
from export.quantize._matrix import block_statistics
from export.quantize._search import search_scales
from export.quantize_checkpoint import Job, Method, load_method, quantize_checkpoint
from export.quantized import open_quantized, pack_int4, unpack_int4
from export.schemes import FLOAT, INT8_ROW, Format, Rule, Scheme, layout
from export.weights import units
from tests.subjects import quantized, random_tokens

ROOT = Path(__file__).parent.parent
FORMATS = [Format(bits=4, group_size=32), Format(bits=4, group_size=64), INT8_ROW]


@pytest.mark.parametrize("method", catalog.names("quantize"))
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_every_method_keeps_the_numeric_contract(method: str, form: Format) -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    found = load_method(method).quantize_table(weight, form, None)
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
        found = load_method(method).quantize_table(weight, form, None)
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
    method = load_method("rtn")
    for unit in units(store.config):
        form = store.layout[unit.name]
        weight = checkpoint.read(unit.tensor).float()
        if form.is_float:
            assert torch.equal(store.weight(unit.name), weight)
            continue
        expected = method.quantize_table(weight, form, None)
        assert torch.equal(store.codes(unit.name), expected.codes), unit.name
        assert torch.equal(store.scales(unit.name), expected.scales), unit.name
        assert torch.equal(store.codes(unit.name, slice(2, 5)), expected.codes[2:5]), unit.name


def job_of(directory: Path, method: Method | str, scheme: str = "int4", seed: int = 1) -> Job:
    checkpoint = Checkpoint.open(directory)
    config = parse_config(checkpoint.config)
    chosen = load_method(method) if isinstance(method, str) else method
    return Job(
        checkpoint=checkpoint,
        checkpoint_hash="x",
        config=config,
        layout=layout(catalog.load("schemes", scheme).SCHEME, config),
        method=chosen,
        tokens=random_tokens(config, 48, seed).view(2, 24) if chosen.needs_calibration else None,
    )


def told(told_of: list[str]) -> Callable[[str, int], None]:
    """A progress that collects the names of what was said."""
    return lambda name, _: told_of.append(name)


@pytest.mark.parametrize("name", ["rtn", "weighted", "guided"])
def test_an_interrupted_quantization_resumes_at_the_first_missing_block(
    name: str, fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    job = job_of(fixture_checkpoint("like_2b"), name)
    expected = quantize_checkpoint(job, tmp_path / "whole", lambda *_: None)
    calls: list[str] = []

    def interrupted(task: BlockTask) -> BlockResult:
        if task.block.name == "layers.2":
            raise KeyboardInterrupt
        return job.method.quantize_block(task)

    def counted(task: BlockTask) -> BlockResult:
        calls.append(task.block.name)
        return job.method.quantize_block(task)

    root = tmp_path / "parts"
    stopping = replace(job, method=replace(job.method, quantize_block=interrupted))
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(stopping, root, lambda *_: None)
    directory = root / job.key.digest()
    done = sorted(path.name for path in directory.iterdir())
    assert done == ["layers.0.safetensors", "layers.1.safetensors"]
    with pytest.raises(StoreError, match="missing or damaged; run the same export again"):
        open_quantized(directory, job.config, job.layout)
    before = {file: (directory / file).stat().st_mtime_ns for file in done}
    going_on = replace(job, method=replace(job.method, quantize_block=counted))
    store = quantize_checkpoint(going_on, root, lambda *_: None)
    assert calls == ["layers.2", "layers.3"]
    assert {file: (directory / file).stat().st_mtime_ns for file in done} == before, "a finished block was made again"
    for file in sorted(expected.path.iterdir()):
        assert (store.path / file.name).read_bytes() == file.read_bytes(), file.name


KILLED = """
import os, signal, sys
from pathlib import Path
from export.quantize_checkpoint import quantize_checkpoint
from tests.test_quantize import job_of

def killed_at_the_third(name, num_bytes):
    if name == "layers.2" and num_bytes:
        os.kill(os.getpid(), signal.SIGKILL)

quantize_checkpoint(job_of(Path(sys.argv[1]), "weighted"), Path(sys.argv[2]), killed_at_the_third)
"""


def test_a_killed_calibration_goes_on_behind_its_last_block_and_ends_the_same(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = fixture_checkpoint("like_4b")
    job = job_of(directory, "weighted")
    expected = quantize_checkpoint(job, tmp_path / "whole", lambda *_: None)
    root, said = tmp_path / "killed", list[str]()
    command = [sys.executable, "-c", KILLED, str(directory), str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = quantize_checkpoint(job, root, told(said))
    assert said[:6] == [
        "layers.0",
        "layers.1",
        "layers.2",
        "layers.0: run 48 tokens",
        "layers.1: run 48 tokens",
        "layers.2: run 48 tokens",
    ]
    for file in sorted(expected.path.iterdir()):
        assert (store.path / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("name", ["rtn", "weighted"])
def test_layouts_that_differ_in_the_head_share_their_layers(
    name: str, fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    job = job_of(fixture_checkpoint("like_2b"), name)
    first = quantize_checkpoint(job, tmp_path, lambda *_: None)
    other = replace(job, layout={**job.layout, "embed_tokens": INT8_ROW})
    said: list[str] = []
    second = quantize_checkpoint(other, tmp_path, told(said))
    assert first.path != second.path
    for index in range(job.config.num_layers):
        block = f"layers.{index}.safetensors"
        assert (first.path / block).samefile(second.path / block)
    assert not (first.path / "embed_tokens.safetensors").samefile(second.path / "embed_tokens.safetensors")
    assert second.codes("embed_tokens").abs().max() == 127


def test_a_calibrated_layer_depends_on_the_formats_before_it_and_no_other_does(
    fixture_checkpoint: Callable[[str], Path],
) -> None:
    for name, depends in (("rtn", False), ("weighted", True)):
        job = job_of(fixture_checkpoint("like_9b"), name)
        other = replace(job, layout={**job.layout, "layers.1.mlp.up_proj": INT8_ROW})
        changed = {
            block: job.key.block_digest(block) != other.key.block_digest(block)
            for block in ("layers.0", "layers.1", "layers.2", "embed_tokens", "norm", "lm_head")
        }
        assert changed == {
            "layers.0": False,
            "layers.1": True,
            "layers.2": depends,
            "embed_tokens": False,
            "norm": False,
            "lm_head": depends,
        }


def test_codes_of_another_calibration_or_an_edited_method_are_not_taken(
    fixture_checkpoint: Callable[[str], Path],
) -> None:
    job = job_of(fixture_checkpoint("like_2b"), "weighted")
    others = [
        job_of(fixture_checkpoint("like_2b"), "weighted", seed=2),
        replace(job, method=replace(job.method, version="edited")),
        replace(job, checkpoint_hash="y"),
    ]
    for block in ("layers.0", "embed_tokens", "norm"):
        assert len({one.key.block_digest(block) for one in [job, *others]}) == 4
    assert job.tokens is not None
    assert tokens_hash(job.tokens) != tokens_hash(job.tokens.view(1, -1)), "how tokens are cut matters"


def test_each_block_is_fitted_to_what_the_quantized_blocks_before_it_put_out(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    job = job_of(fixture_checkpoint("like_4b"), "weighted")
    tasks: dict[str, BlockTask] = {}
    tables: list[Statistics | None] = []

    def noted(task: BlockTask) -> BlockResult:
        tasks[task.block.name] = task
        return job.method.quantize_block(task)

    def noted_table(weight: torch.Tensor, form: Format, statistics: Statistics | None) -> Codes:
        tables.append(statistics)
        return job.method.quantize_table(weight, form, statistics)

    method = replace(job.method, quantize_block=noted, quantize_table=noted_table, needs_float_inputs=True)
    store = quantize_checkpoint(replace(job, method=method), tmp_path, lambda *_: None)
    assert job.tokens is not None
    floating = CheckpointModel(weights=FloatWeights(checkpoint=job.checkpoint, config=job.config))
    real = floating.embed(job.tokens)
    expected = real
    for name in floating.block_names:
        found = tasks[name]
        assert found.float_inputs is not None
        assert found.real_inputs is not None
        assert torch.allclose(found.float_inputs, expected, atol=1e-5)
        assert torch.allclose(found.real_inputs, real, atol=1e-5)
        block = floating.block(name)
        expected, real = block.run(expected), block.run(real, {one: store.tensor(one) for one in block.tensors})
    assert not torch.allclose(real, expected, atol=1e-2), "quantization must show, or this compares nothing"
    read = floating.finish(real).flatten(0, 1)
    assert len(tables) == 1
    assert tables[0] is not None
    assert torch.allclose(tables[0].mean_square, read.square().mean(0), rtol=1e-4)


def test_a_method_that_asks_for_some_of_the_text_gets_sequences_from_all_over_it(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    job = job_of(fixture_checkpoint("like_4b"), "weighted")
    assert job.tokens is not None
    tokens, seen = job.tokens.flatten()[: job.tokens.numel() // 4 * 4].view(-1, 4), list[torch.Tensor]()

    def noted(task: BlockTask) -> BlockResult:
        assert task.real_inputs is not None
        seen.append(task.real_inputs)
        return job.method.quantize_block(task)

    method = replace(job.method, quantize_block=noted, real_tokens=11)
    quantize_checkpoint(replace(job, method=method, tokens=tokens), tmp_path, lambda *_: None)
    floating = CheckpointModel(weights=FloatWeights(checkpoint=job.checkpoint, config=job.config))
    assert torch.equal(seen[0], floating.embed(tokens[[0, len(tokens) // 2]]))
    assert {len(one) for one in seen} == {2}


def test_tensors_that_a_method_changes_are_what_is_read_afterwards(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    job = job_of(fixture_checkpoint("like_4b"), "rtn")
    norm, gate = "layers.1.input_layernorm.weight", "layers.1.linear_attn.in_proj_a"

    def changing(task: BlockTask) -> BlockResult:
        found = job.method.quantize_block(task)
        own = [name for name in (norm, gate) if name.startswith(f"{task.block.name}.")]
        return replace(found, floats={name: task.block.tensor(name) * 2.5 for name in own})

    method = replace(job.method, quantize_block=changing)
    store = quantize_checkpoint(replace(job, method=method), tmp_path, lambda *_: None)
    weights = FloatWeights(checkpoint=job.checkpoint, config=job.config)
    assert torch.equal(store.plain(norm), weights.plain(norm) * 2.5)
    assert torch.equal(store.weight(gate), weights.weight(gate) * 2.5)
    assert torch.equal(store.plain("layers.1.linear_attn.A_log"), weights.plain("layers.1.linear_attn.A_log"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes: Codes(codes.codes + 9, codes.scales), r"layers.0.*are no int4_g32"),
        (lambda codes: Codes(codes.codes, codes.scales * 1.001), r"layers.0.*are no int4_g32"),
        (lambda codes: Codes(codes.codes, codes.scales * 0), r"layers.0.*are no int4_g32"),
        (lambda codes: Codes(codes.codes[:-1], codes.scales), r"layers.0.*are no int4_g32"),
        (None, "codes and formats differ in layers.0.mlp.up_proj"),
    ],
)
def test_a_method_that_breaks_the_contract_is_an_error(
    change: Callable[[Codes], Codes] | None, message: str, fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    job, unit = job_of(fixture_checkpoint("like_2b"), "rtn"), "layers.0.mlp.up_proj"

    def wrong(task: BlockTask) -> BlockResult:
        codes = dict(job.method.quantize_block(task).codes)
        broken = {} if change is None else {unit: change(codes[unit])}
        del codes[unit]
        return BlockResult(codes={**codes, **broken})

    broken_job = replace(job, method=replace(job.method, quantize_block=wrong))
    with pytest.raises(QuantizationError, match=message):
        quantize_checkpoint(broken_job, tmp_path, lambda *_: None)


def test_a_calibration_that_makes_nan_names_the_block_and_the_sequence(
    fixture_checkpoint: Callable[[str], Path],
) -> None:
    job = job_of(fixture_checkpoint("like_2b"), "weighted")
    assert job.tokens is not None
    model = CheckpointModel(weights=FloatWeights(checkpoint=job.checkpoint, config=job.config))
    block, hidden = model.block("layers.0"), model.embed(job.tokens)
    hidden[1, 3, 5] = float("inf")
    task = BlockTask(block=block, formats={unit: job.layout[unit] for unit in block.shapes}, real_inputs=hidden)
    with pytest.raises(QuantizationError, match=r"^layers\.0: sequence 2 of the calibration text comes out as NaN"):
        job.method.quantize_block(task)


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


def test_statistics_are_those_of_each_matrix_inputs(fixture_checkpoint: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint.open(fixture_checkpoint("like_4b"))
    config = parse_config(checkpoint.config)
    model = CheckpointModel(weights=FloatWeights(checkpoint=checkpoint, config=config))
    block, tokens = model.block("layers.0"), random_tokens(config, 64).view(2, 32)
    hidden = model.embed(tokens)
    task = BlockTask(block=block, formats={}, real_inputs=hidden)
    found = block_statistics(task, gram=True)
    assert set(found) == set(block.shapes)
    norm = block.tensor("layers.0.input_layernorm.weight")

    def normed(x: torch.Tensor) -> torch.Tensor:
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.rms_norm_eps) * (1 + norm)).flatten(0, 1)

    one = found["layers.0.linear_attn.in_proj_qkv"]
    assert one is found["layers.0.linear_attn.in_proj_z"]
    assert one.gram is not None
    assert torch.allclose(one.mean_square, normed(hidden).square().mean(0), rtol=1e-4)
    assert torch.allclose(one.gram, normed(hidden).T @ normed(hidden) / 64, atol=1e-4)


@pytest.mark.parametrize("form", [INT8_ROW, Format(bits=8, group_size=32)], ids=str)
def test_no_8_bit_weight_is_clipped_however_little_its_input_counts(form: Format) -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(4))
    weight[:, 5] = 40.0
    importance = torch.ones(128)
    importance[5] = 1e-9
    found = search_scales(weight, form, importance)
    rounding = found.scales.repeat_interleave(128 // found.scales.shape[1], dim=1)
    assert bool(((dequantize(found.codes, found.scales) - weight).abs() <= 1.01 * rounding).all())


def test_weighted_search_spends_precision_where_inputs_are_large() -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
    importance = torch.ones(64)
    importance[::8] = 100.0
    form = Format(bits=4, group_size=32)
    errors = {}
    for method in ("mse", "weighted"):
        found = load_method(method).quantize_table(weight, form, Statistics(mean_square=importance))
        errors[method] = ((dequantize(found.codes, found.scales) - weight).square() * importance).sum()
    assert errors["weighted"] < 0.9 * errors["mse"]

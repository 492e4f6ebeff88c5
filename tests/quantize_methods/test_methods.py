"""Calibrated methods on whole blocks: what they promise, on a llama and on both kinds of Qwen3.5 layer."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.blocks import Block, BlockModel, BlockResult, BlockTask
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.config import parse_config
from export.operators import dequantize, quantize_activation
from export.quantize import hqq, learned, rtn
from export.quantize_checkpoint import load_method
from export.schemes import FLOAT, INT8_ROW, Format
from export.sequence import result_tensors, run_block
from tests.quantize_methods.llama import make_uneven, small_llama, some_tokens

CALIBRATED = ["gptq", "awq", "awq-gptq", "smoothquant", "learned"]
FORM = Format(bits=4, group_size=32)


def task_of(block: Block, hidden: Tensor, form: Format = FORM, seed: int = 0) -> BlockTask:
    gates = ("in_proj_a", "in_proj_b")
    formats = {unit: FLOAT if unit.endswith(gates) else form for unit in block.shapes}
    return BlockTask(block=block, formats=formats, float_inputs=hidden, real_inputs=hidden, seed=seed)


def block_error(block: Block, result: BlockResult, hidden: Tensor) -> float:
    """Squared error of the block's output, relative."""
    wanted = run_block(block, hidden, None)
    return float((run_block(block, hidden, result_tensors(result)) - wanted).square().sum() / wanted.square().sum())


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "STEPS", 20)
    monkeypatch.setattr(learned, "JUDGED_EVERY", 10)


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_calibrated_method_beats_rounding_to_nearest_on_unseen_text(name: str) -> None:
    model = small_llama()
    make_uneven(model)
    block = model.block("layers.0")
    seen, unseen = model.embed(some_tokens(24)), model.embed(some_tokens(12, seed=2))
    task = task_of(block, seen)
    result = load_method(name).quantize_block(task)
    assert set(result.codes) == set(block.shapes)
    assert block_error(block, result, unseen) < 0.8 * block_error(block, rtn.quantize_block(task), unseen)


@pytest.mark.parametrize("name", CALIBRATED)
@pytest.mark.parametrize("layer", ["layers.0", "layers.3"])  # linear and full attention
def test_a_qwen_layer_keeps_its_gates_and_its_contract(
    name: str, layer: str, fixture_checkpoint: Callable[[str], Path]
) -> None:
    checkpoint = Checkpoint.open(fixture_checkpoint("like_4b"))
    model = CheckpointModel(weights=FloatWeights(checkpoint=checkpoint, config=parse_config(checkpoint.config)))
    block = model.block(layer)
    width = model.config.hidden_size
    task = task_of(block, torch.randn(40, 32, width, generator=torch.Generator().manual_seed(0)))
    result = load_method(name).quantize_block(task)
    assert set(result.codes) == {unit for unit, form in task.formats.items() if not form.is_float}
    for unit, found in result.codes.items():
        assert found.codes.shape == block.shapes[unit]
        assert torch.equal(found.scales, found.scales.to(torch.bfloat16).float()), unit
        assert bool((found.scales > 0).all()), unit
    for changed, tensor in result.floats.items():
        assert tensor.shape == block.tensor(changed).shape
        assert not tensor.requires_grad
    unseen = torch.randn(4, 20, width, generator=torch.Generator().manual_seed(1))
    # inputs without correlation leave a method little to win, but a wrong fold would cost tens of times as much
    assert block_error(block, result, unseen) < 1.5 * block_error(block, rtn.quantize_block(task), unseen)


def test_awq_undoes_channels_that_were_blown_up() -> None:
    even, uneven = small_llama(), small_llama()
    make_uneven(uneven)
    errors = {}
    for key, model, name in [("even", even, "weighted"), ("uneven", uneven, "weighted"), ("folded", uneven, "awq")]:
        hidden = model.embed(some_tokens(24))
        block = model.block("layers.0")
        errors[key] = block_error(block, load_method(name).quantize_block(task_of(block, hidden)), hidden)
    assert errors["uneven"] > 1.15 * errors["even"], "the subject must be harder, or the test shows nothing"
    assert errors["folded"] < errors["even"] * 1.02


def test_smoothquant_lowers_what_rounding_activations_costs() -> None:
    model = small_llama()
    make_uneven(model, 40.0)
    hidden = model.embed(some_tokens(24))
    block = model.block("layers.0")
    task = task_of(block, hidden, INT8_ROW)
    wanted = run_block(block, hidden, None)
    errors = {}
    for name in ("rtn", "smoothquant"):
        tensors = result_tensors(load_method(name).quantize_block(task))
        errors[name] = float((_with_rounded_inputs(model, hidden, tensors) - wanted).square().mean())
    assert errors["smoothquant"] < 0.3 * errors["rtn"]


def _with_rounded_inputs(model: BlockModel, hidden: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The first block with its matrices' inputs in 8 bits, one step a token."""
    block = model.block("layers.0")
    linears = [one for one in block.layer.modules() if isinstance(one, torch.nn.Linear)]  # type: ignore[attr-defined]
    handles = [one.register_forward_pre_hook(_round_input) for one in linears]
    try:
        return block.run(hidden, tensors)
    finally:
        for handle in handles:
            handle.remove()


def _round_input(_: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (quantize_activation(args[0], "int8_token", args[0].shape[-1]),)


def test_hqq_never_ends_above_the_loss_that_it_starts_with() -> None:
    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(4))
    losses = {}
    for name in ("mse", "hqq"):
        found = load_method(name).quantize_table(weight, FORM, None)
        error = (dequantize(found.codes, found.scales) - weight).abs().pow(hqq.NORM)
        losses[name] = error.view(32, 4, 32).sum(-1)
    assert bool((losses["hqq"] <= losses["mse"] * (1 + 1e-5)).all())
    assert losses["hqq"].sum() < 0.995 * losses["mse"].sum()


def test_learned_rounding_repairs_what_blocks_before_did_and_is_repeatable() -> None:
    model = small_llama()
    block = model.block("layers.1")
    hidden = model.embed(some_tokens(32))
    changed = hidden + 0.05 * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
    task = BlockTask(
        block=block, formats=dict.fromkeys(block.shapes, FORM), float_inputs=hidden, real_inputs=changed, seed=5
    )
    wanted = run_block(block, hidden, None)
    runs = [learned.quantize_block(task) for _ in range(2)]
    start = load_method("awq-gptq").quantize_block(task)
    errors = [
        float((run_block(block, changed, result_tensors(one)) - wanted).square().mean()) for one in (runs[0], start)
    ]
    assert errors[0] < errors[1]
    for unit, found in runs[0].codes.items():
        assert torch.equal(found.codes, runs[1].codes[unit].codes), unit

"""guided: the loss it lowers, the gradients it is guided by, and what it wins."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from export import curvature
from export.blocks import BlockModel, BlockResult, Curvature
from export.calibration.sequences import default_texts
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.config import parse_config
from export.curvature import FlowCurvature, Sizes, SummedCurvature, count, make_curvature, no_curvature, sum_curvature
from export.flow import LAST, Flow, make_flow
from export.gradients import pulled_back
from export.models.tiny.corpus import read_book
from export.operators import dequantize
from export.quantize import Codes, rtn
from export.quantize._both_sides import expected_loss, spread_errors
from export.quantize._kronecker import Metric, descend, improve, loss, metric_of, refit_scales
from export.quantize._least_squares import fit, plain_target
from export.quantize.guided import expected_divergence
from export.quantize_checkpoint import load_method
from export.schemes import FLOAT, INT8_ROW, Format
from export.sequence import quantize_blocks, result_tensors, run_block, start_streams
from tests.quantize_methods.llama import make_uneven, small_llama, some_tokens
from tests.waiting import patient

FORM = Format(bits=4, group_size=32)


def some_metric(rows: int = 96, columns: int = 64, outputs: Tensor | None = None) -> Metric:
    """Correlated inputs and gradients, some tokens far larger than others."""
    generator = torch.Generator().manual_seed(0)

    def tokens(width: int) -> Tensor:
        mixed = torch.randn(400, width // 4, generator=generator) @ torch.randn(width // 4, width, generator=generator)
        return mixed * 0.3 + torch.randn(400, width, generator=generator) * 0.3

    x, g = tokens(columns), tokens(rows) * torch.randn(400, 1, generator=generator).exp()
    of_outputs = (g * x.square().sum(1, keepdim=True)).T @ g if outputs is None else outputs
    wanted = torch.randn(rows, columns, generator=generator)
    return metric_of(wanted, (x * g.square().sum(1, keepdim=True)).T @ x, x.T @ x, of_outputs)


def test_descent_and_refitted_scales_lower_the_loss_of_rows_together() -> None:
    metric = some_metric()
    rounded = rtn.quantize_table(metric.wanted, FORM, None)
    alone = fit(plain_target(metric.wanted, metric.inputs), FORM)
    for start in (rounded, alone):
        losses, found = [loss(metric, start)], start
        for _ in range(2):
            descended = descend(metric, found, FORM)
            found = refit_scales(metric, descended)
            losses += [loss(metric, descended), loss(metric, found)]
        # scales are rounded to bfloat16 behind the refit
        assert all(after <= before * 1.001 for before, after in pairwise(losses)), losses
        assert int(found.codes.min()) >= -8
        assert int(found.codes.max()) <= 7
    best = improve(metric, alone, FORM)
    assert loss(metric, best) < 0.85 * loss(metric, alone), "rows that are seen together must gain much here"
    assert torch.equal(best.scales, best.scales.to(torch.bfloat16).float())
    assert loss(metric, improve(metric, best, FORM)) <= loss(metric, best)


def test_the_loss_is_what_an_error_costs_through_both_factors() -> None:
    metric = some_metric()
    found = rtn.quantize_table(metric.wanted, FORM, None)
    error = (dequantize(found.codes, found.scales) - metric.wanted).double()
    expected = (metric.outputs.double() @ error @ metric.inputs.double() @ error.T).trace()
    assert loss(metric, found) == pytest.approx(float(expected), rel=1e-4)


def test_no_single_code_could_still_lower_the_loss_once_descent_has_settled() -> None:
    metric = some_metric(rows=24, columns=32)
    found = fit(plain_target(metric.wanted, metric.inputs), FORM)
    for _ in range(30):
        found = descend(metric, found, FORM)
    least = loss(metric, found)
    for row, column in torch.cartesian_prod(torch.arange(24), torch.arange(0, 32, 3)).tolist():
        for step in (-1, 1):
            other = found.codes.clone()
            other[row, column] = (other[row, column] + step).clamp(-8, 7)
            assert loss(metric, Codes(other, found.scales)) >= least * (1 - 1e-5)


def test_with_outputs_that_count_alike_it_is_never_worse_than_gptq_in_gptqs_metric() -> None:
    plain = some_metric().inputs
    metric = Metric(wanted=some_metric().wanted, inputs=plain, outputs=torch.eye(96))
    gptq = fit(plain_target(metric.wanted, plain), FORM)
    best = improve(metric, gptq, FORM)

    def output_error(found: Codes) -> Tensor:
        error = dequantize(found.codes, found.scales) - metric.wanted
        return ((error @ plain) * error).sum()

    assert output_error(best) <= output_error(gptq)
    assert loss(metric, best) == pytest.approx(float(output_error(best)), rel=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(96, 64), (70, 160), (20, 32)])
def test_errors_are_spread_over_rows_and_columns_as_one_place_after_the_other_would(rows: int, columns: int) -> None:
    metric = some_metric(rows, columns)
    scales = fit(plain_target(metric.wanted, metric.inputs), FORM).scales
    found = spread_errors(metric, scales, FORM)
    expected = one_place_after_the_other(metric, scales)
    same = (found.codes == expected.codes).float().mean()
    assert float(same) > 0.98, "float32 sums in another order may turn a rounding here and there"
    assert loss(metric, found) == pytest.approx(loss(metric, expected), rel=0.02)
    assert loss(metric, found) < loss(metric, fit(plain_target(metric.wanted, metric.inputs), FORM))


def one_place_after_the_other(metric: Metric, scales: Tensor) -> Codes:
    """Each code the best one given those before it, the later weights free: what spreading comes to, by solving."""
    rows, columns = (factor.diagonal().argsort(descending=True) for factor in (metric.outputs, metric.inputs))
    by_row, by_column = (
        torch.linalg.cholesky(factor[order][:, order].double().flip(0, 1)).flip(0, 1).T
        for factor, order in ((metric.outputs, rows), (metric.inputs, columns))
    )
    wanted = metric.wanted[rows][:, columns].double()
    steps = scales.repeat_interleave(32, dim=1)[rows][:, columns].double()
    error, codes = torch.zeros_like(wanted), torch.zeros_like(wanted)
    for column in range(wanted.shape[1]):
        for row in range(wanted.shape[0]):
            # the terms of the loss are the squares of by_row @ error @ by_column': this place's, its own error apart
            others = by_row[row, : row + 1] @ error[: row + 1, : column + 1] @ by_column[column, : column + 1]
            pushed = others / (by_row[row, row] * by_column[column, column])
            code = ((wanted[row, column] - pushed) / steps[row, column]).round().clamp(-8, 7)
            codes[row, column] = code
            error[row, column] = code * steps[row, column] - wanted[row, column]
    result = torch.empty_like(codes)
    result[rows.unsqueeze(1), columns] = codes
    return Codes(result.to(torch.int8), scales)


def test_a_matrix_of_zeros_and_gradients_of_zero_are_borne() -> None:
    metric = some_metric(outputs=torch.zeros(96, 96))
    zeros = replace(some_metric(), wanted=torch.zeros(96, 64))
    for one in (metric, zeros):
        start = fit(plain_target(one.wanted, one.inputs), FORM)
        found = improve(one, spread_errors(one, start.scales, FORM), FORM)
        assert bool(found.scales.isfinite().all())
        assert bool((found.scales > 0).all())
    assert not bool(found.codes.any())


@pytest.mark.parametrize("bits", [4, 8])
def test_what_spreading_errors_will_cost_is_known_before(bits: int) -> None:
    metric, form = some_metric(), Format(bits=bits, group_size=32)
    scales = rtn.quantize_table(metric.wanted, form, None).scales
    found = spread_errors(metric, scales, form)
    assert loss(metric, found) == pytest.approx(expected_loss(metric, scales), rel=0.15)


def test_a_matrix_is_expected_to_cost_what_it_costs_in_nats() -> None:
    """With folds; by the factors as they are, which the metric damps: B by a fifth."""
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(4000, 64, generator=generator), torch.randn(4000, 96, generator=generator)
    x, g = x * torch.linspace(0.5, 2, 64), g * torch.linspace(0.5, 2, 96) * 0.1
    costs = Curvature(
        inputs=(x * g.square().sum(1, keepdim=True)).T @ x, outputs=(g * x.square().sum(1, keepdim=True)).T @ g
    )
    weight = torch.randn(96, 64, generator=generator)
    rows = torch.rand(96, 1, generator=generator) + 0.5
    columns = torch.rand(1, 64, generator=generator) + 0.5
    inputs, outputs = costs.inputs / columns.T / columns, costs.outputs / rows / rows.T
    metric = metric_of(weight * rows * columns, inputs, inputs, outputs)
    found = spread_errors(metric, rtn.quantize_table(metric.wanted, FORM, None).scales, FORM)
    error = dequantize(found.codes, found.scales) / rows / columns - weight
    by_token = ((g @ error) * x).sum(1).square()  # the loss of predictions, to second order
    nats = 0.5 * float(by_token.mean())
    assert nats < expected_divergence(weight, costs, FORM, 4000, (rows, columns)) < 1.4 * nats


# the float model's flow


def whole_backward(model: BlockModel, table: Tensor, tokens: Tensor, by_last: Tensor) -> dict[str, Tensor]:
    """Gradients by every block's outputs from one backward pass through the whole model."""
    hidden, outputs = model.embed(tokens).requires_grad_(), {}
    for name in model.block_names:
        hidden = model.block(name).run(hidden)
        outputs[name] = hidden
    found = torch.autograd.grad(hidden, list(outputs.values()), by_last)
    return dict(zip(outputs, found, strict=True))


def qwen(directory: Path) -> CheckpointModel:
    checkpoint = Checkpoint.open(directory)
    return CheckpointModel(weights=FloatWeights(checkpoint=checkpoint, config=parse_config(checkpoint.config)))


def flow_of(model: CheckpointModel, tokens: Tensor, directory: Path) -> Flow:
    return make_flow(model, lambda: model.weights.weight(model.head_unit), tokens, directory, lambda *_: None)


def test_gradients_kept_on_disk_are_those_of_a_whole_backward_pass(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = qwen(fixture_checkpoint("like_4b"))
    tokens = torch.randint(0, 200, (3, 20), generator=torch.Generator().manual_seed(0))
    flow = flow_of(model, tokens, tmp_path)
    table = model.weights.weight(model.head_unit)
    expected = whole_backward(model, table, tokens, flow.gradients(model.block_names[-1]))
    hidden = model.embed(tokens)
    for name in model.block_names:
        assert torch.allclose(flow.inputs(name), hidden, atol=1e-5), name
        scale = float(expected[name].abs().max())
        assert torch.allclose(flow.gradients(name), expected[name], atol=1e-4 * scale), name
        hidden = run_block(model.block(name), hidden, None)


def test_labels_are_drawn_from_the_models_own_distribution(tmp_path: Path) -> None:
    """Averaged over many draws the gradient of -log p(label) is zero, and for one label it is p's minus the label's."""
    model = small_llama()
    tokens = some_tokens(1, 4).expand(400, -1)
    table = model.table(model.head_unit)
    flow = make_flow(model, lambda: table, tokens, tmp_path, lambda *_: None)
    found = flow.gradients(model.block_names[-1])  # (400, 4, C): every sequence is the same, every draw is another
    mean, spread = found.mean(0), found.std(0) / len(found) ** 0.5
    assert float((mean.abs() > 4 * spread).float().mean()) < 0.02
    hidden = flow.inputs(LAST)[0].clone().requires_grad_()
    logits = model.finish(hidden) @ table.T
    possible = torch.stack(
        [
            torch.autograd.grad(
                functional.cross_entropy(logits[2:3], torch.tensor([label])), hidden, retain_graph=True
            )[0][2]
            for label in range(len(table))
        ]
    )
    nearest = torch.cdist(found[:20, 2], possible).amin(1)
    assert float(nearest.max()) < 1e-3 * float(possible.norm(dim=1).mean())


@pytest.mark.parametrize("layer", ["layers.0", "layers.3"])  # linear and full attention
def test_curvature_is_what_a_backward_pass_through_the_weights_says(
    layer: str, fixture_checkpoint: Callable[[str], Path]
) -> None:
    """With one token a sequence, the gradient by a weight is g x', so |g x'|^2 summed is the trace of either factor."""
    block = qwen(fixture_checkpoint("like_4b")).block(layer)
    generator = torch.Generator().manual_seed(1)
    hidden, gradients = (torch.randn(6, 1, block.config.hidden_size, generator=generator) for _ in range(2))
    units = [unit for unit in block.shapes if not unit.endswith(("in_proj_a", "in_proj_b"))]
    found = no_curvature(block, units)
    by_input = count(block, hidden, gradients, found)
    for one, gradient, ours in zip(hidden, gradients, by_input, strict=True):
        ((theirs,),) = pulled_back(block, one, gradient.unsqueeze(0), {})
        assert torch.allclose(ours, theirs[0], atol=1e-5)
    expected = {unit: torch.zeros(block.shapes[unit]) for unit in units}
    moments = {
        unit: (torch.zeros(shape[1], shape[1]), torch.zeros(shape[0], shape[0])) for unit, shape in block.shapes.items()
    }
    for one, gradient in zip(hidden, gradients, strict=True):
        weights = {unit: block.tensor(unit).clone().requires_grad_() for unit in units}
        by_weight = torch.autograd.grad(
            block.run(one.unsqueeze(0), weights), list(weights.values()), gradient.unsqueeze(0)
        )
        for unit, outer in zip(weights, by_weight, strict=True):
            moments[unit][0].add_(outer.T @ outer)
            moments[unit][1].add_(outer @ outer.T)
            expected[unit] += outer
    for unit in units:
        for ours, theirs in zip((found[unit].inputs, found[unit].outputs), moments[unit], strict=True):
            # a single token's query and key have no gradient but rounding
            assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()) + 1e-9), unit
    assert any(float(one.outputs.abs().max()) > 0 for one in found.values())


def summed(model: CheckpointModel, tokens: Tensor, directory: Path, said: list[str] | None = None) -> SummedCurvature:
    steps = [] if said is None else said
    return sum_curvature(
        model, lambda: model.weights.weight(model.head_unit), tokens, directory, lambda step, _: steps.append(step)
    )


def test_moments_counted_in_one_part_are_those_of_the_flow(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = qwen(fixture_checkpoint("like_4b"))
    tokens = torch.randint(0, 200, (3, 20), generator=torch.Generator().manual_seed(0))
    whole, parts = (
        FlowCurvature(flow=flow_of(model, tokens, tmp_path / "flow")),
        summed(model, tokens, tmp_path / "sum"),
    )
    for name in model.block_names:
        block = model.block(name)
        units = list(block.shapes)[::2]
        expected, found = whole.of(block, units), parts.of(block, units)
        assert list(found) == list(expected) == units
        for unit in units:
            for one, other in (
                (found[unit].inputs, expected[unit].inputs),
                (found[unit].outputs, expected[unit].outputs),
            ):
                assert torch.allclose(one, other, atol=1e-5 * float(other.abs().max())), unit


@pytest.mark.parametrize("stop", ["layers.1: run 40 tokens", "draw labels", "layers.2: run back part 2"])
def test_moments_of_an_interrupted_text_end_the_same(
    stop: str, fixture_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curvature, "PART_TOKENS", 50)
    model = qwen(fixture_checkpoint("like_4b"))
    tokens = torch.randint(0, 200, (6, 20), generator=torch.Generator().manual_seed(0))
    whole = summed(model, tokens, tmp_path / "whole")
    assert [whole.parts(name) for name in model.block_names] == [3] * len(model.block_names)

    def interrupted(step: str, _: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    head = model.weights.weight(model.head_unit)
    with pytest.raises(KeyboardInterrupt):
        sum_curvature(model, lambda: head, tokens, tmp_path / "again", interrupted)
    said: list[str] = []
    again = summed(model, tokens, tmp_path / "again", said)
    assert ("layers.0: run back part 1" in said) == (not stop.endswith("part 2")), "a finished part was counted again"
    for file in whole.directory.iterdir():
        assert (again.directory / file.name).read_bytes() == file.read_bytes(), file.name
    said.clear()
    summed(model, tokens, tmp_path / "again", said)
    assert not said


@pytest.mark.parametrize("layer", ["layers.0", "layers.2"])
def test_damaged_moments_are_counted_again(
    layer: str, fixture_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curvature, "PART_TOKENS", 40)
    model = qwen(fixture_checkpoint("like_4b"))
    tokens = torch.randint(0, 200, (6, 20), generator=torch.Generator().manual_seed(0))
    found = summed(model, tokens, tmp_path)
    file = found.directory / f"{layer}.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    summed(model, tokens, tmp_path)
    assert file.read_bytes() == whole


def test_a_second_run_on_the_same_moments_waits_for_the_first(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = qwen(fixture_checkpoint("like_4b"))
    head = model.weights.weight(model.head_unit)
    tokens = torch.randint(0, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    begun, may_go_on, later = threading.Event(), threading.Event(), list[str]()

    def held(_: str, __: int) -> None:
        begun.set()
        assert may_go_on.wait(patient(60))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sum_curvature, model, lambda: head, tokens, tmp_path / "both", held)
        assert begun.wait(patient(60))
        second = pool.submit(summed, model, tokens, tmp_path / "both", later)
        time.sleep(0.5)
        assert not second.done(), "it did not wait"
        may_go_on.set()
        assert [first.result().parts(name) for name in model.block_names] == [1] * len(model.block_names)
        assert second.result() == first.result()
    assert not later, "it counted what the first had counted"
    alone = summed(model, tokens, tmp_path / "alone")
    for file in alone.directory.iterdir():
        assert (tmp_path / "both" / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_way_that_takes_less_disk_is_taken(fixture_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    model = qwen(fixture_checkpoint("like_4b"))
    tokens = torch.randint(0, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    shapes = [shape for name in model.block_names for shape in model.block(name).shapes.values()]
    few = Sizes(
        shapes=shapes, num_blocks=len(model.block_names), hidden_size=model.embed(tokens).shape[-1], num_tokens=40
    )
    assert few.least_bytes == few.flow_bytes < few.summed_bytes
    many = replace(few, num_tokens=1_000_000)
    assert many.least_bytes == many.summed_bytes < many.flow_bytes
    table = model.weights.weight(model.head_unit)
    for sizes, kind in ((few, FlowCurvature), (many, SummedCurvature)):
        directory = tmp_path / kind.__name__
        found = make_curvature(model, lambda: table, tokens, sizes, directory, lambda *_: None)
        assert isinstance(found, kind)
        on_disk = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        here = replace(sizes, num_tokens=40)
        assert on_disk < 1.2 * (here.flow_bytes if kind is FlowCurvature else here.summed_bytes)


@pytest.mark.parametrize("stop", ["layers.1: run 40 tokens", "draw labels", "layers.2: run back"])
def test_an_interrupted_flow_goes_on_and_ends_the_same(
    stop: str, fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = qwen(fixture_checkpoint("like_4b"))
    tokens = torch.randint(0, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    whole = flow_of(model, tokens, tmp_path / "whole")
    said: list[str] = []

    def interrupted(step: str, _: int) -> None:
        said.append(step)
        if step == stop:
            raise KeyboardInterrupt

    def head() -> Tensor:
        return model.weights.weight(model.head_unit)

    with pytest.raises(KeyboardInterrupt):
        make_flow(model, head, tokens, tmp_path / "parts", interrupted)
    before = said.copy()
    flow = make_flow(model, head, tokens, tmp_path / "parts", lambda step, _: said.append(step))
    assert said.count(stop) == 2
    assert all(said.count(step) == 1 for step in before[:-1]), "a finished step was made again"
    names = sorted(file.name for file in whole.directory.iterdir())
    assert names == sorted(file.name for file in flow.directory.iterdir())
    assert all((flow.directory / name).read_bytes() == (whole.directory / name).read_bytes() for name in names)
    said.clear()
    make_flow(model, head, tokens, tmp_path / "parts", lambda step, _: said.append(step))
    assert not said


def test_a_damaged_file_of_a_flow_is_made_again(fixture_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    model = qwen(fixture_checkpoint("like_4b"))
    tokens = torch.randint(0, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    flow = flow_of(model, tokens, tmp_path)
    for name in ("layers.1.inputs", "layers.0.gradients"):
        file = flow.directory / f"{name}.safetensors"
        whole = file.read_bytes()
        file.write_bytes(whole[:-40])
        flow_of(model, tokens, tmp_path)
        assert file.read_bytes() == whole


def test_a_flow_that_no_run_has_used_for_a_day_is_removed_but_not_the_one_that_is_wanted(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = qwen(fixture_checkpoint("like_4b"))
    tokens = torch.randint(0, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    old, used = (flow_of(model, tokens, tmp_path / name).directory for name in ("old", "used"))
    day_before = old.stat().st_mtime - 90_000
    for directory in (old, used):
        os.utime(directory, (day_before, day_before))
    stamp = (used / "layers.0.inputs.safetensors").stat().st_mtime_ns
    flow_of(model, tokens, used)
    assert not old.exists()
    assert (used / "layers.0.inputs.safetensors").stat().st_mtime_ns == stamp


# the method


def divergence(model: BlockModel, table: Tensor, results: Mapping[str, BlockResult], tokens: Tensor) -> float:
    """Mean KL of a quantized model's predictions from the float model's."""
    base = other = model.embed(tokens)
    for name in model.block_names:
        block = model.block(name)
        base, other = run_block(block, base, None), run_block(block, other, result_tensors(results[name]))
    expected, found = ((model.finish(one) @ table.T).log_softmax(-1) for one in (base, other))
    return float((expected.exp() * (expected - found)).sum(-1).mean())


def results_of(
    model: BlockModel, table: Tensor, method: str, form: Format, tokens: Tensor, directory: Path
) -> dict[str, BlockResult]:
    chosen = load_method(method)
    units = [unit for name in model.block_names for unit in model.block(name).shapes]
    formats = {unit: FLOAT if unit.endswith(("in_proj_a", "in_proj_b")) else form for unit in units}
    costs = None
    if chosen.needs_gradients:
        costs = sum_curvature(model, lambda: table, tokens, directory, lambda *_: None)
    streams = start_streams(model, tokens, None, with_float=chosen.needs_float_inputs)
    return dict(quantize_blocks(model, formats, chosen.quantize_block, streams, costs))


def test_guided_predicts_more_like_the_float_model_than_awq_gptq(tmp_path: Path) -> None:
    model = small_llama()
    make_uneven(model)
    table = model.table(model.head_unit)
    seen, unseen = some_tokens(96), some_tokens(32, seed=2)
    found = {method: results_of(model, table, method, FORM, seen, tmp_path) for method in ("awq-gptq", "guided")}
    klds = {method: divergence(model, table, results, unseen) for method, results in found.items()}
    assert klds["guided"] < 0.97 * klds["awq-gptq"], klds


def test_eight_bits_and_gates_stay_what_awq_gptq_makes_of_them(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model = qwen(fixture_checkpoint("like_4b"))
    table = model.weights.weight(model.head_unit)
    tokens = torch.randint(0, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    ours, theirs = (results_of(model, table, method, INT8_ROW, tokens, tmp_path) for method in ("guided", "awq-gptq"))
    for name, result in ours.items():
        assert set(result.codes) == set(theirs[name].codes)
        for unit, codes in result.codes.items():
            assert torch.equal(codes.codes, theirs[name].codes[unit].codes), unit


@pytest.mark.slow
def test_guided_beats_awq_gptq_on_the_trained_model_and_text_it_did_not_see(tmp_path: Path) -> None:
    """8,192 tokens of Python's documentation learned from, 4,096 of a book judged."""
    from tools import compare_methods as compare  # transformers: only for this test

    subject = compare.load_tiny()
    text = torch.tensor(subject.encode("\n\n".join(default_texts())))
    seen = compare.rows_of(text, 8192)
    book = compare.rows_of(torch.tensor(subject.encode("\n\n".join(read_book().held_out))), 4096)
    form = Format(bits=4, group_size=64)
    klds = {
        method: divergence(
            subject.model,
            subject.table,
            results_of(subject.model, subject.table, method, form, seen, tmp_path),
            book,
        )
        for method in ("awq-gptq", "guided")
    }
    assert klds["guided"] < klds["awq-gptq"], klds

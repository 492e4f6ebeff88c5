"""GPTQ's parts: each lowers the output's error, on any inputs."""

import pytest
import torch
from torch import Tensor

from export.operators import dequantize
from export.quantize import Codes
from export.quantize._least_squares import (
    Target,
    descend,
    fit,
    plain_target,
    solve_scales,
    spread_errors,
)
from export.quantize._search import search_scales
from export.schemes import INT8_ROW, Format

FORM = Format(bits=4, group_size=32)
FORMATS = [FORM, Format(bits=4, group_size=64), Format(bits=8, group_size=32), INT8_ROW]


def correlated(tokens: int = 512, width: int = 192, seed: int = 0) -> Tensor:
    """Inputs (tokens, width) of low rank with some noise, sizes far apart."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(tokens, width // 4, generator=generator) @ torch.randn(width // 4, width, generator=generator)
    sizes = torch.rand(width, generator=generator) * 3 + 0.1
    return (mixed * 0.2 + torch.randn(tokens, width, generator=generator) * 0.3) * sizes


def some_weight(rows: int = 48, width: int = 192) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(3))


def gram(x: Tensor) -> Tensor:
    return x.T @ x / len(x)


def output_error(target: Target, found: Codes) -> Tensor:
    """The squared error of each row's output, per token (rows,)."""
    error = dequantize(found.codes, found.scales) - target.wanted
    return ((error @ target.gram) * error).sum(-1)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_fitting_beats_the_search_on_text_it_did_not_see(form: Format) -> None:
    weight, seen, unseen = some_weight(), correlated()[:384], correlated()[384:]
    fitted = fit(plain_target(weight, gram(seen)), form)
    searched = search_scales(weight, form, seen.square().mean(0))
    errors = [
        (unseen @ (dequantize(found.codes, found.scales) - weight).T).square().mean() for found in (fitted, searched)
    ]
    assert errors[0] < 0.7 * errors[1]


def test_without_correlation_spreading_errors_is_rounding_to_nearest() -> None:
    weight = some_weight()
    target = Target(wanted=weight, gram=torch.diag(torch.rand(192) + 0.1))
    scales = search_scales(weight, FORM, None).scales
    expected = (weight / scales.repeat_interleave(32, 1)).round().clamp(-8, 7)
    assert torch.equal(spread_errors(target, scales, FORM).codes.float(), expected)


def test_descent_and_solved_scales_lower_every_rows_error() -> None:
    target = plain_target(some_weight(), gram(correlated()))
    found = spread_errors(target, search_scales(target.wanted, FORM, None).scales, FORM)
    solved = solve_scales(target, found)
    descended = descend(target, solved, FORM)
    # scales are rounded to bfloat16 behind the solver, which can cost a row a little
    assert bool((output_error(target, solved) <= output_error(target, found) * 1.01).all())
    assert bool((output_error(target, descended) <= output_error(target, solved) * (1 + 1e-4)).all())
    assert output_error(target, descended).sum() < 0.97 * output_error(target, found).sum()


def test_inputs_that_are_always_zero_and_fewer_tokens_than_inputs_are_borne() -> None:
    weight, x = some_weight(), correlated(20)
    x[:, 5:40] = 0.0
    found = fit(plain_target(weight, gram(x)), FORM)
    assert bool(found.scales.isfinite().all())
    assert bool((found.scales > 0).all())
    error = dequantize(found.codes, found.scales) - weight
    assert (x @ error.T).square().mean() < 0.02 * (x @ weight.T).square().mean()
    assert error.abs().max() < 1.5, "weights whose inputs were never seen stay near their own"


def test_a_matrix_of_zeros_stays_zero() -> None:
    found = fit(plain_target(torch.zeros(4, 192), gram(correlated())), FORM)
    assert not bool(found.codes.any())
    assert bool((found.scales > 0).all())

"""The trained rounding: the export's own values forward, straight-through and LSQ gradients backward."""

import pytest
import torch

from export.finetune.fake_quantize import FakeQuantized, round_to_codes
from export.operators import dequantize
from export.quantize import Codes
from export.schemes import INT8_ROW, Format

FORMATS = (Format(bits=4, group_size=32), Format(bits=4, group_size=192), INT8_ROW)


def hard_matrix(rows: int = 40, columns: int = 192) -> torch.Tensor:
    """Rows of very different size, columns with outliers, a zero row and a row with a zero half."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(rows, columns, generator=generator) * torch.logspace(-6, 1, rows).unsqueeze(1)
    weight[:, ::17] *= 30.0
    weight[3] = 0.0
    weight[5, : columns // 2] = 0.0
    return weight


def assert_same(found: Codes, expected: Codes) -> None:
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scales, expected.scales)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_dequantized_values_give_the_same_codes_when_they_are_rounded_again(form: Format) -> None:
    matrix = FakeQuantized(hard_matrix(), form)
    with torch.no_grad():
        matrix.values.add_(torch.randn(matrix.values.shape, generator=torch.Generator().manual_seed(5)))
        matrix.keep_in_range_()
    values = matrix().detach()
    assert_same(round_to_codes(values, form), matrix.codes())
    assert torch.equal(dequantize(matrix.codes().codes, matrix.codes().scales), values)


@pytest.mark.parametrize("form", FORMATS[:2], ids=str)
def test_training_starts_nearer_than_rounding_to_nearest_and_no_row_farther(form: Format) -> None:
    weight = hard_matrix()
    plain = round_to_codes(weight, form)
    start = (FakeQuantized(weight, form)().detach() - weight).square().sum(-1)
    nearest = (dequantize(plain.codes, plain.scales) - weight).square().sum(-1)
    assert bool((start <= nearest).all())
    assert float(start.sum()) < float(nearest.sum())


def test_weights_inside_the_bound_get_the_gradient_as_it_comes_and_those_outside_none() -> None:
    matrix = FakeQuantized(hard_matrix(), FORMATS[0])
    upstream = torch.randn(40, 192, generator=torch.Generator().manual_seed(6))
    matrix().backward(upstream)
    inside = matrix.values.detach().abs() <= matrix.bound.detach()
    expected = upstream.view_as(matrix.values) * matrix.unit  # values are held in units
    assert 0 < int((~inside).sum()) < inside.numel() // 2
    assert torch.equal(matrix.values.grad, expected * inside)


def test_the_gradient_of_a_bound_is_the_slope_of_what_it_clips_and_scales() -> None:
    form = Format(bits=8, group_size=32)  # fine enough that the slope shows between two steps
    matrix = FakeQuantized(torch.linspace(-1.0, 1.0, 32).unsqueeze(0), form)
    with torch.no_grad():
        matrix.bound.copy_(torch.full((1, 1, 1), 0.5) / matrix.unit)
    upstream = torch.linspace(-1.0, 1.0, 32).sign().unsqueeze(0)
    matrix().backward(upstream)
    clipped = int((torch.linspace(-1.0, 1.0, 32).abs() > 0.5).sum())
    found = float(matrix.bound.grad) / float(matrix.unit)
    # each clipped value moves with the bound; the others only as far as their rounding error is of the step
    assert abs(found - clipped) <= (32 - clipped) * 0.5 / 127


def test_a_bound_is_never_beyond_the_largest_value_nor_at_zero() -> None:
    matrix = FakeQuantized(hard_matrix(), FORMATS[0])
    with torch.no_grad():
        matrix.bound[0] = 1e6
        matrix.bound[1] = -1.0
    matrix.keep_in_range_()
    assert torch.equal(matrix.bound[0], matrix.values[0].abs().amax(-1, keepdim=True))
    assert float(matrix.bound.detach().min()) >= 1.0
    assert bool(torch.isfinite(matrix()).all())

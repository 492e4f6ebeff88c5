"""The trained rounding: values that say their codes themselves, straight-through and LSQ gradients backward."""

import pytest
import torch

from export.finetune.fake_quantize import FakeQuantized, largest_code
from export.operators import dequantize
from export.quantize import Codes, bfloat16_scales, mse
from export.quantize.recovered import least_reached, read_back
from export.schemes import INT8_ROW, Format
from tests.finetune.conftest import hard_matrix

FORMATS = (Format(bits=4, group_size=32), Format(bits=4, group_size=192), INT8_ROW)


def trainable(weight: torch.Tensor, form: Format) -> FakeQuantized:
    return FakeQuantized(weight, form, mse.quantize_table(weight, form, None).scales)


def assert_same(found: Codes, expected: Codes) -> None:
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scales, expected.scales)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("moved", [0.0, 1.0, 30.0])
def test_dequantized_values_are_read_back_exactly_however_far_training_went(form: Format, moved: float) -> None:
    matrix = trainable(hard_matrix(), form)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        matrix.values.add_(moved * torch.randn(matrix.values.shape, generator=generator))
        matrix.bound.add_(moved * torch.randn(matrix.bound.shape, generator=generator))
    matrix.keep_in_range_()
    values = matrix().detach()
    found, exact = read_back(values, form)
    assert bool(exact.all())
    assert_same(found, matrix.codes())
    assert torch.equal(dequantize(found.codes, found.scales), values)


def test_both_ends_of_the_grid_are_used() -> None:
    form = FORMATS[0]
    codes = trainable(hard_matrix(), form).codes().codes
    assert (int(codes.min()), int(codes.max())) == (-8, 7)


def test_weights_that_are_not_clipped_get_the_gradient_as_it_comes_and_the_others_none() -> None:
    matrix = trainable(hard_matrix(), FORMATS[0])
    upstream = torch.randn(40, 192, generator=torch.Generator().manual_seed(6))
    matrix().backward(upstream)
    scales = bfloat16_scales(matrix.bound.detach() * matrix.unit / 7)
    natural = matrix.values.detach() * matrix.unit / scales
    inside = (natural <= 7.5) & (natural >= -8.5)
    expected = upstream.view_as(matrix.values) * matrix.unit  # values are held in units
    assert 0 < int((~inside).sum()) < inside.numel() // 2
    assert torch.equal(matrix.values.grad, expected * inside)


def test_the_gradient_of_a_bound_is_the_slope_of_what_it_clips_and_scales() -> None:
    form = Format(bits=8, group_size=32)  # fine enough that the slope shows between two steps
    weight = torch.linspace(-1.0, 1.0, 32).unsqueeze(0)
    matrix = FakeQuantized(weight, form, torch.full((1, 1), 2.0**-8))  # reaches from -0.5 to 127 / 256
    upstream = weight.sign()
    matrix().backward(upstream)
    clipped = int((weight.abs() > 0.5).sum())
    found = float(matrix.bound.grad) / float(matrix.unit)
    # each clipped value moves with the bound; the others only as far as their rounding error is of the step
    assert abs(found - clipped) <= (32 - clipped) * 0.5 / 127 + 16 / 127


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_a_scale_is_positive_and_a_group_reaches_the_end_of_its_grid(form: Format) -> None:
    matrix = trainable(hard_matrix(), form)
    with torch.no_grad():
        matrix.bound[0] = 1e6
        matrix.bound[1] = -1.0
    matrix.keep_in_range_()
    found = matrix.codes()
    assert bool((found.scales > 0).all())
    assert int(found.codes[0].abs().max()) >= least_reached(form)
    assert int(found.codes[1].abs().max()) >= largest_code(form)

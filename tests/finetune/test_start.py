"""Training starts at a method's codes, with what is known of the float weights behind them."""

import pytest
import torch

from export.finetune.code_moves import MovedMatrix
from export.finetune.start import CELL, begin
from export.operators import dequantize
from export.quantize import Codes, rtn
from export.schemes import INT8_ROW, Format

FORM = Format(bits=4, group_size=32)


def weights(rows: int = 64, columns: int = 96) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(11))


def rounded(weight: torch.Tensor) -> Codes:
    return rtn.quantize_table(weight, FORM, None)


@pytest.mark.parametrize("form", [FORM, INT8_ROW], ids=str)
def test_the_first_codes_are_the_methods_own_and_a_step_that_moves_nothing_keeps_them(form: Format) -> None:
    found = rtn.quantize_table(weights(), form, None)
    top = 2 ** (form.bits - 1) - 1
    lowest = found.codes.clone()
    lowest[:, 5] = -top - 1
    for codes in (found.codes, lowest, lowest.clamp(-top + 1, top - 1), lowest.clamp(-top * 6 // 7, top * 6 // 7)):
        matrix = begin(weights(), codes, found.scales, form)
        for _ in range(2):
            assert torch.equal(matrix(), dequantize(codes, found.scales))
            assert torch.equal(matrix.codes().codes, codes)
            assert torch.equal(matrix.codes().scales, found.scales)
            matrix.keep_in_range_()


def test_codes_that_could_not_be_read_back_are_held_as_they_are() -> None:
    found = rounded(weights())
    small = Codes(found.codes // 4, found.scales)  # none reaches the upper half of the grid
    held = begin(weights(), small.codes, small.scales, FORM).held()
    assert torch.equal(held.codes, small.codes)
    assert torch.equal(held.scales, small.scales)
    assert torch.equal(MovedMatrix(held, FORM)(), dequantize(small.codes, small.scales))


def test_weights_start_where_they_were_in_their_cells_but_off_the_borders() -> None:
    found = rounded(weights())
    matrix = begin(weights(), found.codes, found.scales, FORM)
    in_cell = (matrix.values * matrix.unit).detach().flatten(1) / found.scales.repeat_interleave(
        32, dim=1
    ) - found.codes
    assert float(in_cell.abs().max()) <= CELL + 1e-5
    assert float(in_cell.abs().mean()) > 0.1, "everything sits in the middle: what was known is lost"

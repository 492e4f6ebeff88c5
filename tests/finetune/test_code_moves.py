"""Codes that gradients move: which ones, how many, and that the export reads them back."""

import pytest
import torch

from export.finetune.code_moves import STEPS_BEFORE_MOVES, CodeMoves, MovedMatrix
from export.operators import dequantize
from export.quantize import Codes, mse
from export.quantize.recovered import least_reached, read_back
from export.schemes import INT8_ROW, Format
from tests.finetune.conftest import hard_matrix

FORMATS = (Format(bits=4, group_size=32), Format(bits=4, group_size=192))
G32 = FORMATS[0]


def codes_of(form: Format) -> Codes:
    return mse.quantize_table(hard_matrix(), form, None)


def step_by(matrix: MovedMatrix, moves: CodeMoves, gradient: torch.Tensor, factor: float = 1.0) -> None:
    matrix.values.grad = gradient.clone()
    moves.step(factor)
    moves.zero_grad()


@pytest.mark.parametrize("form", [*FORMATS, INT8_ROW], ids=str)
def test_a_matrix_begins_at_the_methods_values_whatever_its_scales(form: Format) -> None:
    found = codes_of(form)
    for divisor in (1, 3):  # a third of its codes no longer reaches the upper half of the grid
        codes = Codes(found.codes // divisor, found.scales)
        assert torch.equal(MovedMatrix(codes, form)(), dequantize(codes.codes, codes.scales))


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_codes_are_read_back_exactly_however_far_they_moved(form: Format) -> None:
    matrix = MovedMatrix(codes_of(form), form)
    moves = CodeMoves([matrix], 0.5)
    generator = torch.Generator().manual_seed(5)
    drift = torch.randn(matrix.values.shape, generator=generator)
    for _ in range(40):
        noise = torch.randn(matrix.values.shape, generator=generator)
        step_by(matrix, moves, drift + noise)
    assert int((matrix.held - MovedMatrix(codes_of(form), form).held).abs().max()) > 3, "it hardly moved"
    found, exact = read_back(matrix().detach(), form)
    assert bool(exact.all())
    assert torch.equal(dequantize(found.codes, found.scales), matrix())
    assert int(matrix.held.min()) >= -8
    assert int(matrix.held.max()) <= 7


def test_a_groups_largest_code_stays_where_it_can_be_read_back() -> None:
    held = torch.zeros(1, 32, dtype=torch.int8)
    held[0, :3] = torch.tensor([3, -3, 1])
    matrix = MovedMatrix(Codes(held, torch.ones(1, 1)), G32)
    assert least_reached(G32) == 3
    inward = torch.tensor([[-1.0, 1.0, -1.0] + [1.0] * 29])
    assert matrix.free(inward)[0, :4].tolist() == [False, False, True, True]
    assert bool(matrix.free(-inward).all())


def test_codes_at_the_ends_of_the_grid_do_not_leave_it() -> None:
    held = torch.zeros(1, 32, dtype=torch.int8)
    held[0, :2] = torch.tensor([7, -8])
    matrix = MovedMatrix(Codes(held, torch.ones(1, 1)), G32)
    outward = torch.tensor([[1.0, -1.0] + [1.0] * 30])
    assert matrix.free(outward)[0, :3].tolist() == [False, False, True]
    assert bool(matrix.free(-outward).all())


def test_no_code_moves_before_gradients_are_known_then_against_them_and_no_more_than_the_share() -> None:
    matrix = MovedMatrix(codes_of(G32), G32)
    moves, start = CodeMoves([matrix], 0.1), matrix.held.clone()
    gradient = torch.randn(matrix.values.shape, generator=torch.Generator().manual_seed(6))
    for _ in range(STEPS_BEFORE_MOVES):
        step_by(matrix, moves, gradient)
        assert torch.equal(matrix.held, start)
    for _ in range(6):
        before = matrix.held.clone()
        step_by(matrix, moves, gradient)
        moved = matrix.held.float() - before
        assert int(moved.count_nonzero()) <= 0.1 * moved.numel()
        assert bool((moved * gradient <= 0).all())
        assert float(moved.abs().max()) <= 1.0
    assert not torch.equal(matrix.held, start)


def test_what_gains_most_for_its_size_moves_first() -> None:
    codes = Codes(torch.full((64, 64), 4, dtype=torch.int8), torch.ones(64, 2))
    matrix = MovedMatrix(codes, G32)
    moves = CodeMoves([matrix], 0.01)
    generator = torch.Generator().manual_seed(7)
    strong = torch.rand(64, 64, generator=generator) < 0.008
    for _ in range(STEPS_BEFORE_MOVES + 16):
        step_by(matrix, moves, torch.randn(64, 64, generator=generator) + torch.where(strong, 0.7, 0.0))
    moved = matrix.held != 4
    assert int((moved & strong).sum()) > 0.7 * int(strong.sum())
    assert int((moved & ~strong).sum()) < 0.2 * int((~strong).sum())


def test_noise_alone_moves_few_codes() -> None:
    matrix = MovedMatrix(codes_of(G32), G32)
    moves, start = CodeMoves([matrix], 1.0), matrix.held.clone()
    generator = torch.Generator().manual_seed(8)
    for _ in range(STEPS_BEFORE_MOVES + 1):
        step_by(matrix, moves, torch.randn(matrix.values.shape, generator=generator))
    assert int((matrix.held != start).sum()) < 0.06 * start.numel()


def test_scales_follow_their_gradients_in_shares_of_themselves() -> None:
    matrix = MovedMatrix(codes_of(G32), G32)
    moves, before = CodeMoves([matrix], 1e-9), matrix.scales.clone()
    for _ in range(100):
        step_by(matrix, moves, matrix.held.float())  # every scale's gradient is its sum of squared codes
    moved = matrix.held.view(*before.shape, -1).any(-1)
    shares = (matrix.scales / before)[moved]
    assert float(shares.max()) < 0.98
    assert float(shares.max() - shares.min()) < 1e-3
    assert torch.equal(matrix.scales[~moved], before[~moved])


def test_eight_bits_are_left_alone() -> None:
    matrix = MovedMatrix(codes_of(INT8_ROW), INT8_ROW)
    assert not matrix.is_moved
    assert not matrix.values.requires_grad


def test_a_saved_optimizer_goes_on_as_if_nothing_had_happened() -> None:
    generator = torch.Generator().manual_seed(9)
    gradients = [torch.randn(40, 192, generator=generator) + 0.5 for _ in range(12)]
    whole, halved = (MovedMatrix(codes_of(G32), G32) for _ in range(2))
    moves = CodeMoves([whole], 0.05)
    for gradient in gradients:
        step_by(whole, moves, gradient)
    first = CodeMoves([halved], 0.05)
    for gradient in gradients[:6]:
        step_by(halved, first, gradient)
    again, second = MovedMatrix(codes_of(G32), G32), None
    again.load_state_dict(halved.state_dict())
    second = CodeMoves([again], 0.05)
    second.load_state_dict(first.state_dict())
    for gradient in gradients[6:]:
        step_by(again, second, gradient)
    assert torch.equal(again.held, whole.held)
    assert torch.equal(again(), whole())

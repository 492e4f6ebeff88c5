"""Medians, spreads and ratios."""

import pytest

from benchmarks.statistics import Spread, paired_ratio, spread


def test_a_spread_has_the_median_and_both_extremes() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(median=2.5, low=1.0, high=10.0, count=4)


def test_a_ratio_is_taken_round_by_round_so_that_a_drifting_machine_cancels_out() -> None:
    # the machine halves its speed in each round; ours stays twice the peer's
    ratio = paired_ratio([8.0, 4.0, 2.0], [4.0, 2.0, 1.0])
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 2.0)


def test_a_ratio_of_unequal_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rounds against 1: a ratio needs both sides"):
        paired_ratio([1.0, 2.0], [1.0])


def test_nothing_measured_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])

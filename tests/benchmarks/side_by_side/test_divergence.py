"""Divergence between predictions."""

import numpy as np
import pytest

from benchmarks.side_by_side.divergence import compare_logits


def test_equal_predictions_have_no_divergence_even_when_the_logits_are_shifted() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    found = compare_logits(logits, logits + np.float32(3))
    assert found.max_kld < 1e-6
    assert found.same_top_share == 1.0


def test_the_divergence_of_two_coins_is_the_textbook_value() -> None:
    fair, biased = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    found = compare_logits(fair.astype(np.float32), biased.astype(np.float32))
    assert found.mean_kld == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1), rel=1e-6)


def test_the_share_of_equal_first_choices_is_counted_by_position() -> None:
    one = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    other = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    assert compare_logits(one, other).same_top_share == 0.75


def test_logits_of_another_text_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same text or vocabulary"):
        compare_logits(np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32))

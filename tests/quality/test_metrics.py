"""Quality figures against answers worked out by hand, and what must hold for any logits."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.errors import QualityError
from export.quality import metrics
from export.quality.metrics import (
    BLOCK_TOKENS,
    Bootstrap,
    TokenStats,
    TokenSums,
    by_position,
    difference,
    join,
    share_removed,
    summarize,
    token_stats,
)

FEW = Bootstrap(resamples=200)


def logits_of(*rows: tuple[float, ...]) -> np.ndarray:
    """Logits whose softmax gives these probabilities."""
    return np.log(np.array(rows, dtype=np.float64))


def random_logits(seed: int, rows: int, columns: int, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, columns)) * scale).astype(np.float32)


def made_stats(kld: np.ndarray, *, excess: np.ndarray | None = None, block: np.ndarray | None = None) -> TokenStats:
    """Statistics with these divergences, everything else plain."""
    count = kld.size
    return TokenStats(
        reference_nll=np.ones(count),
        candidate_nll=1 + (kld if excess is None else excess),
        kld=kld.astype(np.float64),
        same_top=np.ones(count, bool),
        flip=np.zeros(count, bool),
        block=np.arange(count) if block is None else block,
        position=np.arange(count),
    )


def test_one_token_gives_the_figures_of_the_textbook() -> None:
    reference = logits_of((0.5, 0.25, 0.25))
    candidate = logits_of((0.25, 0.5, 0.25))
    found = token_stats(reference, candidate, np.array([0]))
    assert found.reference_nll == pytest.approx([math.log(2)])
    assert found.candidate_nll == pytest.approx([math.log(4)])
    assert found.kld == pytest.approx([0.5 * math.log(2) + 0.25 * math.log(0.5)])
    assert not found.same_top[0]
    assert found.flip[0]


def test_a_flip_is_a_token_that_the_reference_has_right_and_the_candidate_wrong() -> None:
    reference = logits_of((0.6, 0.4), (0.6, 0.4), (0.6, 0.4))
    candidate = logits_of((0.4, 0.6), (0.4, 0.6), (0.7, 0.3))
    found = token_stats(reference, candidate, np.array([0, 1, 0]))
    assert found.flip.tolist() == [True, False, False]
    assert found.same_top.tolist() == [False, False, True]


def test_shifted_logits_are_the_same_prediction() -> None:
    logits = random_logits(0, 40, 50)
    found = token_stats(logits.astype(np.float64), logits.astype(np.float64) + 100, np.arange(40))
    assert found.kld.max() < 1e-12
    assert found.same_top.all()


def test_huge_and_tiny_logits_do_not_overflow() -> None:
    logits = np.array([[3e4, -3e4, 0.0]])
    found = token_stats(logits, -logits, np.array([1]))
    assert found.reference_nll[0] == pytest.approx(6e4)
    assert found.kld[0] == pytest.approx(6e4)


def test_a_tie_goes_to_the_lower_token_in_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "COLUMNS_AT_ONCE", 2)
    logits = np.array([[1.0, 2.0, 2.0, 0.0, 2.0]])
    assert token_stats(logits, logits, np.array([1])).same_top[0]
    assert token_stats(logits, np.array([[0.0, 0.0, 2.0, 0.0, 2.0]]), np.array([2])).same_top[0] == False  # noqa: E712


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(2, 40),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    piece=st.integers(1, 40),
)
def test_pieces_of_the_vocabulary_give_what_the_whole_gives(
    rows: int, columns: int, seed: int, scale: float, piece: int
) -> None:
    reference, candidate = (random_logits(seed + index, rows, columns, scale) for index in range(2))
    targets = np.random.default_rng(seed).integers(0, columns, rows)
    starts = list(range(0, columns, piece))
    np.random.default_rng(seed).shuffle(starts)
    sums = TokenSums(targets)
    for first in starts:
        sums.add(first, reference[:, first : first + piece], candidate[:, first : first + piece])
    found = sums.stats()

    r, c = (logits.astype(np.float64) for logits in (reference, candidate))
    log_p, log_q = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (r, c))
    rows_of = np.arange(rows)
    np.testing.assert_allclose(found.reference_nll, -log_p[rows_of, targets], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.candidate_nll, -log_q[rows_of, targets], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.kld, (np.exp(log_p) * (log_p - log_q)).sum(1), rtol=1e-8, atol=1e-10)
    assert np.array_equal(found.same_top, r.argmax(1) == c.argmax(1))
    assert (found.kld >= 0).all()


def test_more_rows_than_a_batch_give_the_same_figures() -> None:
    reference, candidate = random_logits(1, 200, 30), random_logits(2, 200, 30)
    targets = np.arange(200) % 30
    whole = token_stats(reference, candidate, targets)
    halves = [token_stats(reference[part], candidate[part], targets[part]) for part in (slice(0, 77), slice(77, 200))]
    for name in ("reference_nll", "candidate_nll", "kld", "same_top", "flip"):
        np.testing.assert_array_equal(getattr(whole, name), np.concatenate([getattr(half, name) for half in halves]))


def test_a_long_sequence_is_cut_into_blocks_and_sequences_stay_apart() -> None:
    position = np.concatenate([np.arange(BLOCK_TOKENS + 5), np.arange(3)])
    sequence = np.repeat([7, 9], [BLOCK_TOKENS + 5, 3])
    found = metrics.blocks(sequence, position)
    assert np.bincount(found).tolist() == [BLOCK_TOKENS, 5, 3]


def test_joined_texts_keep_their_blocks_apart() -> None:
    one = made_stats(np.ones(4), block=np.array([0, 0, 1, 1]))
    assert join([one, one]).block.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_aggregates_are_those_of_the_tokens() -> None:
    kld = np.arange(1, 1001) / 1000
    found = summarize(made_stats(kld), FEW)
    assert found["mean_kld"].value == pytest.approx(0.5005)
    assert found["median_kld"].value == pytest.approx(0.5)
    assert found["p99_kld"].value == pytest.approx(0.99)
    assert found["p999_kld"].value == pytest.approx(0.999)
    assert found["max_kld"].value == 1.0
    assert found["excess_nll"].value == pytest.approx(0.5005)
    assert found["nll_ratio"].value == pytest.approx(1.5005)
    assert found["perplexity_ratio"].value == pytest.approx(math.exp(0.5005))
    assert found["top1_agreement"].value == 1.0
    assert found["flip_rate"].value == 0.0


def test_the_standard_error_of_independent_tokens_is_the_textbook_one() -> None:
    kld = np.random.default_rng(0).exponential(size=2000)
    found = summarize(made_stats(kld))["mean_kld"]
    assert found.standard_error == pytest.approx(kld.std() / math.sqrt(kld.size), rel=0.1)
    assert found.low is not None
    assert found.high is not None
    assert found.value - found.low == pytest.approx(1.96 * found.standard_error, rel=0.15)
    assert found.high - found.value == pytest.approx(1.96 * found.standard_error, rel=0.15)


def test_tokens_that_are_wrong_together_widen_the_interval() -> None:
    """Twenty copies of each token are no more evidence than one; a bootstrap of tokens would claim they are."""
    kld = np.random.default_rng(0).exponential(size=200)
    once = summarize(made_stats(kld))["mean_kld"]
    copies = np.repeat(kld, 20)
    together = summarize(made_stats(copies, block=np.repeat(np.arange(200), 20)))["mean_kld"]
    as_if_independent = summarize(made_stats(copies))["mean_kld"]
    assert once.standard_error is not None
    assert together.standard_error == pytest.approx(once.standard_error, rel=1e-9)
    assert as_if_independent.standard_error == pytest.approx(once.standard_error / math.sqrt(20), rel=0.15)


def test_the_share_removed_is_exact_where_the_candidate_is_a_scaled_baseline() -> None:
    """Paired draws: what varies from text to text cancels, so nothing is left to be unsure of."""
    kld = np.random.default_rng(1).exponential(size=300)
    found = share_removed(made_stats(kld * 0.25), made_stats(kld), "mean_kld", FEW)
    assert found.value == pytest.approx(0.75)
    assert (found.low, found.high) == (pytest.approx(0.75), pytest.approx(0.75))


def test_a_candidate_as_bad_as_the_baseline_removes_nothing() -> None:
    stats = made_stats(np.random.default_rng(1).exponential(size=50))
    found = share_removed(stats, stats, "excess_nll", FEW)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_where_the_baseline_may_have_lost_nothing_the_share_has_no_lower_bound() -> None:
    excess = np.random.default_rng(3).normal(0.02, 1.0, size=400)
    baseline = made_stats(np.abs(excess), excess=excess)
    assert summarize(baseline, FEW)["excess_nll"].low < 0  # type: ignore[operator]
    found = share_removed(replace(baseline, candidate_nll=1 + excess / 2), baseline, "excess_nll", FEW)
    assert found.low is None
    assert found.standard_error is None


def test_a_baseline_without_loss_is_refused() -> None:
    stats = made_stats(np.zeros(20))
    with pytest.raises(QualityError, match="mean_kld is 0: it lost nothing"):
        share_removed(stats, stats, "mean_kld", FEW)


def test_a_paired_difference_sees_what_two_intervals_do_not() -> None:
    kld = np.random.default_rng(2).exponential(size=100)
    better, worse = made_stats(kld), made_stats(kld + 0.01)
    found = difference(better, worse, "mean_kld", FEW)
    assert found.high is not None
    assert found.high < 0
    assert summarize(better, FEW)["mean_kld"].high > summarize(worse, FEW)["mean_kld"].low  # type: ignore[operator]


def test_figures_of_different_texts_are_not_compared() -> None:
    stats = made_stats(np.ones(20))
    with pytest.raises(QualityError, match="not the same text"):
        share_removed(stats, replace(stats, reference_nll=stats.reference_nll + 1))
    with pytest.raises(QualityError, match="20 tokens against 19"):
        difference(stats, made_stats(np.ones(19)))


def test_the_same_settings_draw_the_same_resamples() -> None:
    stats = made_stats(np.random.default_rng(2).exponential(size=100))
    assert summarize(stats, FEW) == summarize(stats, FEW)
    assert summarize(stats, FEW)["mean_kld"] != summarize(stats, replace(FEW, seed=1))["mean_kld"]


def test_positions_fall_into_bins_that_double() -> None:
    stats = made_stats(np.arange(10.0), block=np.arange(10) % 2)
    bins = by_position(stats)
    assert [(one.first, one.last, one.tokens) for one in bins] == [
        (0, 0, 1),
        (1, 1, 1),
        (2, 3, 2),
        (4, 7, 4),
        (8, 9, 2),
    ]
    assert [one.mean_kld for one in bins] == pytest.approx([0, 1, 2.5, 5.5, 8.5])
    assert bins[0].kld_standard_error is None
    assert bins[3].kld_standard_error is not None


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 300))
def test_every_token_is_in_one_position_bin(length: int) -> None:
    bins = by_position(made_stats(np.ones(length)))
    assert sum(one.tokens for one in bins) == length
    assert bins[-1].last == length - 1


def test_nan_logits_are_an_error_that_says_whose() -> None:
    good, bad = random_logits(0, 2, 3), np.full((2, 3), np.nan)
    with pytest.raises(QualityError, match="the candidate's logits are not finite"):
        token_stats(good, bad, np.array([0, 0]))


def test_logits_of_another_vocabulary_are_an_error() -> None:
    with pytest.raises(QualityError, match=r"\(2, 3\) against \(2, 4\)"):
        token_stats(random_logits(0, 2, 3), random_logits(0, 2, 4), np.array([0, 0]))


def test_a_target_outside_the_vocabulary_is_an_error() -> None:
    with pytest.raises(QualityError, match="token 3 lies outside"):
        token_stats(random_logits(0, 1, 3), random_logits(0, 1, 3), np.array([3]))


def test_one_block_has_no_standard_error_to_give() -> None:
    with pytest.raises(QualityError, match="10 tokens in 1 block"):
        summarize(made_stats(np.ones(10), block=np.zeros(10, np.int64)))


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(QualityError, match="no token to measure"):
        join([])

"""Sampling means what it means in transformers, filter by filter and all together."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from runtimes.errors import RuntimeFailedError, SamplingError
from runtimes.sampling import Sampler, Sampling, SplitMix64, candidates, penalize, weights


def transformers_scores(logits: np.ndarray, history: list[int], sampling: Sampling) -> np.ndarray:
    """The scores after transformers' own processors, in the order of its `generate`."""
    processors: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(min(sampling.top_k, logits.size)))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(MinPLogitsWarper(sampling.min_p))
    scores = torch.from_numpy(logits.copy())[None]
    for processor in processors:
        scores = processor(torch.tensor([history], dtype=torch.long), scores)
    return np.asarray(scores[0].numpy())


def our_scores(logits: np.ndarray, history: list[int], sampling: Sampling) -> np.ndarray:
    ids, kept = candidates(penalize(logits, history, sampling.repetition_penalty), sampling)
    scores = np.full(logits.size, -np.inf, np.float32)
    scores[ids] = kept
    return scores


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.9]),
    top_k=st.sampled_from([0, 1, 2, 20, 400]),
    top_p=st.sampled_from([1.0, 0.95, 0.8, 0.31, 0.013]),
    min_p=st.sampled_from([0.0, 0.047, 0.31]),
    repetition_penalty=st.sampled_from([1.0, 1.1, 1.7, 0.8]),
)


@given(sampling=SAMPLINGS, seed=st.integers(0, 10_000), spread=st.sampled_from([0.5, 3.0, 12.0]))
def test_the_filters_keep_what_transformers_keeps(sampling: Sampling, seed: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(300) * spread).astype(np.float32)
    history = random.integers(0, 300, 40).tolist()
    ours, theirs = our_scores(logits, history, sampling), transformers_scores(logits, history, sampling)
    kept = np.isfinite(ours)
    odd = np.flatnonzero(kept != np.isfinite(theirs))
    assert odd.size <= 1, "only the token at the very edge of top-p may differ: transformers adds up in float32"
    both = kept & np.isfinite(theirs)
    np.testing.assert_allclose(ours[both], theirs[both], rtol=1e-6)


def test_equal_scores_at_the_edge_of_top_k_all_stay() -> None:
    logits = np.array([1, 3, 2, 2, 0], np.float32)
    ids, _ = candidates(logits, Sampling(temperature=1.0, top_k=2))
    assert ids.tolist() == [1, 2, 3]
    assert np.isfinite(transformers_scores(logits, [0], Sampling(temperature=1.0, top_k=2))).sum() == 3


def test_temperature_zero_takes_the_best_token() -> None:
    logits = np.array([0.1, 5.0, 4.9], np.float32)
    assert Sampler(Sampling(temperature=0, top_k=1, seed=3)).choose(logits, []) == 1


def test_the_repetition_penalty_also_holds_for_greedy() -> None:
    logits = np.array([0.1, 5.0, 4.9, -1.0], np.float32)
    assert Sampler(Sampling(repetition_penalty=1.5)).choose(logits, [1]) == 2


def test_the_penalty_does_not_change_the_callers_logits() -> None:
    logits = np.array([1.0, -2.0], np.float32)
    assert penalize(logits, [0, 1, 1], 2.0).tolist() == [0.5, -4.0]
    assert logits.tolist() == [1.0, -2.0]


def test_a_seed_decides_alone() -> None:
    logits = np.zeros(50, np.float32)
    sampling = Sampling(temperature=1.0, seed=7)
    first, second = (Sampler(sampling) for _ in range(2))
    assert [first.choose(logits, []) for _ in range(20)] == [second.choose(logits, []) for _ in range(20)]
    other = Sampler(Sampling(temperature=1.0, seed=8))
    assert [other.choose(logits, []) for _ in range(20)] != [Sampler(sampling).choose(logits, []) for _ in range(20)]


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, seed=0))
    counts = Counter(sampler.choose(logits, []) for _ in range(4000))
    assert [abs(counts[token] / 4000 - chance) < 0.03 for token, chance in enumerate((0.6, 0.3, 0.1))] == [True] * 3


def test_nan_logits_are_an_error_and_no_token() -> None:
    with pytest.raises(RuntimeFailedError, match="NaN logits after 2 tokens"):
        Sampler(Sampling()).choose(np.array([1, np.nan, 2], np.float32), [1, 2])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 1.0),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_a_setting_outside_its_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(SamplingError, match=f"{setting} is {value}; it must be"):
        Sampling(**{setting: value})


def test_huge_scores_have_finite_weights() -> None:
    assert weights(np.array([1e4, 1e4, -1e4], np.float32)).tolist() == [1.0, 1.0, 0.0]


def test_the_random_numbers_are_those_of_splitmix64() -> None:
    """The first outputs for seed 1234567 as published with the reference implementation's ports."""
    random = SplitMix64(1234567)
    assert [random.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    numbers = [random.uniform() for _ in range(1000)]
    assert all(0 <= number < 1 for number in numbers)
    assert abs(sum(numbers) / len(numbers) - 0.5) < 0.05


def test_without_a_seed_no_two_samplers_draw_the_same() -> None:
    logits = np.zeros(1000, np.float32)
    first, second = (Sampler(Sampling(temperature=1.0)) for _ in range(2))
    assert [first.choose(logits, []) for _ in range(20)] != [second.choose(logits, []) for _ in range(20)]

"""One test for many figures at once: studentized permutation of sessions, stepped down by the largest statistic.

Sessions are the unit: steps and generations within one are alike, sessions of one phone are not (ExecuTorch's farm
runs: CV 27 % between sessions, little within). Under "nothing changed" the labels base and candidate are exchangeable,
so the share of relabellings with a statistic at least as large is an exact p-value at any number of sessions and for
any distribution of noise, which a bootstrap interval of medians gives up to its own error only, and for one figure at
a time. Dividing by the standard error keeps the level when the sides differ in spread (Chung and Romano,
Annals of Statistics 41, 2013).

Figures of one session move together, so their labels are moved together, and each figure is compared with the largest
statistic of all that are still in question (Westfall and Young, Resampling-Based Multiple Testing, 1993): a whole
comparison, whatever its number of figures, raises a false alarm no more often than one test.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.distributions import normal_above, normal_beyond, t_above

__all__ = ["ALPHA", "MAX_EXACT", "Block", "FamilyTest", "Floats", "family_test"]

Floats = NDArray[np.float64]
# the false alarms allowed for a whole comparison: below the 5 % that are promised
ALPHA = 0.04
MAX_EXACT = 20_000
DRAWS = 9_999
CLOSE = 1e-7  # two statistics this near, relatively, are the same, computed in another order


@dataclass(frozen=True, kw_only=True)
class Block:
    """Figures measured in the same sessions: logarithms, larger is worse; (sessions, figures) a side.

    Paired: row i of both sides is the same session.
    """

    base: Floats
    candidate: Floats
    paired: bool = False

    @property
    def degrees_of_freedom(self) -> int:
        if self.paired:
            return len(self.base) - 1
        return len(self.base) + len(self.candidate) - 2


@dataclass(frozen=True, kw_only=True)
class FamilyTest:
    """Adjusted one-sided p-values, a row a block; `level` is what a single figure is tested at in this family."""

    p_values: tuple[Floats, ...]
    level: float


def family_test(blocks: Sequence[Block], *, seed: int = 0, draws: int = DRAWS) -> FamilyTest:
    """Is any figure worse in the candidate? Exact where one block has few relabellings, else by random ones."""
    rng = np.random.default_rng(seed)
    exact = len(blocks) == 1 and _relabellings(blocks[0]) <= MAX_EXACT
    # t itself serves where there is one block: its order is all that counts
    common = _normal_scores if len(blocks) > 1 else _as_it_is
    observed, null = [], []
    for block in blocks:
        labels = _all_labels(block) if exact else _random_labels(block, rng, draws)
        observed.append(common(_t(block, _true_labels(block)), block)[0])
        null.append(common(_t(block, labels), block))
    scores, relabelled = np.concatenate(observed), np.concatenate(null, axis=1)
    adjusted = _step_down(scores, relabelled, counts_itself=exact)
    critical = np.quantile(relabelled.max(axis=1), 1 - ALPHA, method="higher")
    tail = normal_above(critical) if len(blocks) > 1 else float(t_above(critical, blocks[0].degrees_of_freedom))
    ends = np.cumsum([len(one) for one in observed])[:-1]
    return FamilyTest(p_values=tuple(np.split(adjusted, ends)), level=_single_level(tail, len(scores)))


def _t(block: Block, labels: Floats) -> Floats:
    return _paired_t(block, labels) if block.paired else _welch_t(block, labels)


def _as_it_is(t: Floats, _block: Block) -> Floats:
    return t


def _normal_scores(t: Floats, block: Block) -> Floats:
    """The normal score with the same tail as each t, so that blocks of different sizes compare."""
    return normal_beyond(t_above(t, block.degrees_of_freedom))


def _relabellings(block: Block) -> int:
    if block.paired:
        return int(2 ** len(block.base))
    return math.comb(len(block.base) + len(block.candidate), len(block.candidate))


def _true_labels(block: Block) -> Floats:
    """One row: 1 for a session of the candidate, 0 for one of the base; for pairs, 1 for 'not swapped'."""
    if block.paired:
        return np.ones((1, len(block.base)))
    return np.concatenate([np.zeros((1, len(block.base))), np.ones((1, len(block.candidate)))], axis=1)


def _all_labels(block: Block) -> Floats:
    if block.paired:
        return _all_signs(len(block.base))
    return _all_splits(len(block.base) + len(block.candidate), len(block.candidate))


@lru_cache(maxsize=16)
def _all_signs(pairs: int) -> Floats:
    return np.array(list(itertools.product([1.0, -1.0], repeat=pairs)))


@lru_cache(maxsize=16)
def _all_splits(total: int, chosen: int) -> Floats:
    labels = np.zeros((math.comb(total, chosen), total))
    for row, places in enumerate(itertools.combinations(range(total), chosen)):
        labels[row, list(places)] = 1
    return labels


def _random_labels(block: Block, rng: np.random.Generator, draws: int) -> Floats:
    if block.paired:
        return rng.choice([1.0, -1.0], size=(draws, len(block.base)))
    total = len(block.base) + len(block.candidate)
    return rng.permuted(np.tile(_true_labels(block), (draws, 1)).reshape(draws, total), axis=1)


def _welch_t(block: Block, labels: Floats) -> Floats:
    values = np.concatenate([block.base, block.candidate])
    values = _scaled(values - values.mean(axis=0))
    m, n = len(block.candidate), len(block.base)
    sums, squares = labels @ values, labels @ values**2
    other_sums, other_squares = values.sum(axis=0) - sums, (values**2).sum(axis=0) - squares
    variance = (squares - sums**2 / m) / (m - 1) / m + (other_squares - other_sums**2 / n) / (n - 1) / n
    return _quotient(sums / m - other_sums / n, variance)


def _paired_t(block: Block, labels: Floats) -> Floats:
    differences = _scaled(block.candidate - block.base)
    n = len(differences)
    means = labels @ differences / n
    variance = ((differences**2).sum(axis=0) / n - means**2) / (n - 1)
    return _quotient(means, variance)


def _scaled(values: Floats) -> Floats:
    size = np.abs(values).max(axis=0)
    return np.asarray(values / np.where(size > CLOSE, size, 1) * (size > CLOSE))


def _quotient(difference: Floats, variance: Floats) -> Floats:
    """Difference by standard error; a difference without any spread is beyond every other."""
    error = np.sqrt(np.maximum(variance, 0))
    beyond = np.sign(difference) * np.where(np.abs(difference) > CLOSE, np.inf, 0)
    return np.asarray(np.where(error > CLOSE, difference / np.maximum(error, CLOSE), beyond))


def _step_down(scores: Floats, relabelled: Floats, *, counts_itself: bool) -> Floats:
    """Westfall and Young's step-down adjusted p-values of every figure."""
    order = np.argsort(-scores, kind="stable")
    largest_left = np.maximum.accumulate(relabelled[:, order[::-1]], axis=1)[:, ::-1]
    reached = (largest_left >= scores[order] - CLOSE * np.maximum(1, np.abs(np.nan_to_num(scores[order])))).sum(axis=0)
    p = np.maximum(reached, 1) / len(relabelled) if counts_itself else (reached + 1) / (len(relabelled) + 1)
    adjusted: Floats = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted


def _single_level(tail: float, figures: int) -> float:
    """The level at which one figure alone is tested in a family of so many, between Bonferroni's and `ALPHA`."""
    return float(np.clip(tail, ALPHA / figures, ALPHA)) if figures > 1 else ALPHA

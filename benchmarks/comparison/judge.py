"""From logarithms of session values to a verdict on each figure, with its size, its interval and what it would take.

A figure regressed when the family's permutation test says so and its median moved by more than the tolerance; two
deterministic figures that differ by a page of memory differ, but nobody cares. Improvements are judged by the same
test the other way round and never change the exit status.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.comparison.intervals import median_ratio_interval
from benchmarks.comparison.permutation import ALPHA, Block, Floats, family_test
from benchmarks.comparison.planning import Design, detectable_change, sessions_needed, upper_spread

__all__ = ["TOLERANCE", "Judged", "Verdict", "judge", "median_change", "pooled_spread", "regressed"]

TOLERANCE = 0.01
Verdict = Literal["regression", "improvement", "no change"]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One figure; changes are logarithms of candidate by base, positive where the candidate is worse."""

    verdict: Verdict
    change: float
    interval: tuple[float, float]
    effect_size: float  # difference of means by the pooled spread, Hedges' correction; infinite without any spread
    p_worse: float
    p_better: float
    spread: float  # standard deviation between sessions (of a session's difference where paired)
    detectable: float  # found with 80 % power by as many sessions as the smaller side has
    needed: int | None  # sessions a side that find `target` with 80 % power


def judge(blocks: Sequence[Block], *, target: float, tolerance: float = TOLERANCE) -> list[list[Judged]]:
    """Judge all figures of one comparison together; `target` is the change to plan for, as a logarithm."""
    worse = family_test(blocks)
    better = family_test([_mirrored(block) for block in blocks])
    return [
        [
            _figure(block, column, float(p_worse[column]), float(p_better[column]), worse.level, target, tolerance)
            for column in range(block.base.shape[1])
        ]
        for block, p_worse, p_better in zip(blocks, worse.p_values, better.p_values, strict=True)
    ]


def median_change(block: Block) -> Floats:
    """Candidate against base of every figure: the median of differences where paired, else of medians."""
    if block.paired:
        return np.asarray(np.median(block.candidate - block.base, axis=0))
    return np.asarray(np.median(block.candidate, axis=0) - np.median(block.base, axis=0))


def pooled_spread(block: Block) -> Floats:
    """The standard deviation between sessions, within sides."""
    if block.paired:
        return np.asarray(np.std(block.candidate - block.base, axis=0, ddof=1))
    squares = sum(((side - side.mean(axis=0)) ** 2).sum(axis=0) for side in (block.base, block.candidate))
    return np.asarray(np.sqrt(squares / block.degrees_of_freedom))


def regressed(p_worse: float, change: float, tolerance: float = TOLERANCE) -> bool:
    """The rule that decides the exit status."""
    return p_worse <= ALPHA and change > math.log1p(tolerance)


def _figure(
    block: Block, column: int, p_worse: float, p_better: float, level: float, target: float, tolerance: float
) -> Judged:
    change = float(median_change(block)[column])
    spread = float(pooled_spread(block)[column])
    verdict: Verdict = "no change"
    if regressed(p_worse, change, tolerance):
        verdict = "regression"
    elif regressed(p_better, -change, tolerance):
        verdict = "improvement"
    base, candidate = block.base[:, column], block.candidate[:, column]
    design = Design(level=level, paired=block.paired)
    likely = upper_spread(spread, block.degrees_of_freedom)
    return Judged(
        verdict=verdict,
        change=change,
        interval=median_ratio_interval(base, candidate, paired=block.paired),
        effect_size=_effect_size(float(candidate.mean() - base.mean()), spread, block.degrees_of_freedom),
        p_worse=p_worse,
        p_better=p_better,
        spread=spread,
        detectable=detectable_change(likely, min(len(base), len(candidate)), design),
        needed=sessions_needed(target, likely, design),
    )


def _effect_size(difference: float, spread: float, freedom: int) -> float:
    if spread == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / spread * (1 - 3 / (4 * freedom - 1))


def _mirrored(block: Block) -> Block:
    return Block(base=-block.base, candidate=-block.candidate, paired=block.paired)

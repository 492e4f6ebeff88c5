"""From logits to a token: greedy, or drawn after the usual filters in the usual order.

The order and the formulas are those of transformers (repetition penalty, temperature, top-k, top-p, min-p), so that the
same settings mean the same distribution; the tests compare them value by value.

The same picks come out in Kotlin and Swift (`tests/golden/sampling.json`), so the arithmetic is one that each language
has: penalty and temperature in float32; weights `exp(score - best)` in float64, best token first, added up one by one
(top-p from the worst on); uniform numbers from SplitMix64. Only `exp` may differ, in its last bit.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import RuntimeFailedError, SamplingError

Ids = NDArray[np.int64]
Scores = NDArray[np.float32]
Weights = NDArray[np.float64]

SEED_BITS: Final = 63  # a seed fits a signed 64-bit integer of any language
MASK: Final = 2**64 - 1


def _check(name: str, value: Any, valid: bool, wanted: str) -> None:
    if not valid:
        raise SamplingError(f"{name} is {value!r}; it must be {wanted}")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, self.temperature >= 0 and np.isfinite(self.temperature), "0 or more")
        _check("top_k", self.top_k, self.top_k >= 0, "0 (all) or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("min_p", self.min_p, 0 <= self.min_p < 1, "at least 0 and below 1")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, penalty > 0 and np.isfinite(penalty), "above 0; 1 is none")
        _check(
            "seed", self.seed, self.seed is None or 0 <= self.seed < 2**SEED_BITS, f"0 or more, below 2**{SEED_BITS}"
        )


GREEDY = Sampling()


class SplitMix64:
    """Steele, Lea and Flood's generator: one 64-bit counter, mixed (OOPSLA 2014, "Fast splittable ...")."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def bits(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return mixed ^ (mixed >> 31)

    def uniform(self) -> float:
        """The next number in [0, 1), a multiple of 2**-53."""
        return (self.bits() >> 11) * 2.0**-53


class Sampler:
    """Draws tokens with one stream of random numbers."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = SplitMix64(secrets.randbits(SEED_BITS) if sampling.seed is None else sampling.seed)

    def choose(self, logits: Scores, history: Sequence[int]) -> int:
        """The next token; `history` is every token so far, prompt included, for the repetition penalty."""
        scores = penalize(logits, history, self.sampling.repetition_penalty)
        best = int(scores.argmax())  # a NaN counts as the largest
        if np.isnan(scores[best]):
            raise RuntimeFailedError(f"the model gave NaN logits after {len(history)} tokens; verify the artifact")
        if self.sampling.temperature == 0:
            return best
        ids, kept = candidates(scores, self.sampling)
        cumulative = np.cumsum(weights(kept))
        drawn = np.searchsorted(cumulative, self._random.uniform() * cumulative[-1], side="right")
        return int(ids[min(int(drawn), ids.size - 1)])


def candidates(scores: Scores, sampling: Sampling) -> tuple[Ids, Scores]:
    """The tokens that may be drawn, best first, and their scores after temperature."""
    scores = scores / np.float32(sampling.temperature)
    ids = _top_k(scores, sampling.top_k)
    order = np.lexsort((ids, -scores[ids]))  # best first; among equals the lower id, so that a seed decides alone
    ids = ids[order]
    ids = _top_p(ids, scores[ids], sampling.top_p)
    ids = _min_p(ids, scores[ids], sampling.min_p)
    return ids, scores[ids]


def penalize(logits: Scores, history: Sequence[int], penalty: float) -> Scores:
    """Make tokens of the history less likely: their positive logits are divided, the negative ones multiplied."""
    if penalty == 1 or not history:
        return logits
    seen = np.unique(np.asarray(history, np.int64))
    chosen = logits[seen]
    penalized = logits.copy()
    penalized[seen] = np.where(chosen < 0, chosen * np.float32(penalty), chosen / np.float32(penalty))
    return penalized


def weights(scores: Scores) -> Weights:
    """How likely tokens are against the best one, which comes first and has weight 1."""
    return np.exp(scores.astype(np.float64) - np.float64(scores[0]))


def _top_k(scores: Scores, k: int) -> Ids:
    """The ids of the k best scores, and of those equal to the last of them."""
    if k == 0 or k >= scores.size:
        return np.arange(scores.size)
    threshold = np.partition(scores, scores.size - k)[scores.size - k]
    return np.flatnonzero(scores >= threshold)


def _top_p(ids: Ids, scores: Scores, p: float) -> Ids:
    """The shortest run of best tokens whose probability reaches p; at least one."""
    if p == 1:
        return ids
    worse = weights(scores)[::-1].cumsum()[::-1]  # the weight of this token and all worse ones
    keep = worse > (1 - p) * worse[0]
    keep[0] = True
    return np.asarray(ids[keep])


def _min_p(ids: Ids, scores: Scores, p: float) -> Ids:
    """The tokens at least p times as likely as the best one."""
    return ids if p == 0 else np.asarray(ids[weights(scores) >= p])

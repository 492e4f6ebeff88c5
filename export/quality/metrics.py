"""What quantization costs, token by token, and how sure we can be of it.

For every token of a text that both models read, five things are kept: the negative log likelihood (NLL) that each gave
to the token that really followed, the Kullback-Leibler divergence KL(reference || candidate) of the two predictions
(KLD, nats), whether both would have chosen the same token, and whether the candidate misses a token that the reference
has right (a flip). Everything reported is an aggregate of these, so a report can be recomputed from a small file.

Tokens of one text are correlated: a name that one model does not know comes back twenty times, and a hidden state that
went astray stays astray for a while. Resampling single tokens would therefore give intervals that are far too narrow.
The bootstrap draws whole blocks (a sequence, or a stretch of a long one) with replacement, as for time series (Künsch
1989); two candidates are compared on the same draws, so what makes a text hard cancels out (a paired bootstrap).

Plain numpy; a vocabulary of 250,000 is gone through in pieces and no more than one piece of logits is ever held wide.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.errors import QualityError

Logits = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

BLOCK_TOKENS = 512  # longer sequences are cut: a bootstrap needs blocks by the dozen
MIN_BLOCKS = 2
ROWS_AT_ONCE = 64
COLUMNS_AT_ONCE = 16384
QUANTILES = {"median_kld": 0.5, "p99_kld": 0.99, "p999_kld": 0.999}

Mean = Literal["reference_nll", "candidate_nll", "excess_nll", "mean_kld", "top1_agreement", "flip_rate"]


@dataclass(frozen=True, kw_only=True)
class TokenStats:
    """Figures of N predicted tokens, each array (N,); tokens of one `block` are drawn together by the bootstrap."""

    reference_nll: Floats
    candidate_nll: Floats
    kld: Floats
    same_top: Bools
    flip: Bools
    block: Ints
    position: Ints  # in its sequence, of the token that made the prediction

    def __len__(self) -> int:
        return int(self.kld.size)


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How resampling is done; the same settings on the same blocks draw the same resamples."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0


BOOTSTRAP = Bootstrap()


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its standard error and the bounds of its bootstrap interval; None where it cannot have one."""

    value: float
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class PositionBin:
    """Figures of the tokens at positions `first` to `last`, both included."""

    first: int
    last: int
    tokens: int
    mean_kld: float
    kld_standard_error: float | None
    excess_nll: float
    top1_agreement: float


class TokenSums:
    """Per-token figures of `rows` predictions whose logits come in pieces of the vocabulary, in any order.

    Sums of exponentials are kept relative to the largest logit so far and rescaled when a larger one comes, so one pass
    is enough: KLD = E_reference[r - c] - log sum exp(r) + log sum exp(c).
    """

    def __init__(self, targets: Ints) -> None:
        rows = targets.size
        self._targets = targets
        self._reference, self._candidate = _LogSum(rows), _LogSum(rows)
        self._weighted = np.zeros(rows)  # sum of exp(r - largest r) (r - c)
        self._target_reference = np.full(rows, np.nan)
        self._target_candidate = np.full(rows, np.nan)

    def add(self, first: int, reference: Logits, candidate: Logits) -> None:
        """Logits (rows, columns) of the tokens from `first` on."""
        _check_shapes(reference, candidate, self._targets)
        r, c = reference.astype(np.float64), candidate.astype(np.float64)
        for name, logits in (("reference", r), ("candidate", c)):
            if not np.isfinite(logits).all():
                raise QualityError(f"the {name}'s logits are not finite; a model that gives NaN has no quality")
        shrink, weights = self._reference.add(first, r)
        self._candidate.add(first, c)
        self._weighted = self._weighted * shrink + (weights * (r - c)).sum(axis=1)
        here = np.flatnonzero((self._targets >= first) & (self._targets < first + r.shape[1]))
        column = self._targets[here] - first
        self._target_reference[here], self._target_candidate[here] = r[here, column], c[here, column]

    def stats(self, *, sequence: Ints | None = None, position: Ints | None = None) -> TokenStats:
        """The figures; `sequence` and `position` say where each prediction stands (default: one sequence in order)."""
        rows = self._targets.size
        missing = np.flatnonzero(np.isnan(self._target_reference))
        if missing.size:
            raise QualityError(f"token {self._targets[missing[0]]} lies outside the logits that were given")
        reference_sum, candidate_sum = self._reference.log_sum(), self._candidate.log_sum()
        kld = self._weighted / self._reference.total - reference_sum + candidate_sum
        same_top = self._reference.best == self._candidate.best
        position = np.arange(rows) if position is None else position
        return TokenStats(
            reference_nll=reference_sum - self._target_reference,
            candidate_nll=candidate_sum - self._target_candidate,
            kld=np.maximum(kld, 0.0),  # rounding can leave it a little below
            same_top=same_top,
            flip=(self._reference.best == self._targets) & ~same_top,
            block=blocks(np.zeros(rows, np.int64) if sequence is None else sequence, position),
            position=position.astype(np.int64),
        )


class _LogSum:
    """The running log of the sum of exponentials of each row, and the column of its largest logit."""

    def __init__(self, rows: int) -> None:
        self.total = np.zeros(rows)
        self.best = np.full(rows, -1, np.int64)
        self._largest = np.full(rows, -np.inf)

    def add(self, first: int, logits: Floats) -> tuple[Floats, Floats]:
        """By how much sums so far shrink, and exp(logits - largest) of these columns."""
        column = logits.argmax(axis=1)
        found = logits[np.arange(len(column)), column]
        # on a tie the lower token wins, in whatever order the pieces come
        better = (found > self._largest) | ((found == self._largest) & (column + first < self.best))
        self.best = np.where(better, column + first, self.best)
        largest = np.maximum(self._largest, found)
        shrink = np.exp(self._largest - largest)
        weights = np.exp(logits - largest[:, None])
        self.total = self.total * shrink + weights.sum(axis=1)
        self._largest = largest
        return shrink, weights

    def log_sum(self) -> Floats:
        result: Floats = self._largest + np.log(self.total)
        return result


def token_stats(
    reference_logits: Logits,
    candidate_logits: Logits,
    targets: Ints,
    *,
    sequence: Ints | None = None,
    position: Ints | None = None,
) -> TokenStats:
    """Figures of N predictions from logits (N, vocab) and the tokens (N,) that really followed."""
    _check_shapes(reference_logits, candidate_logits, targets)
    rows, columns = reference_logits.shape
    sequence = np.zeros(rows, np.int64) if sequence is None else sequence
    position = np.arange(rows) if position is None else position
    parts = []
    for start in range(0, rows, ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, rows))
        sums = TokenSums(targets[part])
        for first in range(0, columns, COLUMNS_AT_ONCE):
            some = slice(first, first + COLUMNS_AT_ONCE)
            sums.add(first, reference_logits[part, some], candidate_logits[part, some])
        parts.append(sums.stats(position=position[part]))
    return with_blocks(join(parts), blocks(sequence, position))


def blocks(sequence: Ints, position: Ints) -> Ints:
    """A number for each token's block: its sequence, cut every BLOCK_TOKENS positions."""
    pairs = np.stack([sequence, position // BLOCK_TOKENS], axis=1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def join(parts: Sequence[TokenStats]) -> TokenStats:
    """Several stretches of text as one; their blocks stay apart."""
    if not parts:
        raise QualityError("no token to measure; give a longer text")
    arrays = {field.name: [getattr(part, field.name) for part in parts] for field in fields(TokenStats)}
    offset = 0
    for index, numbers in enumerate(arrays["block"]):
        arrays["block"][index] = numbers + offset
        offset += int(numbers.max(initial=-1)) + 1
    return TokenStats(**{name: np.concatenate(values) for name, values in arrays.items()})


def with_blocks(stats: TokenStats, block: Ints) -> TokenStats:
    """The same tokens in other blocks."""
    values = {field.name: getattr(stats, field.name) for field in fields(TokenStats)}
    return TokenStats(**{**values, "block": block})


def select(stats: TokenStats, chosen: Bools) -> TokenStats:
    """Some of the tokens, their blocks numbered anew."""
    values = {field.name: getattr(stats, field.name)[chosen] for field in fields(TokenStats)}
    block = np.unique(values["block"], return_inverse=True)[1].reshape(-1).astype(np.int64)
    return TokenStats(**{**values, "block": block})


def summarize(stats: TokenStats, bootstrap: Bootstrap = BOOTSTRAP) -> dict[str, Estimate]:
    """Every aggregate by name: NLL of both, their difference, ratio and perplexity ratio, KLD, agreement, flips."""
    draws = draw(stats, bootstrap)
    found = {name: _estimate(_mean(stats, draws, term), bootstrap) for name, term in _TERMS.items()}
    reference, candidate = (_mean(stats, draws, _TERMS[name]) for name in ("reference_nll", "candidate_nll"))
    found["nll_ratio"] = _estimate((candidate[0] / reference[0], candidate[1] / reference[1]), bootstrap)
    excess = _mean(stats, draws, _TERMS["excess_nll"])
    found["perplexity_ratio"] = _estimate((float(np.exp(excess[0])), np.exp(excess[1])), bootstrap)
    found |= {name: _estimate(quantile, bootstrap) for name, quantile in _quantiles(stats, draws).items()}
    found["max_kld"] = Estimate(value=float(stats.kld.max()))  # a bootstrap says nothing of an extreme
    return found


def share_removed(
    candidate: TokenStats,
    baseline: TokenStats,
    figure: Mean = "mean_kld",
    bootstrap: Bootstrap = BOOTSTRAP,
) -> Estimate:
    """1 - candidate / baseline of a figure that is 0 without loss: 0.65 says that 65 % of the baseline's is gone.

    A resample in which the baseline lost nothing counts as the worst there is, so a bound is never better than the data
    allow; it shows as no bound (None).
    """
    _check_paired(candidate, baseline)
    draws = draw(candidate, bootstrap)
    ours, theirs = _mean(candidate, draws, _TERMS[figure]), _mean(baseline, draws, _TERMS[figure])
    if theirs[0] <= 0:
        raise QualityError(f"the baseline's {figure} is {theirs[0]:.3g}: it lost nothing that could be removed")
    positive = theirs[1] > 0
    shares = np.full(theirs[1].shape, -np.inf)
    shares[positive] = 1 - ours[1][positive] / theirs[1][positive]
    return _estimate((1 - ours[0] / theirs[0], shares), bootstrap)


def difference(
    candidate: TokenStats,
    baseline: TokenStats,
    figure: Mean = "mean_kld",
    bootstrap: Bootstrap = BOOTSTRAP,
) -> Estimate:
    """Candidate minus baseline on the same draws: an interval off zero says which one is better on this text."""
    _check_paired(candidate, baseline)
    draws = draw(candidate, bootstrap)
    ours, theirs = _mean(candidate, draws, _TERMS[figure]), _mean(baseline, draws, _TERMS[figure])
    return _estimate((ours[0] - theirs[0], ours[1] - theirs[1]), bootstrap)


def by_position(stats: TokenStats) -> list[PositionBin]:
    """Figures along the sequence, in bins that double in width: does an error grow the longer a text gets?"""
    last = int(stats.position.max())
    edges = [0, *(2**power for power in range(max(1, last.bit_length()) + 1))]
    bins = []
    for first, stop in pairwise(edges):
        here = (stats.position >= first) & (stats.position < stop)
        if here.any():
            bins.append(_position_bin(first, min(stop - 1, last), stats, here))
    return bins


def draw(stats: TokenStats, bootstrap: Bootstrap) -> Ints:
    """How often each resample draws each block, (resamples, blocks)."""
    count = int(stats.block.max()) + 1
    if count < MIN_BLOCKS:
        raise QualityError(
            f"{len(stats)} tokens in {count} block: a standard error needs at least {MIN_BLOCKS} sequences, or one "
            f"longer than {BLOCK_TOKENS} tokens; give more text"
        )
    generator = np.random.default_rng(bootstrap.seed)
    return generator.multinomial(count, np.full(count, 1 / count), size=bootstrap.resamples)


Resampled = tuple[float, Floats]  # a figure of all tokens, and of each resample

_TERMS: Mapping[str, Callable[[TokenStats], NDArray[Any]]] = {
    "reference_nll": lambda stats: stats.reference_nll,
    "candidate_nll": lambda stats: stats.candidate_nll,
    "excess_nll": lambda stats: stats.candidate_nll - stats.reference_nll,
    "mean_kld": lambda stats: stats.kld,
    "top1_agreement": lambda stats: stats.same_top,
    "flip_rate": lambda stats: stats.flip,
}


def _mean(stats: TokenStats, draws: Ints, term: Callable[[TokenStats], NDArray[Any]]) -> Resampled:
    """The mean over tokens; a resample weighs blocks by their length."""
    values = term(stats).astype(np.float64)
    sums = np.bincount(stats.block, weights=values, minlength=draws.shape[1])
    counts = np.bincount(stats.block, minlength=draws.shape[1])
    return float(values.mean()), (draws @ sums) / (draws @ counts)


def _quantiles(stats: TokenStats, draws: Ints) -> dict[str, Resampled]:
    """For each share, the smallest KLD that at least this share of tokens does not exceed."""
    order = np.argsort(stats.kld, kind="stable")
    values, block = stats.kld[order], stats.block[order]
    shares = np.array(list(QUANTILES.values()))
    found = np.empty((len(draws), shares.size))
    for index, drawn in enumerate(draws):
        cumulated = np.cumsum(drawn[block])
        found[index] = values[np.searchsorted(cumulated, shares * cumulated[-1])]
    places = np.ceil(shares * values.size).astype(np.int64) - 1
    return {name: (float(values[places[row]]), found[:, row]) for row, name in enumerate(QUANTILES)}


def _estimate(resampled: Resampled, bootstrap: Bootstrap) -> Estimate:
    value, found = resampled
    tail = (1 - bootstrap.confidence) / 2
    low, high = (float(np.quantile(found, edge, method="inverted_cdf")) for edge in (tail, 1 - tail))
    finite = bool(np.isfinite(found).all())
    return Estimate(
        value=value,
        standard_error=float(found.std(ddof=1)) if finite else None,
        low=low if np.isfinite(low) else None,
        high=high if np.isfinite(high) else None,
    )


def _position_bin(first: int, last: int, stats: TokenStats, here: Bools) -> PositionBin:
    count = int(here.sum())
    kld = stats.kld[here]
    return PositionBin(
        first=first,
        last=last,
        tokens=count,
        mean_kld=float(kld.mean()),
        # by block, for the reason that the bootstrap is
        kld_standard_error=_block_error(kld, stats.block[here]),
        excess_nll=float((stats.candidate_nll - stats.reference_nll)[here].mean()),
        top1_agreement=float(stats.same_top[here].mean()),
    )


def _block_error(values: Floats, block: Ints) -> float | None:
    """Standard error of a mean over tokens whose blocks are independent (linearized ratio of sums)."""
    count = np.unique(block).size
    if count < MIN_BLOCKS:
        return None
    deviations = np.bincount(block, weights=values - values.mean())
    return float(np.sqrt(count / (count - 1) * (deviations**2).sum()) / values.size)


def _check_shapes(reference: Logits, candidate: Logits, targets: Ints) -> None:
    if reference.shape != candidate.shape or reference.shape[0] != targets.size:
        raise QualityError(
            f"logits of shape {reference.shape} against {candidate.shape} for {targets.size} tokens: "
            "not the same text or vocabulary; compare a model with its own checkpoint"
        )


def _check_paired(candidate: TokenStats, baseline: TokenStats) -> None:
    same = len(candidate) == len(baseline) and np.array_equal(candidate.block, baseline.block)
    # the reference's own NLL is the fingerprint of text and reference; float kernels may differ in the last places
    if not same or not np.allclose(candidate.reference_nll, baseline.reference_nll, rtol=1e-3, atol=1e-3):
        raise QualityError(
            f"{len(candidate)} tokens against {len(baseline)}: not the same text read by the same reference; "
            "measure both on one text"
        )


def as_json(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Estimates as plain JSON values."""
    names = [field.name for field in fields(Estimate)]
    return {name: {part: getattr(estimate, part) for part in names} for name, estimate in estimates.items()}

"""Does the comparison keep its promises? Measured on simulated sessions: `python -m benchmarks.comparison.simulation`.

Every scenario draws sessions, lets the code of `benchmarks compare` judge them, and counts. Noise is multiplicative,
as run times are: lognormal with a stated CV; with outliers (one session in ten a half slower); with tails of a t with
3 degrees of freedom; skewed (a session is late by an exponential). CV 27 % is what ExecuTorch published for a farm
iPhone. The results are in docs/device_lab.md.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.comparison.intervals import median_ratio_interval
from benchmarks.comparison.judge import median_change, pooled_spread, regressed
from benchmarks.comparison.permutation import ALPHA, MAX_EXACT, Block, Floats, family_test
from benchmarks.comparison.planning import Design, detectable_change, sessions_needed, upper_spread

__all__ = ["NOISES", "false_alarm_rate", "main", "power_as_asked", "power_with"]

Rng = np.random.Generator
Noise = Callable[[Rng, tuple[int, int], float], Floats]
SESSIONS = (5, 6, 7, 8, 10, 12, 15, 20, 30, 50)
TARGET = math.log(1.1)


def _lognormal(rng: Rng, shape: tuple[int, int], cv: float) -> Floats:
    return rng.normal(size=shape) * math.sqrt(math.log1p(cv**2))


def _outliers(rng: Rng, shape: tuple[int, int], cv: float) -> Floats:
    return _lognormal(rng, shape, cv) + math.log(1.5) * (rng.random(shape) < 0.1)


def _heavy(rng: Rng, shape: tuple[int, int], cv: float) -> Floats:
    return rng.standard_t(3, size=shape) / math.sqrt(3) * math.sqrt(math.log1p(cv**2))


def _skewed(rng: Rng, shape: tuple[int, int], cv: float) -> Floats:
    return np.log1p(cv * rng.exponential(size=shape))


NOISES: dict[str, Noise] = {"lognormal": _lognormal, "outliers": _outliers, "heavy": _heavy, "skewed": _skewed}


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One row of the results: what was counted, out of how many."""

    scenario: str
    noise: str
    cv_percent: float
    sessions: str
    count: int
    of: int

    def line(self) -> str:
        share = self.count / self.of
        error = math.sqrt(share * (1 - share) / self.of)
        row = {"scenario": self.scenario, "noise": self.noise, "cv_percent": self.cv_percent, "sessions": self.sessions}
        return json.dumps({**row, "of": self.of, "share": round(share, 4), "error": round(error, 4)})


def _alarm(blocks: Sequence[Block], seed: int, draws: int) -> bool:
    p_values = family_test(blocks, seed=seed, draws=draws).p_values
    return any(
        regressed(float(p), float(change))
        for block, row in zip(blocks, p_values, strict=True)
        for p, change in zip(row, median_change(block), strict=True)
    )


def false_alarm_rate(
    draw: Callable[[Rng], Sequence[Block]], *, repeats: int, seed: int, draws: int = 999
) -> tuple[int, int]:
    """How many of some comparisons of like with like find a regression."""
    rng = np.random.default_rng(seed)
    return sum(_alarm(draw(rng), repeat, draws) for repeat in range(repeats)), repeats


def power_with(sessions: int, cv: float, *, repeats: int, seed: int, change: float = TARGET) -> tuple[int, int]:
    """How many comparisons find a true change with so many sessions a side."""
    draw = partial(_single, noise=_lognormal, base=sessions, candidate=sessions, cv=cv, shift=change)
    return false_alarm_rate(draw, repeats=repeats, seed=seed)


def power_as_asked(
    pilot: int, cv: float, *, repeats: int, seed: int, paired: bool = False
) -> tuple[int, int, list[int]]:
    """Ask some pilot sessions how many it takes to find 10 %, take as many, count how often it is found."""
    rng = np.random.default_rng(seed)
    found, asked = 0, []
    for repeat in range(repeats):
        first = _one(rng, _lognormal, pilot, pilot, cv, paired=paired)
        spread = upper_spread(float(pooled_spread(first)[0]), first.degrees_of_freedom)
        needed = sessions_needed(TARGET, spread, Design(level=ALPHA, paired=paired))
        if needed is None:
            raise ValueError(f"a CV of {cv} asks for more sessions than the plan allows")
        asked.append(needed)
        then = _one(rng, _lognormal, needed, needed, cv, shift=TARGET, paired=paired)
        found += _alarm([then], repeat, 999)
    return found, repeats, asked


def _one(
    rng: Rng, noise: Noise, base: int, candidate: int, cv: float, *, shift: float = 0.0, paired: bool = False
) -> Block:
    """One figure; pairs share what their session has in common, five times the noise of either."""
    common = rng.normal(size=(base, 1)) * 5 * cv if paired else 0.0
    scale = cv / math.sqrt(2) if paired else cv
    return Block(
        base=noise(rng, (base, 1), scale) + common,
        candidate=noise(rng, (candidate, 1), scale) + common + shift,
        paired=paired,
    )


def _single(
    rng: Rng, noise: Noise, base: int, candidate: int, cv: float, shift: float = 0.0, paired: bool = False
) -> list[Block]:
    return [_one(rng, noise, base, candidate, cv, shift=shift, paired=paired)]


def _family(rng: Rng, sessions: int, cvs: Sequence[float], figures: int, correlation: float) -> list[Block]:
    """A device a CV, each with some figures that are correlated over its sessions."""

    def side(cv: float) -> Floats:
        shared = _lognormal(rng, (sessions, 1), cv) * math.sqrt(correlation)
        return np.asarray(shared + _lognormal(rng, (sessions, figures), cv) * math.sqrt(1 - correlation))

    return [Block(base=side(cv), candidate=side(cv)) for cv in cvs]


def _drifting(rng: Rng, sessions: int, interleaved: bool) -> list[Block]:
    """A phone that gets slower by 1 % a night, CV 5 % besides."""
    nights = np.log(1.01) * np.arange(2 * sessions)[:, None] + _lognormal(rng, (2 * sessions, 1), 0.05)
    if interleaved:
        return [Block(base=nights[::2], candidate=nights[1::2])]
    return [Block(base=nights[:sessions], candidate=nights[sessions:])]


def _unequal(rng: Rng, base: int, candidate: int, ratio: float) -> list[Block]:
    return [Block(base=_lognormal(rng, (base, 1), 0.05), candidate=_lognormal(rng, (candidate, 1), 0.05 * ratio))]


def _topped_up(rng: Rng, cv: float) -> bool:
    """Looks at 5 sessions, collects what is asked for where nothing was found, looks again."""
    first = _one(rng, _lognormal, 5, 5, cv)
    if _alarm([first], 0, 999):
        return True
    spread = upper_spread(float(pooled_spread(first)[0]), first.degrees_of_freedom)
    more = (sessions_needed(TARGET, spread, Design(level=ALPHA)) or 5) - 5
    if not more:
        return False
    rest = _one(rng, _lognormal, more, more, cv)
    both = Block(
        base=np.concatenate([first.base, rest.base]), candidate=np.concatenate([first.candidate, rest.candidate])
    )
    return _alarm([both], 0, 999)


def _percentile_alarm(block: Block) -> bool:
    """The rule that is not used: the interval of medians lies above zero."""
    low, _ = median_ratio_interval(block.base[:, 0], block.candidate[:, 0])
    return low > 0


def _rate(
    scenario: str, sessions: str, counted: tuple[int, int], *, noise: str = "lognormal", cv: float = 0.05
) -> Rate:
    count, of = counted
    return Rate(scenario=scenario, noise=noise, cv_percent=100 * cv, sessions=sessions, count=count, of=of)


def _false_alarms(repeats: int) -> Iterator[Rate]:
    for (name, noise), cv, n in itertools.product(NOISES.items(), (0.05, 0.27), SESSIONS):
        draw = partial(_single, noise=noise, base=n, candidate=n, cv=cv)
        some = repeats if math.comb(2 * n, n) <= MAX_EXACT else repeats // 2
        counted = false_alarm_rate(draw, repeats=some, seed=n)
        yield _rate("false alarms", f"{n}+{n}", counted, noise=name, cv=cv)
    for n, name in itertools.product((5, 6, 8, 12, 20), ("lognormal", "skewed")):
        draw = partial(_single, noise=NOISES[name], base=n, candidate=n, cv=0.05, paired=True)
        yield _rate("false alarms, pairs", f"{n} pairs", false_alarm_rate(draw, repeats=repeats, seed=n), noise=name)


def _families(repeats: int) -> Iterator[Rate]:
    some = max(repeats // 4, 1)
    for n in (5, 8, 15):
        for correlation in (0.0, 0.8):
            draw = partial(_family, sessions=n, cvs=(0.05,), figures=12, correlation=correlation)
            what = f"false alarms, 12 figures at once, correlation {correlation}"
            yield _rate(what, f"{n}+{n}", false_alarm_rate(draw, repeats=some, seed=n))
        draw = partial(_family, sessions=n, cvs=(0.03, 0.05, 0.27), figures=4, correlation=0.5)
        what = "false alarms, 3 devices of 4 figures, CV 3, 5 and 27 %"
        yield _rate(what, f"{n}+{n}", false_alarm_rate(draw, repeats=some, seed=n))
    for base, candidate, ratio in ((5, 5, 3), (20, 5, 1), (30, 5, 3), (5, 30, 3), (30, 30, 3)):
        unequal = partial(_unequal, base=base, candidate=candidate, ratio=ratio)
        what = f"false alarms, candidate's CV {ratio} times the base's"
        yield _rate(what, f"{base}+{candidate}", false_alarm_rate(unequal, repeats=repeats // 2, seed=base))


def _hazards(repeats: int) -> Iterator[Rate]:
    for n, interleaved in itertools.product((5, 10, 20), (True, False)):
        draw = partial(_drifting, sessions=n, interleaved=interleaved)
        what = f"false alarms, 1 % slower every night, {'alternating' if interleaved else 'base first'}"
        yield _rate(what, f"{n}+{n}", false_alarm_rate(draw, repeats=repeats // 4, seed=n))
    for cv in (0.05, 0.27):
        rng = np.random.default_rng(3)
        of = max(repeats // 8, 1)
        count = sum(_topped_up(rng, cv) for _ in range(of))
        yield _rate("false alarms when looking twice", "5, then as asked", (count, of), cv=cv)
    for n in SESSIONS:
        rng = np.random.default_rng(n)
        of = max(repeats // 8, 1)
        count = sum(_percentile_alarm(_one(rng, _lognormal, n, n, 0.05)) for _ in range(of))
        yield _rate("false alarms of the percentile bootstrap of medians, not used", f"{n}+{n}", (count, of))


def _intervals(repeats: int) -> Iterator[Rate]:
    of = max(repeats // 8, 1)
    for n, name, paired in itertools.product((5, 6, 8, 12, 30), ("lognormal", "skewed"), (False, True)):
        rng = np.random.default_rng(n)
        blocks = [_one(rng, NOISES[name], n, n, 0.05, paired=paired) for _ in range(of)]
        intervals = [median_ratio_interval(b.base[:, 0], b.candidate[:, 0], paired=paired) for b in blocks]
        covered = sum(low <= 0 <= high for low, high in intervals)
        sessions = f"{n} pairs" if paired else f"{n}+{n}"
        yield _rate("95 % interval of medians holds the truth", sessions, (covered, of), noise=name)


def _powers(repeats: int) -> Iterator[Rate]:
    some = max(repeats // 4, 1)
    for n in (5, 6, 7, 8):
        yield _rate("a true 10 % found", f"{n}+{n}", power_with(n, 0.05, repeats=some, seed=n))
    for n in (5, 8, 20):
        change = detectable_change(math.sqrt(math.log1p(0.27**2)), n, Design(level=ALPHA))
        what = f"the smallest detectable change, {math.expm1(change):.0%}, found"
        yield _rate(what, f"{n}+{n}", power_with(n, 0.27, repeats=some, seed=n, change=change), cv=0.27)
    pilots = [(n, cv, False) for cv in (0.02, 0.05, 0.1, 0.27) for n in (5, 8)] + [(5, 0.05, True), (6, 0.1, True)]
    for pilot, cv, paired in pilots:
        found, of, asked = power_as_asked(pilot, cv, repeats=max(repeats // 10, 1), seed=pilot, paired=paired)
        low, middle, high = np.quantile(asked, [0.1, 0.5, 0.9]).astype(int).tolist()
        what = f"10 % found with what {pilot} {'pairs' if paired else 'a side'} ask for"
        yield _rate(what, f"{middle} ({low} to {high})", (found, of), cv=cv)


def main(words: Sequence[str] | None = None) -> int:
    """Print one JSON line a scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10_000, help="comparisons in the largest scenarios")
    parser.add_argument("--only", default="", help="one part: false alarms, families, hazards, intervals, powers")
    options = parser.parse_args(words)
    parts = {
        "false alarms": _false_alarms,
        "families": _families,
        "hazards": _hazards,
        "intervals": _intervals,
        "powers": _powers,
    }
    for name, rates in parts.items():
        if options.only in ("", name):
            for rate in rates(options.repeats):
                sys.stdout.write(rate.line() + "\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

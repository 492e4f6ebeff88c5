"""The test has its level by enumeration, the plan its power by tables, and both by simulation."""

import json
import math
from itertools import combinations, product

import numpy as np
import pytest

from benchmarks.comparison.intervals import median_ratio_interval
from benchmarks.comparison.judge import TOLERANCE, judge, median_change, regressed
from benchmarks.comparison.permutation import ALPHA, Block, Floats, family_test
from benchmarks.comparison.planning import Design, detectable_change, power, sessions_needed, upper_spread
from benchmarks.comparison.simulation import (
    NOISES,
    false_alarm_rate,
    main,
    power_as_asked,
    power_with,
)

RNG = np.random.default_rng(7)


def values(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def smallest_p(block: Block, **options: int) -> float:
    return float(min(family_test([block], **options).p_values[0]))


@pytest.mark.parametrize("figures", [1, 3])
@pytest.mark.parametrize("sides", [(5, 5), (4, 6), (3, 3)])
def test_of_all_splits_of_any_sessions_no_more_than_the_level_are_called_changed(
    figures: int, sides: tuple[int, int]
) -> None:
    """This is the exactness of a permutation test: under 'nothing changed' every split is as likely."""
    base, candidate = sides
    sessions = values(base + candidate, figures)
    found = []
    for chosen in combinations(range(base + candidate), candidate):
        others = [one for one in range(base + candidate) if one not in chosen]
        found.append(smallest_p(Block(base=sessions[others], candidate=sessions[list(chosen)])))
    for level in (0.01, ALPHA, 0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level) <= level


def test_of_all_swaps_of_any_pairs_no_more_than_the_level_are_called_changed() -> None:
    base, candidate = values(6, 2), values(6, 2) + 0.1
    found = []
    for swaps in product([False, True], repeat=6):
        swap = np.array(swaps)[:, None]
        found.append(
            smallest_p(
                Block(base=np.where(swap, candidate, base), candidate=np.where(swap, base, candidate), paired=True)
            )
        )
    for level in (0.02, ALPHA, 0.05, 0.5):
        assert np.mean(np.array(found) <= level) <= level


def test_a_p_value_is_the_share_of_splits_with_as_large_a_statistic() -> None:
    base, candidate = np.arange(5.0)[:, None], np.arange(5.0)[:, None] + 10
    assert smallest_p(Block(base=base, candidate=candidate)) == pytest.approx(1 / 252)
    assert smallest_p(Block(base=candidate, candidate=base)) == 1
    assert smallest_p(Block(base=base, candidate=candidate + base**2 / 99, paired=True)) == 1 / 32


def test_random_splits_agree_with_all_splits() -> None:
    block = Block(base=values(6, 1), candidate=values(7, 1) + 1.5)
    alone = family_test([block]).p_values[0][0]
    beside_nothing = Block(base=np.zeros((5, 1)), candidate=np.zeros((5, 1)))
    drawn = family_test([block, beside_nothing]).p_values[0][0]
    assert 0 < drawn < 0.5
    assert drawn == pytest.approx(alone, abs=0.02)


def test_figures_without_any_spread_are_no_trouble() -> None:
    same = Block(base=np.ones((5, 1)), candidate=np.ones((5, 1)))
    larger = Block(base=np.ones((5, 1)), candidate=np.full((5, 1), 2.0))
    assert smallest_p(same) == 1
    assert smallest_p(larger) == pytest.approx(1 / 252)
    [[judged]] = judge([larger], target=0.1)
    assert judged.verdict == "regression"
    assert judged.effect_size == math.inf
    assert (judged.detectable, judged.needed) == (0, 5)


def test_more_figures_make_it_no_easier_to_raise_an_alarm() -> None:
    noise = values(8, 20)
    one = Block(base=noise[:, :1], candidate=values(8, 1) + 1)
    many = Block(base=noise, candidate=np.concatenate([one.candidate, RNG.normal(size=(8, 19))], axis=1))
    assert family_test([many]).p_values[0][0] >= family_test([one]).p_values[0][0]
    assert family_test([many]).level < family_test([one]).level == ALPHA


def test_figures_that_move_together_cost_little() -> None:
    """Twenty copies of one figure are one figure."""
    base, candidate = values(8, 1), values(8, 1)[::-1] + 1
    copies = Block(base=np.repeat(base, 20, axis=1), candidate=np.repeat(candidate, 20, axis=1))
    assert smallest_p(copies) == pytest.approx(smallest_p(Block(base=base, candidate=candidate)))


def test_a_change_within_the_tolerance_is_none() -> None:
    assert regressed(0.001, 0.02)
    assert not regressed(0.001, math.log1p(TOLERANCE) / 2)
    assert not regressed(0.05, 1.0)


def test_both_directions_are_judged() -> None:
    noise = RNG.normal(size=(8, 3)) * 0.01
    block = Block(base=noise, candidate=noise[::-1] + np.array([0.2, 0.0, -0.2]))
    [judged] = judge([block], target=math.log(1.1))
    assert [one.verdict for one in judged] == ["regression", "no change", "improvement"]
    assert median_change(block) == pytest.approx([0.2, 0, -0.2])


@pytest.mark.parametrize(
    ("effect", "level", "sessions"),
    [(0.5, 0.05, 51), (0.8, 0.05, 21), (0.5, 0.025, 64), (0.8, 0.025, 26), (0.2, 0.05, 310)],
)
def test_sessions_needed_are_those_of_the_tables(effect: float, level: float, sessions: int) -> None:
    """Cohen, Statistical Power Analysis (1988), and G*Power: two independent groups, power 0.8, n a group."""
    assert sessions_needed(effect, 1, Design(level=level)) == sessions


def test_pairs_need_the_sessions_of_one_sample() -> None:
    """G*Power: one-tailed paired t, d 0.5, level 0.05, power 0.8: 27 pairs."""
    assert sessions_needed(0.5, 1, Design(level=0.05, paired=True)) == 27


def test_what_is_detectable_needs_as_many_sessions_as_there_are() -> None:
    for sessions in (5, 8, 40):
        change = detectable_change(0.27, sessions, Design(level=ALPHA))
        assert power(change, 0.27, sessions, Design(level=ALPHA)) == pytest.approx(0.8, abs=1e-6)
        assert sessions_needed(change * 1.0001, 0.27, Design(level=ALPHA)) == sessions


def test_a_change_that_cannot_be_found_is_said_to_be_so() -> None:
    assert sessions_needed(1e-6, 1, Design(level=ALPHA)) is None
    assert upper_spread(1, 8) == pytest.approx(1.32, abs=0.01)


@pytest.mark.parametrize("noise", NOISES)
def test_false_alarms_stay_under_five_percent(noise: str) -> None:
    """A small piece of the simulation: three standard errors of 300 repeats above the level."""

    def draw(rng: np.random.Generator) -> list[Block]:
        return [Block(base=NOISES[noise](rng, (5, 1), 0.27), candidate=NOISES[noise](rng, (6, 1), 0.27))]

    alarms, of = false_alarm_rate(draw, repeats=300, seed=1)
    assert alarms / of < ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / of)


def test_eight_sessions_find_ten_percent_at_a_cv_of_five() -> None:
    found, of = power_with(8, 0.05, repeats=60, seed=1)
    assert found / of > 0.9


@pytest.mark.parametrize(("cv", "paired"), [(0.05, False), (0.05, True)])
def test_the_number_asked_for_has_the_power_promised(cv: float, paired: bool) -> None:
    found, of, asked = power_as_asked(6, cv, repeats=60, seed=1, paired=paired)
    assert found / of > 0.8
    assert min(asked) >= 5


@pytest.mark.parametrize("paired", [False, True])
def test_the_interval_holds_the_truth(paired: bool) -> None:
    rng = np.random.default_rng(3)
    intervals = [median_ratio_interval(*rng.normal(size=(2, 5)), paired=paired) for _ in range(100)]
    assert sum(low <= 0 <= high for low, high in intervals) >= 88


def test_the_simulation_prints_a_line_a_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--repeats", "8", "--only", "hazards"]) == 0
    rates = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rates) == 18
    assert all(0 <= rate["share"] <= 1 for rate in rates)

"""The knapsack against exhaustive search and against dynamic programming over every byte."""

import itertools
import time

import numpy as np
import pytest

from export.errors import BudgetError
from export.search.knapsack import Item, Option, solve


def random_items(rng: np.random.Generator, count: int, options: int, largest: int) -> list[Item]:
    """Options that cost less the more bytes they take, mostly, as formats do."""
    items: list[Item] = []
    for _ in range(count):
        sizes = np.sort(rng.integers(1, largest, options))
        costs = np.sort(rng.exponential(1.0, options))[::-1] * rng.exponential(1.0)
        rng.shuffle(costs[: rng.integers(0, 3)])
        items.append([Option(num_bytes=int(size), cost=float(cost)) for size, cost in zip(sizes, costs, strict=True)])
    return items


@pytest.mark.parametrize("seed", range(40))
def test_no_choice_of_options_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = random_items(rng, 6, 4, 50)
    smallest = sum(min(option.num_bytes for option in item) for item in items)
    budget = int(smallest + rng.integers(0, 150))
    found = solve(items, budget)
    assert found.num_bytes <= budget
    fitting = [
        sum(option.cost for option in chosen)
        for chosen in itertools.product(*items)
        if sum(option.num_bytes for option in chosen) <= budget
    ]
    assert found.cost == pytest.approx(min(fitting), rel=1e-12)
    assert found.lower_bound <= found.cost + 1e-12
    chosen = [item[choice] for item, choice in zip(items, found.choices, strict=True)]
    assert sum(option.num_bytes for option in chosen) == found.num_bytes


@pytest.mark.parametrize("seed", range(5))
def test_dynamic_programming_over_every_byte_agrees(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    items = random_items(rng, 40, 6, 200)
    budget = int(sum(min(option.num_bytes for option in item) for item in items) * 1.5)
    best = np.zeros(budget + 1)
    for item in items:
        after = np.full(budget + 1, np.inf)
        for option in item:
            room = budget + 1 - option.num_bytes
            if room > 0:
                after[option.num_bytes :] = np.minimum(after[option.num_bytes :], best[:room] + option.cost)
        best = after
    assert solve(items, budget).cost == pytest.approx(float(best[budget]), rel=1e-12)


def test_a_model_of_many_matrices_is_solved_in_seconds() -> None:
    rng = np.random.default_rng(7)
    formats = ((4, 128), (4, 64), (4, 32), (8, 128), (8, 32), (32, 0))
    items = []
    for _ in range(250):
        rows, columns = int(rng.integers(4, 90)) * 128, int(rng.integers(8, 40)) * 128
        weight = rng.exponential(1.0)
        noise = {bits: rng.uniform(0.7, 1.3) for bits in (4, 8, 32)}
        items.append(
            [
                Option(
                    num_bytes=rows * columns * bits // 8 + (rows * columns // group * 4 if group else 0),
                    cost=0.0 if bits == 32 else weight * noise[bits] * 4.0 ** (4 - bits) * (group / 32) ** 0.3,
                )
                for bits, group in formats
            ]
        )
    small, large = (sum(sorted(option.num_bytes for option in item)[rank] for item in items) for rank in (0, 3))
    begun = time.monotonic()
    for share in (0.05, 0.3, 0.7):
        budget = int(small + share * (large - small))
        found = solve(items, budget)
        assert found.num_bytes <= budget
        assert found.cost <= found.lower_bound * 1.01, "fractions of options would cost much less"
    assert time.monotonic() - begun < 30


def test_with_bytes_to_spare_every_item_gets_its_cheapest_option() -> None:
    items = random_items(np.random.default_rng(3), 8, 4, 50)
    found = solve(items, 10**9)
    assert found.cost == pytest.approx(sum(min(option.cost for option in item) for item in items))


def test_a_budget_below_the_smallest_choice_is_refused_with_that_size() -> None:
    items = [[Option(num_bytes=10, cost=1.0), Option(num_bytes=20, cost=0.0)]] * 3
    with pytest.raises(BudgetError, match="29 bytes hold no choice of formats: the smallest takes 30 bytes"):
        solve(items, 29)
    assert solve(items, 30).choices == (0, 0, 0)

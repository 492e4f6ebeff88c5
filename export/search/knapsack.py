"""The multiple-choice knapsack, solved exactly: one option of every item, least total cost within a budget of bytes.

Items are worked off one after another, and of all partial choices only those are kept that no other beats in both bytes
and cost (Nemhauser and Ullmann 1969). What makes that small is a bound: with bytes priced at the multiplier of the
Lagrangian dual, no completion of a partial choice costs less than its own priced cost and the cheapest priced option of
each item to come. A partial choice whose bound exceeds a solution already found is dropped, so what is returned is
optimal, to the rounding of float64 sums (Kellerer, Pferschy and Pisinger 2004, chapter 11).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import BudgetError

SLACK = 1e-12  # of float64 sums, relative to what is summed
BISECTIONS = 200
TIGHT = 1e-9  # of the price: the bound is flat there

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to hold an item."""

    num_bytes: int
    cost: float


Item = Sequence[Option]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The index of each item's option, and what they come to; no solution within the budget costs less."""

    choices: tuple[int, ...]
    num_bytes: int
    cost: float
    lower_bound: float  # of the Lagrangian dual: how far the optimum is from what fractions of options would allow


@dataclass(frozen=True)
class _Stage:
    """The partial choices that are kept after one item: bytes, costs, and what each was made of."""

    num_bytes: Integers
    cost: Floats
    parent: Integers
    option: Integers


def solve(items: Sequence[Item], budget_bytes: int) -> Solution:
    """The cheapest choice of one option an item whose bytes fit; BudgetError where the smallest do not."""
    sizes = [np.array([option.num_bytes for option in item], dtype=np.int64) for item in items]
    costs = [np.array([option.cost for option in item], dtype=np.float64) for item in items]
    smallest = sum(int(size.min()) for size in sizes)
    if smallest > budget_bytes:
        raise BudgetError(f"{budget_bytes} bytes hold no choice of formats: the smallest takes {smallest} bytes")
    table = _Table.of(sizes, costs)
    price, bound, fitting = _dual(table, budget_bytes)
    limit = _total(costs, _feasible(sizes, costs, budget_bytes, table.cheapest(fitting)))
    limit += SLACK * (abs(limit) + price * budget_bytes)
    stages = _stages(sizes, costs, budget_bytes, price, limit)
    best = int(np.lexsort((stages[-1].num_bytes, stages[-1].cost))[0])
    choices = _trace(stages, best)
    return Solution(
        choices=choices,
        num_bytes=int(stages[-1].num_bytes[best]),
        cost=_total(costs, choices),
        lower_bound=bound,
    )


def _stages(
    sizes: Sequence[Integers], costs: Sequence[Floats], budget_bytes: int, price: float, limit: float
) -> list[_Stage]:
    """Partial choices after each item, without those that cannot lead to anything better."""
    rest_bytes = _suffix(np.array([int(size.min()) for size in sizes], dtype=np.int64))
    rest_cost = _suffix(np.array([(cost + price * size).min() for size, cost in zip(sizes, costs, strict=True)]))
    zero = np.zeros(1, dtype=np.int64)
    stages: list[_Stage] = []
    num_bytes, cost = zero, np.zeros(1)
    for index, (size, own) in enumerate(zip(sizes, costs, strict=True)):
        total = (num_bytes[:, None] + size[None, :]).ravel()
        spent = (cost[:, None] + own[None, :]).ravel()
        bound = spent + price * (total - budget_bytes) + rest_cost[index + 1]
        alive = np.flatnonzero((total + rest_bytes[index + 1] <= budget_bytes) & (bound <= limit))
        alive = alive[np.lexsort((total[alive], spent[alive]))]
        alive = alive[_smaller_than_all_before(total[alive])]
        stages.append(_Stage(total[alive], spent[alive], alive // len(size), alive % len(size)))
        num_bytes, cost = total[alive], spent[alive]
    return stages


def _smaller_than_all_before(num_bytes: Integers) -> NDArray[np.bool_]:
    """In order of cost, whichever takes fewer bytes than every cheaper one."""
    before = np.concatenate(([np.iinfo(np.int64).max], np.minimum.accumulate(num_bytes)[:-1]))
    return np.asarray(num_bytes < before)


def _suffix(values: Any) -> Any:
    """Sums from each place to the end, and zero behind it."""
    return np.concatenate((np.cumsum(values[::-1])[::-1], np.zeros(1, dtype=values.dtype)))


@dataclass(frozen=True)
class _Table:
    """All options side by side (items, most options), missing ones infinitely dear; sorted by bytes."""

    sizes: Integers
    costs: Floats
    order: Integers

    @classmethod
    def of(cls, sizes: Sequence[Integers], costs: Sequence[Floats]) -> "_Table":
        width = max(len(size) for size in sizes)
        table = cls(
            np.zeros((len(sizes), width), dtype=np.int64),
            np.full((len(sizes), width), np.inf),
            np.zeros((len(sizes), width), dtype=np.int64),
        )
        for row, (size, cost) in enumerate(zip(sizes, costs, strict=True)):
            order = np.argsort(size, kind="stable")
            table.sizes[row, : len(size)], table.costs[row, : len(size)] = size[order], cost[order]
            table.order[row, : len(size)] = order
        return table

    def cheapest(self, price: float) -> Integers:
        """Each item's cheapest option at a price of a byte, of equals the smallest."""
        best = self._best(price)
        return np.asarray(np.take_along_axis(self.order, best[:, None], axis=1)[:, 0])

    def priced_bytes(self, price: float) -> int:
        """What the cheapest options take."""
        return int(np.take_along_axis(self.sizes, self._best(price)[:, None], axis=1).sum())

    def bound(self, price: float, budget_bytes: int) -> float:
        """What no choice within the budget can cost less than."""
        return float((self.costs + price * self.sizes).min(axis=1).sum()) - price * budget_bytes

    def _best(self, price: float) -> Integers:
        return np.asarray((self.costs + price * self.sizes).argmin(axis=1))


def _dual(table: _Table, budget_bytes: int) -> tuple[float, float, float]:
    """The price of a byte at which the bound is highest, that bound, and the lowest price found at which all fits."""
    if table.priced_bytes(0.0) <= budget_bytes:
        return 0.0, table.bound(0.0, budget_bytes), 0.0
    low, high = 0.0, 1e-30
    while table.priced_bytes(high) > budget_bytes:
        high *= 2.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if table.priced_bytes(middle) > budget_bytes else (low, middle)
        if high - low <= TIGHT * high:
            break
    bounds = {price: table.bound(price, budget_bytes) for price in (low, high)}
    best = max(bounds, key=lambda price: bounds[price])
    return best, bounds[best], high


def _feasible(
    sizes: Sequence[Integers], costs: Sequence[Floats], budget_bytes: int, fitting: Integers
) -> tuple[int, ...]:
    """A good choice: one that fits, with the bytes that are left where they help most."""
    choices = [int(choice) for choice in fitting]
    left = budget_bytes - sum(int(size[choice]) for size, choice in zip(sizes, choices, strict=True))
    gains = [
        (float(cost[choice] - cost[other]), index, other)
        for index, (cost, choice) in enumerate(zip(costs, choices, strict=True))
        for other in range(len(cost))
        if cost[other] < cost[choice]
    ]
    for _, index, other in sorted(gains, reverse=True):
        more = int(sizes[index][other] - sizes[index][choices[index]])
        if costs[index][other] < costs[index][choices[index]] and more <= left:
            choices[index], left = other, left - more
    return tuple(choices)


def _total(costs: Sequence[Floats], choices: Sequence[int]) -> float:
    return float(sum(float(cost[choice]) for cost, choice in zip(costs, choices, strict=True)))


def _trace(stages: Sequence[_Stage], last: int) -> tuple[int, ...]:
    """The options that led to a final state."""
    choices = []
    for stage in reversed(stages):
        choices.append(int(stage.option[last]))
        last = int(stage.parent[last])
    return tuple(reversed(choices))

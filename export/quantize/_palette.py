"""Values from a small table: one-dimensional k-means over the rows that share it.

In one dimension clusters are intervals, so with values sorted once, and sums of weights before each of them, a step of
Lloyd's algorithm is a search for 15 borders and a few differences. What it ends in depends on where it began: evenly
over the values' range, or evenly over their number; each table takes the better end.
"""

import torch
from torch import Tensor

ENTRIES = 16  # what 4 bits tell apart
STEPS = 100
VALUES_AT_ONCE = 1 << 22
LIGHTEST = 1e-6  # of the mean weight: an input that was always zero still has values to be told apart


def snap(weight: Tensor, rows: int, importance: Tensor | None = None) -> Tensor:
    """Weights (out, in) of which each run of `rows` rows holds at most 16 values, exact in float16.

    Squared errors are weighted by `importance` (in,), the mean squares of inputs, where there is one.
    """
    columns = weight.shape[1]
    cost = torch.ones(columns) if importance is None else importance.clamp(min=LIGHTEST * float(importance.mean()))
    tables = weight.reshape(-1, rows * columns)
    costs = cost.repeat(rows).expand_as(tables)
    parts = max(1, VALUES_AT_ONCE // (rows * columns))
    found = [_snap(*pair) for pair in zip(tables.split(parts), costs.split(parts), strict=True)]
    return torch.cat(found).view_as(weight)


def _snap(values: Tensor, costs: Tensor) -> Tensor:
    """Each row's values, by the better of two tables."""
    ordered, order = values.double().sort(-1)
    sums = _Sums(ordered, costs.double().gather(-1, order))
    evenly = (torch.arange(ENTRIES, dtype=torch.float64) + 0.5) / ENTRIES
    low, high = ordered[:, :1], ordered[:, -1:]
    by_range = sums.settle(low + (high - low) * evenly)
    by_number = sums.settle(ordered[:, (evenly * ordered.shape[1]).long()])
    best = torch.where((sums.error(by_range) < sums.error(by_number)).unsqueeze(-1), by_range, by_number)
    table = best.to(torch.float16).to(values.dtype).sort(-1).values
    places = torch.searchsorted((table[:, 1:] + table[:, :-1]) / 2, values.contiguous())
    return table.gather(-1, places)


class _Sums:
    """Sums of weights, weighted values and squares before each place of sorted values (tables, values)."""

    def __init__(self, ordered: Tensor, costs: Tensor) -> None:
        self._ordered = ordered
        self._sums = torch.stack([_from_zero(costs * ordered**power) for power in range(3)])

    def settle(self, table: Tensor) -> Tensor:
        """A table (tables, 16) after Lloyd's steps; an entry that nothing is near stays where it is."""
        for _ in range(STEPS):
            mass, moment, _ = self._clusters(table)
            table = torch.where(mass > 0, moment / mass.clamp(min=1e-300), table).sort(-1).values
        return table

    def error(self, table: Tensor) -> Tensor:
        """The weighted squared error of each table."""
        mass, moment, square = self._clusters(table)
        loss: Tensor = (square - 2 * table * moment + table**2 * mass).sum(-1)
        return loss

    def _clusters(self, table: Tensor) -> Tensor:
        """What lies nearest to each entry: its weight, moment and square (3, tables, 16)."""
        borders = torch.searchsorted(self._ordered, ((table[:, 1:] + table[:, :-1]) / 2).contiguous())
        ends = torch.cat([torch.zeros_like(borders[:, :1]), borders, torch.full_like(borders[:, :1], self._last)], -1)
        return self._sums.gather(-1, ends.expand(3, -1, -1)).diff(dim=-1)

    @property
    def _last(self) -> int:
        return self._ordered.shape[-1]


def _from_zero(x: Tensor) -> Tensor:
    """Running sums with a zero in front."""
    return torch.cat([torch.zeros_like(x[:, :1]), x.cumsum(-1)], -1)

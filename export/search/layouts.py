"""From prices to a layout: the formats a backend offers each matrix, and the knapsack over them.

An item is a matrix, or several that a backend wants in one format. The gates of the delta rule stay float, as in every
scheme. What an option costs is its predicted divergence, plus its predicted time at a price where speed counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import ModuleType

from export.config import ModelConfig
from export.errors import BudgetError, QuantizationError
from export.schemes import FLOAT, KEEP_GATES, Format, Layout, check_format
from export.search.knapsack import Option, solve
from export.search.sensitivity import Candidates, Costs
from export.weights import EMBEDDING, HEAD, Unit, units

TABLES = (EMBEDDING, HEAD)


@dataclass(frozen=True, kw_only=True)
class Space:
    """All layouts of a model that a backend can hold."""

    config: ModelConfig
    backend: ModuleType
    context_length: int

    @property
    def candidates(self) -> dict[str, tuple[Format, ...]]:
        """The formats that each matrix may take, of those the backend offers."""
        return {unit.name: self._formats(unit) for unit in units(self.config)}

    @property
    def fixed_bytes(self) -> int:
        return int(self.backend.PACKING.fixed_bytes(self.config, self.context_length))

    def file_bytes(self, layout: Layout) -> int:
        return int(self.backend.estimate_bytes(layout, self.config, self.context_length))

    def tokens_per_s(self, layout: Layout) -> float:
        """Predicted decoding speed on the machine of the backend's table; a separate embedding is not multiplied."""
        return 1e9 / sum(self.unit_ns(unit, layout[unit.name]) for unit in units(self.config))

    def unit_ns(self, unit: Unit, form: Format) -> float:
        if unit.name == EMBEDDING and not self.config.tie_word_embeddings:
            return 0.0
        return float(self.backend.SPEED.unit_ns(unit, form))

    def groups(self) -> list[tuple[Unit, ...]]:
        """Matrices that share a format, in file order."""
        found: dict[str, list[Unit]] = {}
        for unit in units(self.config):
            found.setdefault(self._group(unit.name), []).append(unit)
        return [tuple(members) for members in found.values()]

    def _group(self, name: str) -> str:
        place, _, own = name.rpartition(".")
        tied = next((tie for tie in self.backend.TIED if own in tie), (own,))
        return f"{place}.{tied[0]}"

    def _formats(self, unit: Unit) -> tuple[Format, ...]:
        if any(fnmatchcase(unit.name, rule.pattern) for rule in KEEP_GATES):
            return (FLOAT,)
        return tuple(form for form in self.backend.OPTIONS if self._holds(unit, form))

    def _holds(self, unit: Unit, form: Format) -> bool:
        try:
            check_format(unit, form, "search")
        except QuantizationError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a layout shall be best at: predicted divergence within a budget, time at a price, only some formats."""

    budget_bytes: int
    nats_per_ms: float = 0.0
    pinned: Mapping[str, Format] | None = None  # by matrix
    coarsest_group: int | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """A layout and what is predicted of it."""

    layout: Layout
    predicted_kld: float
    file_bytes: int
    tokens_per_s: float


def best_layout(space: Space, costs: Costs, wish: Wish) -> Found:
    """The layout of least cost within the budget; BudgetError where nothing fits."""
    groups = space.groups()
    offered = [_offered(space, members, wish) for members in groups]
    items = [
        [_option(space, costs, members, form, wish) for form in forms]
        for members, forms in zip(groups, offered, strict=True)
    ]
    solution = solve(items, wish.budget_bytes - space.fixed_bytes)
    layout = {
        unit.name: offered[index][choice] for index, choice in enumerate(solution.choices) for unit in groups[index]
    }
    return describe(space, costs, layout)


def describe(space: Space, costs: Costs, layout: Layout) -> Found:
    """What is predicted of a layout."""
    return Found(
        layout=layout,
        predicted_kld=sum(price(costs, name, form) for name, form in layout.items()),
        file_bytes=space.file_bytes(layout),
        tokens_per_s=space.tokens_per_s(layout),
    )


def price(costs: Costs, unit: str, form: Format) -> float:
    """Predicted nats a token; floats cost nothing."""
    return 0.0 if form.is_float else costs[unit][form]


def smallest_layout(space: Space, wish: Wish | None = None) -> dict[str, Format]:
    """The layout that takes the fewest bytes, of those that a wish allows."""
    packing = space.backend.PACKING
    found: dict[str, Format] = {}
    for members in space.groups():
        forms = _offered(space, members, wish or Wish(budget_bytes=0))
        sizes = [sum(packing.unit_bytes(unit, form) for unit in members) for form in forms]
        found |= {unit.name: forms[sizes.index(min(sizes))] for unit in members}
    return found


def finest_layout(space: Space) -> dict[str, Format]:
    """The most faithful layout that is worth its bytes: all matrices in 8 bits as fine as the backend holds."""
    finest: Format = space.backend.FINEST[8]
    return {name: finest if finest in forms else forms[-1] for name, forms in space.candidates.items()}


def uniform_layouts(space: Space) -> dict[str, dict[str, Format]]:
    """Layouts that need no search, by name: one 4-bit format throughout, the same with 8-bit tables, all 8 bits.

    A group size that does not divide every matrix is left out.
    """
    found: dict[str, dict[str, Format]] = {"int8": finest_layout(space)}
    for form in space.backend.OPTIONS:
        plain = {name: form if form in forms else FLOAT for name, forms in space.candidates.items()}
        divides = all(form in forms or forms == (FLOAT,) for forms in space.candidates.values())
        if form.bits != 4 or not divides:
            continue
        tables = {name: space.backend.FINEST[8] for name in TABLES if name in plain}
        found |= {str(form): plain, f"{form}, int8 tables": plain | tables}
    return found


def _offered(space: Space, members: Sequence[Unit], wish: Wish) -> tuple[Format, ...]:
    """What all of a group can take and the wish allows."""
    candidates = [space._formats(unit) for unit in members]
    pinned = {wish.pinned[unit.name] for unit in members if wish.pinned and unit.name in wish.pinned}
    forms = tuple(
        form
        for form in candidates[0]
        if all(form in others for others in candidates)
        and (not pinned or form in pinned)
        and (form.bits != 4 or wish.coarsest_group is None or (form.group_size or 0) <= wish.coarsest_group)
    )
    if not forms:
        names = ", ".join(unit.name for unit in members)
        raise BudgetError(f"{names}: no format is left that the backend holds; allow more of them")
    return forms


def _option(space: Space, costs: Costs, members: Sequence[Unit], form: Format, wish: Wish) -> Option:
    cost = sum(price(costs, unit.name, form) for unit in members)
    ms = sum(space.unit_ns(unit, form) for unit in members) / 1e6
    num_bytes = sum(space.backend.PACKING.unit_bytes(unit, form) for unit in members)
    return Option(num_bytes=num_bytes, cost=cost + wish.nats_per_ms * ms)


def searched(candidates: Mapping[str, Sequence[Format]]) -> Candidates:
    """What needs a price: the quantized formats of each matrix that has a choice."""
    quantized = {name: tuple(form for form in forms if not form.is_float) for name, forms in candidates.items()}
    return {name: forms for name, forms in quantized.items() if forms}

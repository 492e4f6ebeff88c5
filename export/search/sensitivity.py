"""What holding one matrix in one format costs: a Fisher pass for models of any size, direct measurement for small ones.

To second order, changing weights by D changes the outputs' distribution by KL = 1/2 D' F D, F being the Fisher
information: the covariance of the gradients of log p(label) with labels drawn from the model's own distribution (Amari
1998). Labels of different positions are drawn independently and their gradients have mean zero, so the gradient G of a
whole sequence's summed loss will do: E[<D, G>^2] = D' F D, cross terms between tokens included. One backward pass a
sequence and draw therefore prices every format of every matrix at once, and the average is unbiased. The blocks
are worked off from the last to the first, one in memory, each recomputed from its stored inputs.

The table that makes logits is priced by the divergence itself, which costs one product; where it also serves as
embedding, the price of its other use is added.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from export.blocks import Block, BlockModel, Statistics
from export.gradients import POSITIONS_AT_ONCE, loss_gradients, pulled_back
from export.schemes import Format
from export.sequence import run_block

DRAWS = 3  # of labels a sequence: a draw costs a backward pass, and the price's error falls by their root
HEAD_TOKENS = 512  # positions on which the logits' table is priced
EMBEDDING = "embed_tokens"

Table = Callable[[str], Tensor]
Rounding = Callable[[str, Tensor, Format, Statistics | None], Tensor]
"""A unit's name, its float weight, a format, what is known of its inputs; to the weight that the format makes of it."""
Candidates = Mapping[str, Sequence[Format]]
Costs = Mapping[str, Mapping[Format, float]]  # by unit: nats of divergence a token
Progress = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to price: its blocks, its tables (rows, in_features) by unit name, and how a matrix is rounded."""

    model: BlockModel
    table: Table
    rounding: Rounding

    def rounded(self, unit: str, weight: Tensor, form: Format, statistics: Statistics | None) -> Tensor:
        """What a matrix becomes in a format; of a table, `weight` may be some rows."""
        return weight if form.is_float else self.rounding(unit, weight, form, statistics)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a float pass over tokens (N, T) leaves: each block's inputs, what enters `finish`, inputs' mean squares."""

    tokens: Tensor
    inputs: Mapping[str, Tensor]
    last: Tensor
    statistics: Mapping[str, Statistics]


@torch.no_grad()
def trace(subject: Subject, tokens: Tensor, progress: Progress) -> Trace:
    """Run the float model and keep what flows between its blocks."""
    model = subject.model
    hidden = model.embed(tokens)
    inputs: dict[str, Tensor] = {}
    statistics: dict[str, Statistics] = {}
    for name in model.block_names:
        squares: dict[tuple[str, ...], Tensor] = {}
        count = tokens.numel()

        def add(units: tuple[str, ...], x: Tensor, squares: dict[tuple[str, ...], Tensor] = squares) -> None:
            squares[units] = squares.get(units, torch.zeros(())) + x.float().square().sum(0)

        inputs[name] = hidden
        block = model.block(name)
        hidden = torch.cat([block.run(part, None, add) for part in hidden.split(1)])
        for units, total in squares.items():
            statistics |= dict.fromkeys(units, Statistics(mean_square=total / count))
        progress(name, count)
    final = model.finish(hidden).flatten(0, -2).float()
    statistics[model.head_unit] = Statistics(mean_square=final.square().mean(0))
    return Trace(tokens=tokens, inputs=inputs, last=hidden, statistics=statistics)


def fisher_costs(subject: Subject, seen: Trace, candidates: Candidates, seed: int, progress: Progress) -> Costs:
    """The predicted divergence of each matrix in each format, nats a token."""
    model, count = subject.model, seen.tokens.numel()
    generator = torch.Generator().manual_seed(seed)
    gradients = loss_gradients(model, subject.table(model.head_unit), seen.last, DRAWS, generator)
    costs: dict[str, dict[Format, float]] = {}
    for name in reversed(model.block_names):
        found, gradients = _block_costs(subject, model.block(name), seen, gradients, candidates)
        costs |= {unit: {form: cost / count for form, cost in own.items()} for unit, own in found.items()}
        progress(name, count)
    return costs | _table_costs(subject, seen, gradients, candidates)


def _block_costs(
    subject: Subject, block: Block, seen: Trace, gradients: Tensor, candidates: Candidates
) -> tuple[dict[str, dict[Format, float]], Tensor]:
    """Summed 1/2 <D, G>^2 over sequences, the mean over draws, and the gradients by the block's inputs."""
    weights = {unit: block.tensor(unit).detach().requires_grad_() for unit in block.shapes if unit in candidates}
    changes = {
        unit: _changes(subject, unit, weight.detach(), candidates[unit], seen.statistics.get(unit))
        for unit, weight in weights.items()
    }
    sums = {unit: torch.zeros(len(candidates[unit]), dtype=torch.float64) for unit in weights}
    before = torch.empty_like(gradients)
    for row, hidden in enumerate(seen.inputs[block.name]):
        for draw, (by_input, *by_weight) in enumerate(pulled_back(block, hidden, gradients[:, row], weights)):
            before[draw, row] = by_input[0]
            for unit, one in zip(weights, by_weight, strict=True):
                sums[unit] += (changes[unit] @ one.flatten()).double().square() / (2 * DRAWS)
    found = {unit: dict(zip(candidates[unit], total.tolist(), strict=True)) for unit, total in sums.items()}
    return found, before


def _changes(
    subject: Subject, unit: str, weight: Tensor, forms: Sequence[Format], statistics: Statistics | None
) -> Tensor:
    """What each format does to a matrix (formats, weights); filled in place, for it is the largest thing in memory."""
    found = torch.empty(len(forms), weight.numel())
    for row, form in enumerate(forms):
        torch.sub(subject.rounded(unit, weight, form, statistics).flatten(), weight.flatten(), out=found[row])
    return found


@torch.no_grad()
def _table_costs(
    subject: Subject, seen: Trace, gradients: Tensor, candidates: Candidates
) -> dict[str, dict[Format, float]]:
    """The tables: divergence of the logits where one makes them, and the Fisher price where one is the embedding."""
    head_unit = subject.model.head_unit
    costs: dict[str, dict[Format, float]] = {}
    for unit in dict.fromkeys((EMBEDDING, head_unit)):
        if unit not in candidates:
            continue
        table = subject.table(unit)
        costs[unit] = {}
        for form in candidates[unit]:
            rounded = subject.rounded(unit, table, form, seen.statistics.get(unit))
            cost = _head_cost(subject, seen, table, rounded) if unit == head_unit else 0.0
            if unit == EMBEDDING:
                change = (rounded - table)[seen.tokens]  # (N, T, C)
                moved = (change * gradients).sum((2, 3)).double().square()  # (draws, N)
                cost += float(moved.mean(0).sum()) / 2 / seen.tokens.numel()
            costs[unit][form] = cost
    return costs


def _head_cost(subject: Subject, seen: Trace, table: Tensor, rounded: Tensor) -> float:
    """Mean divergence of the logits' distribution where only the head differs."""
    final = subject.model.finish(seen.last).flatten(0, 1)
    some = final[:: max(1, final.shape[0] // HEAD_TOKENS)]
    return sum(
        float(divergence(part @ table.T, part @ rounded.T).sum()) for part in some.split(POSITIONS_AT_ONCE)
    ) / len(some)


def divergence(base: Tensor, other: Tensor) -> Tensor:
    """KL(base || other) of each row of logits, nats."""
    expected = base.log_softmax(-1)
    return functional.kl_div(other.log_softmax(-1), expected, reduction="none", log_target=True).sum(-1)


@torch.no_grad()
def direct_costs(subject: Subject, seen: Trace, candidates: Candidates, progress: Progress) -> Costs:
    """The measured divergence of each matrix in each format, nats a token: a pass over what follows for each."""
    blocks = [subject.model.block(name) for name in subject.model.block_names]  # all in memory: for small models
    costs: dict[str, dict[Format, float]] = {}
    for index, block in enumerate(blocks):
        for unit in (unit for unit in block.shapes if unit in candidates):
            weight = block.tensor(unit)
            costs[unit] = {}
            for form in candidates[unit]:
                rounded = subject.rounded(unit, weight, form, seen.statistics.get(unit))
                hidden = run_block(block, seen.inputs[block.name], {unit: rounded})
                for later in blocks[index + 1 :]:
                    hidden = run_block(later, hidden, None)
                costs[unit][form] = _divergence_behind(subject, seen, hidden)
            progress(unit, seen.tokens.numel())
    return costs


def _divergence_behind(subject: Subject, seen: Trace, hidden: Tensor) -> float:
    head = subject.table(subject.model.head_unit)
    base, other = (subject.model.finish(one).flatten(0, 1) for one in (seen.last, hidden))
    pairs = zip(base.split(POSITIONS_AT_ONCE), other.split(POSITIONS_AT_ONCE), strict=True)
    return sum(float(divergence(one @ head.T, two @ head.T).sum()) for one, two in pairs) / len(base)

"""What methods share that judge one matrix at a time: statistics of its inputs, and the loop over a block's units."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from export.blocks import BlockResult, BlockTask, Statistics
from export.quantize import Codes
from export.schemes import Format
from export.sequence import SEQUENCES_AT_ONCE, check_finite

Quantize = Callable[[Tensor, Format, Statistics | None], Codes]


def by_matrix(task: BlockTask, quantize: Quantize, *, gram: bool = False) -> BlockResult:
    """Quantize every unit of a block on its own; without inputs in the task, without statistics."""
    statistics = {} if task.real_inputs is None else block_statistics(task, gram=gram)
    codes = {
        unit: quantize(task.block.tensor(unit), form, statistics.get(unit))
        for unit, form in task.formats.items()
        if not form.is_float
    }
    return BlockResult(codes=codes)


@torch.no_grad()
def block_statistics(
    task: BlockTask, *, gram: bool, replaced: Mapping[str, Tensor] | None = None
) -> dict[str, Statistics]:
    """Statistics of every unit's inputs, by unit; units that read the same input share one object.

    Inputs are those that the quantized blocks before really give, the block itself being float but for `replaced`.
    """
    assert task.real_inputs is not None
    sums = _Sums(gram=gram)
    for start in range(0, task.real_inputs.shape[0], SEQUENCES_AT_ONCE):
        part = slice(start, start + SEQUENCES_AT_ONCE)
        found = task.block.run(task.real_inputs[part], replaced, sums.add_real)
        check_finite(task.block.name, found, start)
    return sums.statistics()


class _Sums:
    """Running sums over batches, by the units that share an input."""

    def __init__(self, *, gram: bool) -> None:
        self._gram = gram
        self._tokens: dict[tuple[str, ...], int] = {}
        self._squares: dict[tuple[str, ...], Tensor] = {}
        self._grams: dict[tuple[str, ...], Tensor] = {}

    def add_real(self, units: tuple[str, ...], x: Tensor) -> None:
        x = x.flatten(0, -2).float()
        self._tokens[units] = self._tokens.get(units, 0) + x.shape[0]
        self._squares[units] = self._squares.get(units, torch.zeros(())) + x.square().sum(0)
        if self._gram:
            self._grams[units] = self._grams.get(units, torch.zeros(())) + x.T @ x

    def statistics(self) -> dict[str, Statistics]:
        found: dict[str, Statistics] = {}
        for units, tokens in self._tokens.items():
            gram = self._grams.get(units)
            shared = Statistics(
                mean_square=self._squares[units] / tokens,
                gram=None if gram is None else gram / tokens,
            )
            found |= dict.fromkeys(units, shared)
        return found

"""What methods share that judge one matrix at a time: statistics of its inputs, and the loop over a block's units."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from export.blocks import BlockResult, BlockTask, Statistics
from export.quantize import Codes
from export.schemes import Format
from export.sequence import SEQUENCES_AT_ONCE, check_finite

Quantize = Callable[[Tensor, Format, Statistics | None], Codes]


def by_matrix(task: BlockTask, quantize: Quantize, *, gram: bool = False, cross: bool = False) -> BlockResult:
    """Quantize every unit of a block on its own; without inputs in the task, without statistics."""
    statistics = {} if task.real_inputs is None else block_statistics(task, gram=gram, cross=cross)
    codes = {
        unit: quantize(task.block.tensor(unit), form, statistics.get(unit))
        for unit, form in task.formats.items()
        if not form.is_float
    }
    return BlockResult(codes=codes)


@torch.no_grad()
def block_statistics(
    task: BlockTask, *, gram: bool, cross: bool, replaced: Mapping[str, Tensor] | None = None
) -> dict[str, Statistics]:
    """Statistics of every unit's inputs, by unit; units that read the same input share one object.

    Inputs are those that the quantized blocks before really give, the block itself being float but for `replaced`.
    """
    assert task.real_inputs is not None
    sums = _Sums(gram=gram, cross=cross)
    for start in range(0, task.real_inputs.shape[0], SEQUENCES_AT_ONCE):
        part = slice(start, start + SEQUENCES_AT_ONCE)
        found = task.block.run(task.real_inputs[part], replaced, sums.add_real)
        check_finite(task.block.name, found, start)
        if cross:
            assert task.float_inputs is not None
            task.block.run(task.float_inputs[part], None, sums.add_float)
    return sums.statistics()


class _Sums:
    """Running sums over batches, by the units that share an input."""

    def __init__(self, *, gram: bool, cross: bool) -> None:
        self._gram, self._cross = gram, cross
        self._tokens: dict[tuple[str, ...], int] = {}
        self._squares: dict[tuple[str, ...], Tensor] = {}
        self._grams: dict[tuple[str, ...], Tensor] = {}
        self._crosses: dict[tuple[str, ...], Tensor] = {}
        self._real: dict[tuple[str, ...], Tensor] = {}

    def add_real(self, units: tuple[str, ...], x: Tensor) -> None:
        x = x.flatten(0, -2).float()
        self._tokens[units] = self._tokens.get(units, 0) + x.shape[0]
        self._squares[units] = self._squares.get(units, torch.zeros(())) + x.square().sum(0)
        if self._gram:
            self._grams[units] = self._grams.get(units, torch.zeros(())) + x.T @ x
        if self._cross:
            self._real[units] = x  # waits for the float inputs of the same tokens

    def add_float(self, units: tuple[str, ...], x: Tensor) -> None:
        real = self._real.pop(units)
        self._crosses[units] = self._crosses.get(units, torch.zeros(())) + x.flatten(0, -2).float().T @ real

    def statistics(self) -> dict[str, Statistics]:
        found: dict[str, Statistics] = {}
        for units, tokens in self._tokens.items():
            gram, cross = self._grams.get(units), self._crosses.get(units)
            shared = Statistics(
                mean_square=self._squares[units] / tokens,
                gram=None if gram is None else gram / tokens,
                cross=None if cross is None else cross / tokens,
            )
            found |= dict.fromkeys(units, shared)
        return found

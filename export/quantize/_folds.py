"""Making channels larger where they are born and smaller where they are read, or the other way round: `Fold` applied.

A product does not change when a column of its matrix is multiplied by s and what that column reads is divided by s.
What changes is how well the grid fits: a column that matters is rounded finer when it is larger than its neighbours
(AWQ), and an input that is far larger than its neighbours is rounded better when it is smaller (SmoothQuant).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from export.blocks import Block, Fold

Tensors = dict[str, Tensor]


def read_columns(fold: Fold, factors: Tensor) -> Tensor:
    """Each source channel's factor (channels,) at every column of a reader that carries it (in_features,)."""
    if fold.group:
        return factors.view(-1, fold.group).repeat_interleave(fold.copies, dim=0).flatten()
    return factors.repeat(fold.repeat)


def source_channels(fold: Fold, columns: Tensor) -> Tensor:
    """A figure of each column of a reader (in_features,), averaged over the columns that one channel goes to."""
    if fold.group:
        return columns.view(-1, fold.copies, fold.group).mean(1).flatten()
    return columns.view(fold.repeat, -1).mean(0)


def fold(block: Block, one: Fold, factors: Tensor, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors of a block that change when readers' columns grow by `factors` (channels,) and the source shrinks.

    `tensors` are those already changed by folds before, and take precedence over the block's own.
    """

    def now(name: str) -> Tensor:
        return tensors[name] if name in tensors else block.tensor(name)

    source = now(one.source)
    if one.kind == "one_plus":
        shrunk = (1 + source) / factors - 1
    elif one.kind == "norm":
        shrunk = source / factors
    else:
        shrunk = source / factors.unsqueeze(1)
    columns = read_columns(one, factors)
    return {one.source: shrunk} | {reader: now(reader) * columns for reader in one.readers}


def num_channels(block: Block, one: Fold) -> int:
    return int(block.tensor(one.source).shape[0])


def normalized(factors: Tensor) -> Tensor:
    """Factors of geometric mean 1, within bounds that float32 and bfloat16 scales bear easily."""
    centred = factors / factors.log().mean().exp()
    return torch.where(centred.isfinite(), centred, torch.ones(())).clamp(1 / LARGEST, LARGEST)


LARGEST = 64.0

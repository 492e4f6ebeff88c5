"""awq_gptq: fold first, then round with errors spread: the two repair different losses and their gains add up.

Folding evens out channels that are far larger than their neighbours, which no rounding can do; GPTQ uses how inputs go
together, which folding does not look at.
"""

from torch import Tensor

from export.blocks import BlockResult, BlockTask, Statistics
from export.quantize import Codes
from export.quantize._least_squares import fit, plain_target
from export.quantize._matrix import block_statistics
from export.quantize._search import search_scales
from export.quantize._smooth import Smoothed, smooth_for_weights
from export.schemes import Format

SUMMARY = "awq's folds, then gptq's rounding: a little text, minutes at 0.8B"
NEEDS_CALIBRATION = True
NEEDS_FLOAT_INPUTS = False


def quantize_block(task: BlockTask) -> BlockResult:
    """Fold, then fit every matrix to what its inputs are after the folds."""
    return round_folded(task, fold_block(task))


def fold_block(task: BlockTask) -> Smoothed:
    """The block after its folds."""
    return smooth_for_weights(task, block_statistics(task, gram=True))


def round_folded(task: BlockTask, folded: Smoothed) -> BlockResult:
    """Codes of every matrix as it is after the folds."""
    return folded.rounded(task, _quantize)


def quantize_table(weight: Tensor, form: Format, statistics: Statistics | None) -> Codes:
    """The weighted search: a table has no fold, and many rows for a gram matrix."""
    return search_scales(weight, form, None if statistics is None else statistics.mean_square)


def _quantize(weight: Tensor, form: Format, statistics: Statistics | None) -> Codes:
    assert statistics is not None
    assert statistics.gram is not None
    return fit(plain_target(weight, statistics.gram), form)

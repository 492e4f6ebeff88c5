"""awq: channels that matter are made larger before rounding, by folding factors into norms and neighbours.

Lin et al. 2024, over the folds that an architecture allows (`Block.folds`), with both powers searched; then the
weighted search for scales. Nothing is left for run time: the factors are in the norms and in the matrices before.
"""

from torch import Tensor

from export.blocks import BlockResult, BlockTask, Statistics
from export.quantize import Codes
from export.quantize._matrix import block_statistics
from export.quantize._search import search_scales
from export.quantize._smooth import smooth_for_weights
from export.schemes import Format

SUMMARY = "important channels made larger through norms and neighbours: a little text, minutes at 0.8B"
NEEDS_CALIBRATION = True
NEEDS_FLOAT_INPUTS = False


def quantize_block(task: BlockTask) -> BlockResult:
    """Fold, then search every matrix's scales."""
    smoothed = smooth_for_weights(task, block_statistics(task, gram=False))
    return smoothed.rounded(task, quantize_table)


def quantize_table(weight: Tensor, form: Format, statistics: Statistics | None) -> Codes:
    """The weighted search: a table has no fold."""
    return search_scales(weight, form, None if statistics is None else statistics.mean_square)

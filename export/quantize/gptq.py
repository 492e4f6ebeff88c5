"""gptq: codes of least output error, each rounding made up for by the columns still to come.

Frantar et al. 2023, with the order of falling activation and groups that stay where they are, so that nothing has to be
permuted at run time; then the scales are solved for and the codes descended on once more (`_least_squares`).
"""

from torch import Tensor

from export.blocks import BlockResult, BlockTask, Statistics
from export.quantize import Codes
from export.quantize._least_squares import fit, plain_target
from export.quantize._matrix import by_matrix
from export.quantize._search import search_scales
from export.schemes import Format

SUMMARY = "least output error, each rounding made up for by later columns: a little text, minutes at 0.8B"
NEEDS_CALIBRATION = True
NEEDS_FLOAT_INPUTS = False


def quantize_block(task: BlockTask) -> BlockResult:
    """Every matrix on its own, inputs from the quantized blocks before."""
    return by_matrix(task, _quantize, gram=True)


def quantize_table(weight: Tensor, form: Format, statistics: Statistics | None) -> Codes:
    """Rows of a large vocabulary share few statistics worth a gram matrix: the weighted search."""
    return search_scales(weight, form, None if statistics is None else statistics.mean_square)


def _quantize(weight: Tensor, form: Format, statistics: Statistics | None) -> Codes:
    assert statistics is not None
    assert statistics.gram is not None
    return fit(plain_target(weight, statistics.gram), form)

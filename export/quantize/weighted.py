"""weighted: the scale of least squared error of a matrix's *output*, each input weighted by its mean square.

What a rounding error costs depends on what it is multiplied with: E[(w - w')^2 x^2]. The mean squares come from running
the blocks quantized so far over a little text (export/calibration). The same idea as llama.cpp's importance matrix and
auto-round's "opt-RTN"; inputs are taken as uncorrelated, which GPTQ does not.
"""

from torch import Tensor

from export.blocks import BlockResult, BlockTask, Statistics
from export.quantize import Codes
from export.quantize._matrix import by_matrix
from export.quantize._search import search_scales
from export.schemes import Format

SUMMARY = "least squared error weighted by measured inputs: a little text, a few minutes at 0.8B"
NEEDS_CALIBRATION = True
NEEDS_FLOAT_INPUTS = False


def quantize_block(task: BlockTask) -> BlockResult:
    """Every matrix on its own."""
    return by_matrix(task, quantize_table)


def quantize_table(weight: Tensor, form: Format, statistics: Statistics | None) -> Codes:
    """Quantize float32 `weight` (rows, in_features)."""
    return search_scales(weight, form, None if statistics is None else statistics.mean_square)

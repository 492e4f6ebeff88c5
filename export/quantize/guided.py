"""guided: codes of least loss of the model's predictions, by the gradients at each matrix's outputs.

A layer's own output error, which awq_gptq makes small, treats all outputs alike; the model does not. Here an error is
weighed by what it does to the predictions (`_curvature`), and codes are moved with the rows of a matrix seen together
(`_kronecker`), from awq_gptq's folds and a rounding that spreads errors over rows as well (`_both_sides`), or
awq_gptq's own where that is better. What YAQA (Tseng et al. 2025) and GuidedQuant (Kim et al. 2025)
do, with scales and codes of the usual grid.
"""

from functools import partial

from torch import Tensor

from export.blocks import BlockResult, BlockTask
from export.quantize import Codes
from export.quantize._both_sides import spread_errors
from export.quantize._curvature import Curvature, block_curvature
from export.quantize._kronecker import improve, loss, metric_of
from export.quantize._least_squares import Target, fit, plain_target
from export.quantize._smooth import Smoothed
from export.quantize.awq_gptq import fold_block
from export.quantize.awq_gptq import quantize_table as quantize_table

SUMMARY = "awq-gptq, then codes moved by the predictions' gradients: text, several times awq-gptq's time"
NEEDS_CALIBRATION = True
NEEDS_FLOAT_INPUTS = False  # the float model's flow brings them along with the gradients
NEEDS_GRADIENTS = True

GUIDED_BITS = 4  # 8 bits lose so little that gradients gain nothing


def quantize_block(task: BlockTask) -> BlockResult:
    """Fold, then fit every matrix to what its errors do to the predictions."""
    folded = fold_block(task)
    units = [unit for unit, form in task.formats.items() if not form.is_float]
    curvature = block_curvature(task, [unit for unit in units if task.formats[unit].bits <= GUIDED_BITS])
    return folded.result({unit: _quantize(task, folded, unit, curvature.pop(unit, None)) for unit in units})


def _quantize(task: BlockTask, folded: Smoothed, unit: str, curvature: Curvature | None) -> Codes:
    form, gram = task.formats[unit], folded.statistics[unit].gram
    assert gram is not None
    weight = folded.tensors.get(unit, task.block.tensor(unit))
    if curvature is None:
        return fit(plain_target(weight, gram), form)
    inputs = _divided(curvature.inputs, folded.columns.get(unit))
    outputs = _divided(curvature.outputs, folded.rows.get(unit))
    metric = metric_of(weight, inputs, gram, outputs)
    by_row = fit(Target(wanted=weight, gram=metric.inputs), form)
    by_both = spread_errors(metric, by_row.scales, form)
    return improve(metric, min(by_row, by_both, key=partial(loss, metric)), form)


def _divided(moment: Tensor, factors: Tensor | None) -> Tensor:
    """A second moment of channels that are `factors` times smaller, as a row or a column of them."""
    if factors is None:
        return moment
    return moment / factors.flatten() / factors.flatten().unsqueeze(1)

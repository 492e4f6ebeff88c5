"""guided: codes of least loss of the model's predictions, by the gradients at each matrix's outputs.

A layer's own output error, which awq_gptq makes small, treats all outputs alike; the model does not. Here an error is
weighed by what it does to the predictions (export/curvature.py), and codes are moved with the rows of a matrix seen
together (`_kronecker`), from awq_gptq's folds and a rounding that spreads errors over rows as well (`_both_sides`), or
awq_gptq's own where that is better. What YAQA (Tseng et al. 2025) and GuidedQuant (Kim et al. 2025) do, with scales and
codes of the usual grid.
"""

from functools import partial

import torch
from torch import Tensor

from export.blocks import BlockResult, BlockTask, Curvature
from export.quantize import Codes, rtn
from export.quantize._both_sides import expected_loss, spread_errors
from export.quantize._kronecker import improve, loss, metric_of
from export.quantize._least_squares import Target, fit, plain_target
from export.quantize._smooth import Smoothed
from export.quantize.awq_gptq import fold_block
from export.quantize.awq_gptq import quantize_table as quantize_table
from export.schemes import Format

SUMMARY = "awq-gptq, then codes moved by the predictions' gradients: text, several times awq-gptq's time"
NEEDS_CALIBRATION = True
NEEDS_FLOAT_INPUTS = False
NEEDS_GRADIENTS = True

REAL_TOKENS = 262_144  # for the plain moments; the curvature, which is noisier, sees all the text
GUIDED_BITS = 4  # 8 bits lose so little that gradients gain nothing


def quantize_block(task: BlockTask) -> BlockResult:
    """Fold, then fit every matrix to what its errors do to the predictions."""
    folded = fold_block(task)
    units = [unit for unit, form in task.formats.items() if not form.is_float]
    assert task.curvature is not None
    curvature = task.curvature.of(task.block, [unit for unit in units if task.formats[unit].bits <= GUIDED_BITS])
    return folded.result({unit: _quantize(task, folded, unit, curvature.pop(unit, None)) for unit in units})


def expected_divergence(
    weight: Tensor, curvature: Curvature, form: Format, num_tokens: int, folds: tuple[Tensor, Tensor] | None = None
) -> float:
    """About what a matrix (out, in) will cost in a format, in nats a token, before it is quantized.

    `num_tokens` are those that the curvature has counted; `folds` (rows, 1) and (1, in) by how much folds will make the
    weights larger. The grids are those of the largest values: better ones and descent save a quarter of this at 4 bits.
    """
    rows, columns = (torch.ones(1, 1), torch.ones(1, 1)) if folds is None else folds
    wanted = weight * rows * columns
    inputs, outputs = _divided(curvature.inputs, columns), _divided(curvature.outputs, rows)
    metric = metric_of(wanted, inputs, inputs, outputs)
    carried = float(curvature.inputs.trace())  # the sum of |g|^2 |x|^2 over tokens
    unit = float(inputs.diagonal().mean() * outputs.diagonal().mean()) / 2  # of the metric's loss
    scales = rtn.quantize_table(wanted, form, None).scales
    return 0.5 * unit * expected_loss(metric, scales) / (carried * num_tokens)


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
    found = improve(metric, min(by_row, by_both, key=partial(loss, metric)), form)
    again = improve(metric, spread_errors(metric, found.scales, form), form)  # its scales are better than those before
    return min(found, again, key=partial(loss, metric))


def _divided(moment: Tensor, factors: Tensor | None) -> Tensor:
    """A second moment of channels that are `factors` times smaller, as a row or a column of them."""
    if factors is None:
        return moment
    return moment / factors.flatten() / factors.flatten().unsqueeze(1)

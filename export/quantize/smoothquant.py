"""smoothquant: for 8-bit activations, inputs that are far larger than their neighbours are made smaller by folds.

Xiao et al. 2023. One step serves all inputs that are rounded together, so a channel of thirty times the others' size
leaves those a thirtieth of the codes. Its size moves into the weights, which are rounded with a scale of their own. How
far it moves is searched per fold on the error of the readers' outputs with weights and inputs both rounded.
"""

import torch
from torch import Tensor

from export.blocks import BlockResult, BlockTask, Fold, Statistics
from export.operators import dequantize, quantize_activation
from export.quantize import Codes
from export.quantize._folds import normalized, read_columns, source_channels
from export.quantize._matrix import block_statistics
from export.quantize._search import search_scales
from export.quantize._smooth import Smoothed
from export.schemes import Format

SUMMARY = (
    "large inputs made smaller through norms and neighbours, for 8-bit activations: a little text, minutes at 0.8B"
)
NEEDS_CALIBRATION = True
NEEDS_FLOAT_INPUTS = False

POWERS = (0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0)  # how much of an input's size moves into the weights
JUDGED_TOKENS = 512
ROUNDING = "int8_token"  # the coarsest that a runtime uses: one step for a whole token


def quantize_block(task: BlockTask) -> BlockResult:
    """Fold for the inputs, then search every matrix's scales."""
    statistics = block_statistics(task, gram=False)
    inputs = _inputs(task)
    smoothed = Smoothed(tensors={}, statistics=statistics)
    for one in task.block.folds:
        smoothed = _smoothed(task, one, inputs[one.readers[0]], smoothed)
    return smoothed.rounded(task, quantize_table)


def quantize_table(weight: Tensor, form: Format, statistics: Statistics | None) -> Codes:
    """The weighted search: a table has no fold."""
    return search_scales(weight, form, None if statistics is None else statistics.mean_square)


@torch.no_grad()
def _inputs(task: BlockTask) -> dict[str, Tensor]:
    """Some tokens' inputs of every unit (tokens, in_features), from sequences spread over the calibration."""
    assert task.real_inputs is not None
    found: dict[str, Tensor] = {}

    def keep(units: tuple[str, ...], x: Tensor) -> None:
        picked = x[:: max(1, len(x) // JUDGED_TOKENS)].clone()
        found.update(dict.fromkeys(units, picked))

    task.block.run(task.real_inputs[:: max(1, len(task.real_inputs) // 4)][:4], None, keep)
    return found


@torch.no_grad()
def _smoothed(task: BlockTask, one: Fold, inputs: Tensor, before: Smoothed) -> Smoothed:
    """The block with this fold as far as it pays."""
    formats = {unit: task.formats[unit] for unit in one.readers if not task.formats[unit].is_float}
    weights = {unit: task.block.tensor(unit) for unit in formats}
    if not formats:
        return before
    wanted = {unit: inputs @ weight.T for unit, weight in weights.items()}
    sizes = source_channels(one, inputs.abs().amax(0)).clamp(min=1e-6)
    columns = torch.stack([weight.abs().amax(0) for weight in weights.values()]).amax(0)
    magnitudes = source_channels(one, columns).clamp(min=1e-6)
    best, least = torch.ones_like(sizes), float("inf")
    for power in POWERS:
        factors = normalized(sizes**power / magnitudes ** (1 - power)) if power else torch.ones_like(sizes)
        spread = read_columns(one, factors)
        rounded = quantize_activation(inputs / spread, ROUNDING, inputs.shape[1])
        error = 0.0
        for unit, form in formats.items():
            found = search_scales(weights[unit] * spread, form, before.statistics[unit].mean_square / spread**2)
            output = rounded @ dequantize(found.codes, found.scales).T
            error += float((output - wanted[unit]).square().sum())
        if error < least:
            best, least = factors, error
    return before.after(task.block, one, best)

"""Quantization methods: float weights in, codes and scales out, no backend in sight; one file a method.

A method's module holds

* `SUMMARY`, the line `--list` shows, and `NEEDS_CALIBRATION`: whether it learns from text;
* `quantize_block(task) -> BlockResult`: codes of one decoder layer's matrices (`export.blocks`);
* `quantize_table(weight, form, statistics) -> Codes`: some rows of the embedding or the head. `statistics` are of what
  the head reads behind the quantized layers (a tied table has them too), None where nothing was measured;
* where it applies, `NEEDS_FLOAT_INPUTS = False`: a calibrated method that never looks at `task.float_inputs` is spared
  the float model's run; `NEEDS_GRADIENTS = True`: the task shall hold moments of inputs and gradients
  (export/curvature.py); `REAL_TOKENS`: how much of the text the task's inputs are of, at most, which are held in
  memory; and `TABLE_NEEDS_GRAM = True`: the statistics of tables shall hold the mean outer product.

All keep the numeric contract of shared codes: symmetric, positive scales that bfloat16 represents exactly. Results are
cached by the method's name and source, so an edit needs no version number.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """int8 codes (rows, in_features) and float32 scales (rows, groups), exactly representable in bfloat16."""

    codes: Tensor
    scales: Tensor


def bfloat16_scales(scales: Tensor) -> Tensor:
    """Scales rounded to what bfloat16 holds, kept normal and positive: an all-zero group would divide by zero."""
    return scales.clamp(min=TINY).to(torch.bfloat16).float()


TINY = 2.0**-64  # far below any weight, far above bfloat16's smallest normal number

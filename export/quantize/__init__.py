"""Quantization methods: float matrix in, codes and scales out, no backend in sight; one file a method.

A method's module holds `SUMMARY`, `NEEDS_CALIBRATION` and `quantize(weight, form, importance)`, `importance` being the
mean square of each input, or None where nothing was measured. All keep the numeric contract of shared codes:
symmetric, positive scales that bfloat16 represents exactly.
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

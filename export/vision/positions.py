"""Where patches stand: rows of the learned grid to mix, and rotary tables, for any grid of patches.

Patches come in blocks of merge_size x merge_size, which the merger makes one token of, so row and column of the i-th
patch follow from its block. The learned grid (48 x 48 in the family) is resampled bilinearly with aligned corners, as
transformers' `get_vision_interpolation_indices_and_weights` does, in the same order of float32 operations.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from export.vision.config import VisionConfig


@dataclass(frozen=True, kw_only=True)
class PatchPositions:
    """For N patches: rows int64 (N, 4) of the learned grid and their weights (N, 4); cos and sin (N, head_dim / 2)."""

    rows: Tensor
    weights: Tensor
    cos: Tensor
    sin: Tensor


def patch_positions(config: VisionConfig, height: int, width: int) -> PatchPositions:
    """The positions of a grid of `height` x `width` patches, both multiples of merge_size."""
    merge = config.merge_size
    index = torch.arange(height * width)
    block = index // merge**2
    row = block // (width // merge) * merge + index // merge % merge
    column = block % (width // merge) * merge + index % merge
    row_taps, row_weights = _taps(row, height, config.side)
    column_taps, column_weights = _taps(column, width, config.side)
    rows = (row_taps.unsqueeze(2) * config.side + column_taps.unsqueeze(1)).flatten(1)
    weights = (row_weights.unsqueeze(2) * column_weights.unsqueeze(1)).flatten(1)
    frequencies = rotary_frequencies(config)
    angles = torch.cat([row.float().unsqueeze(1) * frequencies, column.float().unsqueeze(1) * frequencies], dim=1)
    return PatchPositions(rows=rows, weights=weights, cos=angles.cos(), sin=angles.sin())


def resampling(size: int, side: int) -> Tensor:
    """The weights (size, side) that resample a learned axis of `side` places to `size`: `patch_positions` as a matrix.

    For a grid of fixed size, rows times table times columns is cheaper than four gathers a patch.
    """
    taps, weights = _taps(torch.arange(size), size, side)
    return torch.zeros(size, side).scatter_add_(1, taps, weights)


def rotary_frequencies(config: VisionConfig) -> Tensor:
    """Frequencies (head_dim / 4,) of a row or a column."""
    spatial = config.head_dim // 2
    exponents = torch.arange(0, spatial, 2, dtype=torch.float32) / spatial
    return torch.reciprocal(config.rope_theta**exponents)


def _taps(index: Tensor, size: int, side: int) -> tuple[Tensor, Tensor]:
    """The two neighbours on a learned axis of `side` places, and their weights, each (N, 2)."""
    place = index.float() * (side - 1) / max(size - 1, 1)
    low = place.floor()
    part = place - low
    taps = torch.stack([low.long(), (low.long() + 1).clamp(max=side - 1)], dim=1)
    return taps, torch.stack([1 - part, part], dim=1)

"""Operators that give elements another place or shape, and change none."""

import torch
from torch import Tensor
from torch.nn import functional as F

from runtimes.mil.errors import ProgramError, UnsupportedProgramError
from runtimes.mil.operators.kinds import Ints, Stored, StoredTensors


def concat(values: StoredTensors, axis: int, interleave: bool = False) -> Tensor:
    """A scalar counts as a list of one, as converters write the corners of a slice."""
    values = [value.reshape(1) if value.dim() == 0 else value for value in values]
    if not interleave:
        return torch.cat(values, axis)
    at = axis % values[0].dim()
    return torch.stack(values, at + 1).flatten(at, at + 1)


def depth_to_space(x: Stored, block_size: int) -> Tensor:
    """Channels (b, b, C) to places; `pixel_shuffle` has them as (C, b, b)."""
    B, C, H, W = x.shape
    parts = x.reshape(B, block_size, block_size, C // block_size**2, H, W)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(B, C // block_size**2, H * block_size, W * block_size)


def expand_dims(x: Stored, axes: Ints) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def flatten2d(x: Stored, axis: int = 1) -> Tensor:
    at = axis + x.dim() if axis < 0 else axis
    rows = 1
    for size in x.shape[:at]:
        rows *= size
    return x.reshape(rows, -1)


def identity(x: Stored) -> Tensor:
    return x


def pad(x: Stored, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """`pad` holds before and after of the last axes, the last axis last."""
    pairs = [(pad[2 * axis], pad[2 * axis + 1]) for axis in range(len(pad) // 2)]
    if mode == "constant":
        return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=constant_val)
    if mode not in ("reflect", "replicate"):
        raise UnsupportedProgramError(f"pad has no mode {mode!r}")
    for axis, (before, after) in enumerate(pairs, start=x.dim() - len(pairs)):
        x = x.index_select(axis, _mirrored(x.shape[axis], before, after, mode))
    return x


def pixel_shuffle(x: Stored, upscale_factor: int) -> Tensor:
    return F.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(x: Stored, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(x, downscale_factor)


def reshape(x: Stored, shape: Ints) -> Tensor:
    """0 takes over a size of `x`, counted from the last axis; -1 is what is left."""
    sizes = [1] * len(shape) + list(x.shape)
    wanted = [sizes[at - len(shape)] if size == 0 else size for at, size in enumerate(shape)]
    return x.reshape(wanted)


def reverse(x: Stored, axes: Ints | None = None) -> Tensor:
    return torch.flip(x, tuple(range(x.dim())) if axes is None else axes)


def space_to_depth(x: Stored, block_size: int) -> Tensor:
    B, C, H, W = x.shape
    parts = x.reshape(B, C, H // block_size, block_size, W // block_size, block_size)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(B, C * block_size**2, H // block_size, W // block_size)


def split(x: Stored, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return torch.split(x, list(split_sizes), axis)
    if num_splits is None or x.shape[axis] % num_splits:
        raise ProgramError(f"cannot split {x.shape[axis]} places into {num_splits} equal parts")
    return torch.split(x, x.shape[axis] // num_splits, axis)


def squeeze(x: Stored, axes: Ints | None = None) -> Tensor:
    if axes is None:
        return x.squeeze()
    if any(x.shape[axis] != 1 for axis in axes):
        raise ProgramError(f"cannot squeeze axes {axes} of {tuple(x.shape)}: not all are 1")
    return x.squeeze(axes)


def stack(values: StoredTensors, axis: int) -> Tensor:
    return torch.stack(values, axis)


def tile(x: Stored, reps: Ints) -> Tensor:
    return x.repeat(reps)


def transpose(x: Stored, perm: Ints) -> Tensor:
    return x.permute(perm)


def _mirrored(size: int, before: int, after: int, mode: str) -> Tensor:
    """The places along an axis from which a padded one is read."""
    places = torch.arange(-before, size + after)
    if mode == "replicate":
        return places.clamp(0, size - 1)
    if max(before, after) >= size:
        raise ProgramError(f"cannot reflect {max(before, after)} places of an axis of {size}")
    return (size - 1) - (places.abs() - (size - 1)).abs()

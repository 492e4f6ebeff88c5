"""An RGB image to patches, as transformers' `Qwen2VLImageProcessorPil` makes them, without torch.

Resize to multiples of one token's side within a range of pixel counts (bicubic, Pillow's own), scale to 0..1,
normalise, and cut into patches. A patch is a flat row of (channel, frame, row, column), a still image standing in every
frame; patches come in blocks of merge_size x merge_size, since the merger makes one token of a block.

Axis words: H rows and W columns of patches, C channels, F frames of a patch, P its side.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtimes.errors import ImageError
from runtimes.vision.spec import ImageSpec, PatchedImage, Patches

MAX_ASPECT_RATIO = 200  # the reference refuses longer images
LEVELS = 255.0


def patch_image(image: Image.Image, spec: ImageSpec) -> PatchedImage:
    """Resize, normalise and cut an RGB image."""
    width, height = image.size
    rows, columns = target_size(height, width, spec)
    resized = image if (rows, columns) == (height, width) else image.resize((columns, rows), Image.Resampling.BICUBIC)
    levels = np.asarray(resized)
    return PatchedImage(
        patches=cut_into_patches(normalize(levels, spec), spec),
        levels=levels,
        height=rows // spec.patch_size,
        width=columns // spec.patch_size,
        merge_size=spec.merge_size,
    )


def target_size(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """Rows and columns of pixels after resizing: the free size, or of the spec's grids the nearest."""
    rows, columns = free_size(height, width, spec)
    if not spec.grids:
        return rows, columns
    down, across = nearest_grid(height, width, rows * columns // spec.factor**2, spec.grids)
    return down * spec.factor, across * spec.factor


def nearest_grid(height: int, width: int, tokens: int, grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The grid that bends an image of height x width least; among equals the one nearest to so many tokens.

    Nearness is a quotient of at least one, in float64, so that every language finds the same; the first of equals.
    """

    def distance(grid: tuple[int, int]) -> tuple[float, float]:
        down, across = grid
        return _quotient(height * across, width * down), _quotient(down * across, tokens)

    return min(grids, key=distance)


def _quotient(one: int, other: int) -> float:
    return max(one, other) / min(one, other)


def free_size(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """Rows and columns of pixels for a tower that takes any: the ratio kept as well as multiples of a token's side can.

    Halves round to even, as Python does.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ImageError(
            f"an image of {width} x {height} pixels is more than {MAX_ASPECT_RATIO} times as long as wide; crop it"
        )
    factor = spec.factor
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > spec.max_pixels:
        shrink = math.sqrt(height * width / spec.max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < spec.min_pixels:
        grow = math.sqrt(spec.min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def normalize(pixels: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.float32]:
    """uint8 (rows, columns, 3) to float32 of the same shape: (value / 255 - mean) / std."""
    scale = np.array([1 / (LEVELS * std) for std in spec.std], dtype=np.float32)
    shift = np.array([mean / std for mean, std in zip(spec.mean, spec.std, strict=True)], dtype=np.float32)
    found: NDArray[np.float32] = pixels.astype(np.float32) * scale - shift
    return found


def cut_into_patches(pixels: NDArray[np.float32], spec: ImageSpec) -> Patches:
    """(H * P, W * P, 3) to (H * W, 3 * F * P * P), block by block."""
    side, merge = spec.patch_size, spec.merge_size
    rows, columns, channels = pixels.shape
    blocks = pixels.reshape(rows // spec.factor, merge, side, columns // spec.factor, merge, side, channels)
    blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # (blocks down, blocks across, merge, merge, C, P, P)
    frames = np.broadcast_to(blocks[:, :, :, :, :, None], (*blocks.shape[:5], spec.temporal_patch_size, side, side))
    return np.ascontiguousarray(frames).reshape(-1, channels * spec.temporal_patch_size * side * side)

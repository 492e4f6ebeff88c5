"""Images to patches: the size after resizing, resized pixels byte for byte, and the order of a patch's values."""

import base64
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtimes.errors import ImageError
from runtimes.vision.preprocess import cut_into_patches, normalize, patch_image, target_size
from runtimes.vision.spec import ImageSpec

FAMILY = ImageSpec(
    patch_size=16, temporal_patch_size=2, merge_size=2, min_pixels=65536, max_pixels=1048576, mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)  # fmt: skip
SMALL = ImageSpec(
    patch_size=4, temporal_patch_size=2, merge_size=2, min_pixels=64, max_pixels=1024, mean=(0.48, 0.45, 0.40),
    std=(0.26, 0.25, 0.27),
)  # fmt: skip
FIXED = replace(FAMILY, grids=((8, 8), (14, 14), (12, 16), (16, 12)))
SIZES = (
    (1, 1), (1, 200), (200, 1), (256, 256), (448, 448), (480, 640), (1080, 1920), (3000, 4000), (17, 1000), (16, 48),
    (33, 333), (5000, 30), (624, 624), (1023, 1025), (80, 80), (2, 399), (112, 4000),
)  # fmt: skip
TOO_LONG = ((1, 201), (40200, 200))
IMAGES = {"smaller": (23, 37), "larger": (5, 7), "as it is": (16, 8), "a line": (2, 61), "much smaller": (97, 71)}
SHOWN_PATCHES = (0, 1, 2, 3)


def content() -> dict[str, Any]:
    """Sizes, pixels and patches."""
    return {
        "family": _spec(FAMILY),
        "small": _spec(SMALL),
        "sizes": [[height, width, *target_size(height, width, FAMILY)] for height, width in SIZES],
        "refused_sizes": [_refused(height, width) for height, width in TOO_LONG],
        "fixed_grids": [list(grid) for grid in FIXED.grids],
        "fixed_sizes": [[height, width, *target_size(height, width, FIXED)] for height, width in SIZES],
        "images": [_image(name, height, width) for name, (height, width) in IMAGES.items()],
    }


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) with gradients, edges and noise, from integers alone."""
    row, column, channel = np.indices((height, width, 3))
    noise = (row * 7919 + column * 104729 + channel * 1299709) % 251
    blocks = ((row // 5 + column // 3) % 2) * 255
    shades = np.where(channel == 1, blocks, (row * 3 + column * 5) % 256)
    found: NDArray[np.uint8] = np.where((row + column) % 4 == 0, noise, shades).astype(np.uint8)
    return found


def _image(name: str, height: int, width: int) -> dict[str, Any]:
    pixels = picture(height, width)
    rows, columns = target_size(height, width, SMALL)
    image = Image.fromarray(pixels)
    resized = np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC))
    patches = cut_into_patches(normalize(resized, SMALL), SMALL)
    assert np.array_equal(patches, patch_image(image, SMALL).patches)
    return {
        "name": name,
        "height": height,
        "width": width,
        "rgb": base64.b64encode(pixels.tobytes()).decode(),
        "resized_height": rows,
        "resized_width": columns,
        "resized_rgb": base64.b64encode(resized.tobytes()).decode(),
        "grid": [rows // SMALL.patch_size, columns // SMALL.patch_size],
        "patches": patches[list(SHOWN_PATCHES)].tolist(),
    }


def _spec(spec: ImageSpec) -> dict[str, Any]:
    return {
        "patch_size": spec.patch_size,
        "temporal_patch_size": spec.temporal_patch_size,
        "merge_size": spec.merge_size,
        "min_pixels": spec.min_pixels,
        "max_pixels": spec.max_pixels,
        "mean": list(spec.mean),
        "std": list(spec.std),
    }


def _refused(height: int, width: int) -> list[int]:
    try:
        target_size(height, width, FAMILY)
    except ImageError:
        return [height, width]
    raise AssertionError(f"{height} x {width} is not refused")

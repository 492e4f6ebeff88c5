"""How an image becomes patches: what a manifest says, and what every app must do alike (docs/vision.md)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Patches = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The numbers of the preprocessing; sizes in pixels, `mean` and `std` of values between 0 and 1, RGB.

    `grids` are rows and columns of tokens: where there are any, the tower takes images of these only, and every image
    is resized to one of them.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grids: tuple[tuple[int, int], ...] = ()

    @property
    def factor(self) -> int:
        """Both sides of a resized image are multiples of this: the side of one token."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchedImage:
    """What the vision tower reads: patches (height * width, patch_dim), and the grid they stand in.

    `levels` uint8 (rows, columns, 3) are the resized pixels, for towers that cut them into patches themselves.
    """

    patches: Patches
    levels: NDArray[np.uint8]
    height: int
    width: int
    merge_size: int

    @property
    def tokens(self) -> int:
        """Tokens of the text model that the image takes."""
        return self.height * self.width // self.merge_size**2

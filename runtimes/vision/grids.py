"""A vision tower of fixed grids: a function for each, by the number of tokens down and across."""

from runtimes.errors import ImageError
from runtimes.vision.spec import ImageSpec, PatchedImage

Grid = tuple[int, int]


def function_name(grid: Grid) -> str:
    """The function that encodes an image of so many tokens down and across."""
    down, across = grid
    return f"image_{down}x{across}"


def grid_of(image: PatchedImage, spec: ImageSpec) -> Grid:
    """The image's grid in tokens, which must be one of those that the tower has functions for."""
    grid = (image.height // image.merge_size, image.width // image.merge_size)
    if grid not in spec.grids:
        known = ", ".join(f"{down} x {across}" for down, across in spec.grids)
        raise ImageError(f"an image of {grid[0]} x {grid[1]} tokens; this tower takes {known}, so resize it to one")
    return grid

"""The grids that a tower is built for where its program has fixed shapes (Core ML, Core AI, ExecuTorch).

An image is resized to one of them (`runtimes.vision.preprocess`). Each is a function of its own over the same weights.
"""

from dataclasses import replace

from export.errors import SpecError
from runtimes.vision.spec import ImageSpec

Grids = tuple[tuple[int, int], ...]
# rows and columns of tokens: the family's smallest square, and what a camera takes at 448 pixels a side or so
FAMILY_GRIDS: Grids = ((8, 8), (14, 14), (12, 16), (16, 12))


def with_grids(images: ImageSpec, grids: Grids | None) -> ImageSpec:
    """The preprocessing for a tower of fixed grids: those of the model, or of the family, that an image may have."""
    wanted = grids or FAMILY_GRIDS
    fitting = tuple((down, across) for down, across in wanted if down * across * images.factor**2 <= images.max_pixels)
    if not fitting:
        smallest = min(down * across for down, across in wanted)
        raise SpecError(
            f"--modality image: an image may take {images.max_pixels // images.factor**2} tokens of this context, and "
            f"the smallest grid of the vision tower has {smallest}; use a longer --context-length"
        )
    return replace(images, grids=fitting)

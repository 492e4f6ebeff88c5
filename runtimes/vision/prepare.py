"""Images from files or pixels to patches; Pillow is loaded here, and only where there are images."""

import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import RuntimeUnavailableError
from runtimes.vision.spec import ImageSpec, PatchedImage


def read_image(place: Path, spec: ImageSpec) -> PatchedImage:
    """The image in a file as patches; whatever else lies there is an ImageError."""
    image: Any = _module("images").open_image(place)
    found: PatchedImage = _module("preprocess").patch_image(image, spec)
    return found


def prepared(pictures: Iterable[NDArray[np.uint8]], spec: ImageSpec) -> list[PatchedImage]:
    """RGB pixels (rows, columns, 3) as patches."""
    made = _module("preprocess")
    return [made.patch_image(made.Image.fromarray(picture), spec) for picture in pictures]


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"runtimes.vision.{name}")
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"images need the Python package {error.name!r}, which is not installed; install Pillow"
        ) from error

"""Prompts with pictures for an artifact to prove itself on: two between texts, and one of each size it takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from export.vision.positions import patch_positions
from export.vision.request import VisionRequest
from export.vision.weights import load_tower
from runtimes.reference import VIEW
from runtimes.vision.positions import TokenGrid, position_rows
from runtimes.vision.preprocess import patch_image
from runtimes.vision.spec import PatchedImage

SHAPES = ((2.2, 2.8), (3.0, 2.0))  # rows and columns, in tokens: the first must be resized, and both may grow
TEXTS = (6, 9, 24)  # tokens of text before, between and after
VIEW_TEXTS = (2, 3)  # before and after the picture of a view

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ImagePrompt:
    """Tokens (T,), positions (3, T), features (I, hidden) of the image tokens, and the pictures (rows, columns, 3)."""

    tokens: Tensor
    rows: Tensor
    features: Tensor
    image_token_id: int
    pictures: tuple[Picture, ...]


def image_prompt(request: VisionRequest, text: Sequence[int], context_length: int) -> ImagePrompt | None:
    """The prompt, its features from the tower in eager torch; None where the context is too short for it."""
    return _prompt(request, text, SHAPES, TEXTS, context_length)


def view_prompts(request: VisionRequest, text: Sequence[int], context_length: int) -> dict[str, ImagePrompt]:
    """For a tower of fixed grids one short prompt with a picture of each, named `view_RxC` by rows and columns."""
    found = {
        f"{VIEW}{rows}x{columns}": _prompt(request, text, ((rows, columns),), VIEW_TEXTS, context_length)
        for rows, columns in request.images.grids
    }
    return {name: prompt for name, prompt in found.items() if prompt is not None}


@torch.no_grad()
def _prompt(
    request: VisionRequest,
    text: Sequence[int],
    shapes: Sequence[tuple[float, float]],
    texts: Sequence[int],
    context_length: int,
) -> ImagePrompt | None:
    config, spec = request.config, request.images
    pictures = tuple(_picture(round(rows * spec.factor), round(columns * spec.factor)) for rows, columns in shapes)
    images = [patch_image(Image.fromarray(picture), spec) for picture in pictures]
    pieces = [_text(text, start, count) for start, count in enumerate(texts)]
    tokens = list(pieces[0])
    for image, after in zip(images, pieces[1:], strict=True):
        pads = [config.image_token_id] * image.tokens
        tokens += [config.vision_start_token_id, *pads, config.vision_end_token_id, *after]
    if len(tokens) > context_length:
        return None
    ids = np.array(tokens, dtype=np.int64)
    tower = load_tower(request.weights)
    found = [
        tower.encode(torch.from_numpy(image.patches), patch_positions(config, image.height, image.width))
        for image in images
    ]
    return ImagePrompt(
        tokens=torch.from_numpy(ids),
        rows=torch.from_numpy(position_rows(ids, config.image_token_id, [_grid(image) for image in images], 0)),
        features=torch.cat(found),
        image_token_id=config.image_token_id,
        pictures=pictures,
    )


def _grid(image: PatchedImage) -> TokenGrid:
    return TokenGrid(height=image.height // image.merge_size, width=image.width // image.merge_size)


def _text(tokens: Sequence[int], part: int, count: int) -> list[int]:
    """Some tokens of a text, others for each part."""
    return [int(token) for token in np.resize(np.roll(np.array(tokens), -13 * part), count)]


def _picture(rows: int, columns: int) -> Picture:
    """Shades, edges and a disc, so that every patch differs from its neighbours."""
    row, column = np.mgrid[:rows, :columns]
    disc = (row - rows / 2) ** 2 + (column - columns / 3) ** 2 < (min(rows, columns) / 3) ** 2
    red = 255 * row // rows
    green = 255 * column // columns
    blue = np.where(disc, 230, 40 + (row // 7 + column // 11) % 2 * 90)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)

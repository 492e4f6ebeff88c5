"""Images become the patches that transformers' processor makes of them."""

import base64
import json
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image  # type: ignore[import-untyped]
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from export.models.tiny.reading import HELD_OUT, draw_word
from runtimes.errors import ImageError
from runtimes.vision.preprocess import nearest_grid, patch_image, target_size
from runtimes.vision.spec import ImageSpec
from tools.golden.images import FAMILY, FIXED, SIZES, TOO_LONG

GOLDEN: dict[str, Any] = json.loads(Path("tests/golden/images.json").read_text(encoding="utf-8"))
ONE_LEVEL = 1 / 255 / 0.5  # of a normalised value: the family divides by a deviation of one half


def reference(spec: ImageSpec) -> Any:
    return Qwen2VLImageProcessorPil(
        patch_size=spec.patch_size,
        temporal_patch_size=spec.temporal_patch_size,
        merge_size=spec.merge_size,
        image_mean=list(spec.mean),
        image_std=list(spec.std),
        size={"shortest_edge": spec.min_pixels, "longest_edge": spec.max_pixels},
    )


def photo(name: str) -> Image.Image:
    return Image.fromarray(load_sample_image(f"{name}.jpg"))


def subjects() -> dict[str, Image.Image]:
    """scikit-learn's two photos, cuts and sizes of them, and rendered words."""
    china, flower = photo("china"), photo("flower")
    words = [draw_word(Random(seed), (128 + 37 * seed, 40 + 11 * seed), (HELD_OUT,)).image for seed in range(3)]
    return {
        "china": china,
        "flower": flower,
        "tall": china.crop((100, 0, 160, 427)),
        "wide": flower.crop((0, 200, 640, 230)),
        "tiny": china.resize((20, 14)),
        "large": flower.resize((1900, 1300)),
        **{f"word {number}": word for number, word in enumerate(words)},
    }


@pytest.mark.parametrize("name", list(subjects()))
def test_patches_are_the_reference_processors_within_one_level(name: str) -> None:
    image = subjects()[name]
    wanted = reference(FAMILY)(images=[image], return_tensors="np")
    found = patch_image(image, FAMILY)
    assert [1, found.height, found.width] == wanted["image_grid_thw"][0].tolist()
    assert found.patches.shape == wanted["pixel_values"].shape
    assert found.tokens == found.patches.shape[0] // 4
    assert np.abs(found.patches - wanted["pixel_values"]).max() < ONE_LEVEL / 100  # the same pixels, other roundings


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sizes_are_the_reference_processors(height: int, width: int) -> None:
    patches = reference(FAMILY).get_number_of_image_patches(height, width)
    rows, columns = target_size(height, width, FAMILY)
    assert (rows % 32, columns % 32) == (0, 0)
    assert rows // 16 * (columns // 16) == patches


@pytest.mark.parametrize(("height", "width"), TOO_LONG)
def test_what_the_reference_refuses_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="aspect ratio"):
        reference(FAMILY).get_number_of_image_patches(height, width)
    with pytest.raises(ImageError, match="more than 200 times as long as wide; crop it"):
        target_size(height, width, FAMILY)


@pytest.mark.parametrize("case", GOLDEN["images"], ids=lambda case: str(case["name"]))
def test_the_resize_that_the_docs_describe_gives_the_golden_bytes(case: dict[str, Any]) -> None:
    """docs/vision.md tells Kotlin and Swift how to resize; this is the same, written from the page."""
    shape = (case["height"], case["width"], 3)
    pixels = np.frombuffer(base64.b64decode(case["rgb"]), np.uint8).reshape(shape)
    wanted = np.frombuffer(base64.b64decode(case["resized_rgb"]), np.uint8)
    across = resized_lines(pixels, case["resized_width"])
    found = resized_lines(across.transpose(1, 0, 2), case["resized_height"]).transpose(1, 0, 2)
    assert np.array_equal(found.reshape(-1), wanted)


def resized_lines(pixels: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    """Every line (…, length before, 3) resampled to `length` pixels; a length that stays is left alone."""
    before = pixels.shape[1]
    if before == length:
        return pixels
    ratio = before / length
    stretch = max(ratio, 1.0)
    out = np.empty((pixels.shape[0], length, 3), np.uint8)
    for place in range(length):
        centre = (place + 0.5) * ratio
        first = max(int(centre - 2 * stretch + 0.5), 0)
        last = min(int(centre + 2 * stretch + 0.5), before)
        weights = np.array([cubic((at - centre + 0.5) / stretch) for at in range(first, last)])
        weights /= weights.sum()
        whole = np.trunc(weights * (1 << 22) + np.copysign(0.5, weights)).astype(np.int64)
        sums = np.einsum("lpc,p->lc", pixels[:, first:last].astype(np.int64), whole) + (1 << 21)
        out[:, place] = np.clip(sums >> 22, 0, 255)
    return out


def cubic(x: float) -> float:
    """Keys' convolution kernel with a = -0.5."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((3000, 4000), (12, 16)),  # a photo
        ((4000, 3000), (16, 12)),
        ((4000, 4000), (14, 14)),
        ((256, 256), (8, 8)),
        ((100, 100), (8, 8)),  # by itself 8 x 8 tokens, the least that the family allows
        ((352, 352), (14, 14)),  # 121 tokens: 1.6 times fewer than 14 x 14, 1.9 times more than 8 x 8
        ((1080, 1920), (12, 16)),
        ((2556, 1179), (16, 12)),  # a screenshot
    ],
)
def test_an_image_goes_to_the_grid_that_bends_it_least_and_of_those_to_the_one_nearest_in_size(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    down, across = nearest_grid(*size, math.prod(target_size(*size, FAMILY)) // FIXED.factor**2, FIXED.grids)
    assert (down, across) == grid
    assert target_size(*size, FIXED) == (down * 32, across * 32)
    found = patch_image(Image.new("RGB", size[::-1]), FIXED)
    assert (found.height, found.width, found.tokens) == (2 * down, 2 * across, down * across)

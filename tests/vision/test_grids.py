"""Which grids a tower of fixed shapes is built for."""

from dataclasses import replace

import pytest

from export.errors import SpecError
from export.sources import read_model_entry
from export.vision.grids import FAMILY_GRIDS, with_grids
from runtimes.vision.grids import function_name
from tools.golden.images import FAMILY

TOKEN_PIXELS = 32 * 32


def test_a_tower_has_the_grids_that_the_context_has_room_for() -> None:
    assert with_grids(FAMILY, None).grids == FAMILY_GRIDS
    assert with_grids(replace(FAMILY, max_pixels=192 * TOKEN_PIXELS), None).grids == ((8, 8), (12, 16), (16, 12))
    assert with_grids(FAMILY, ((2, 3),)).grids == ((2, 3),)
    assert function_name((12, 16)) == "image_12x16"


def test_a_context_too_short_for_the_smallest_grid_is_refused_before_any_work() -> None:
    small = replace(FAMILY, min_pixels=TOKEN_PIXELS, max_pixels=63 * TOKEN_PIXELS)
    with pytest.raises(SpecError, match=r"63 tokens of this context.*the smallest grid.*has 64; use a longer"):
        with_grids(small, None)


def test_the_tiny_models_grids_are_those_of_the_pictures_that_it_can_read_and_two_more() -> None:
    assert read_model_entry("tiny").image_grids == ((1, 2), (1, 3), (2, 2), (3, 4), (4, 3))
    assert read_model_entry("qwen3.5-0.8b").image_grids is None

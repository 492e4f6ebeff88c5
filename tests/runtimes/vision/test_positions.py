"""Positions of tokens around images are those of transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3_5Config
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5Model

from runtimes.errors import ImageError
from runtimes.vision.positions import TokenGrid, next_position, position_rows

GOLDEN: dict[str, Any] = json.loads(Path("tests/golden/image_positions.json").read_text(encoding="utf-8"))
MERGE = 2


class Index:
    """As much of a Qwen3_5Model as its `get_rope_index` reads."""

    config = Qwen3_5Config()
    get_vision_position_ids = Qwen3_5Model.get_vision_position_ids


def grids_of(case: dict[str, Any]) -> list[TokenGrid]:
    return [TokenGrid(height=height, width=width) for height, width in case["grids"]]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["name"]))
def test_rows_are_those_of_transformers(case: dict[str, Any]) -> None:
    """The reference always begins at 0: text before the case brings it to where the case begins."""
    tokens = torch.tensor([[1] * case["start"] + case["tokens"]])
    grids = torch.tensor([[1, MERGE * height, MERGE * width] for height, width in case["grids"]]).view(-1, 3)
    kinds = (tokens == case["image_token_id"]).int()
    wanted, delta = Qwen3_5Model.get_rope_index(Index(), tokens, kinds, image_grid_thw=grids)  # type: ignore[arg-type]
    found = position_rows(np.array(case["tokens"]), case["image_token_id"], grids_of(case), case["start"])
    assert found.tolist() == case["rows"] == wanted[:, 0, case["start"] :].tolist()
    assert next_position(found, case["start"]) == case["next"] == tokens.shape[1] + int(delta)


@pytest.mark.parametrize("case", GOLDEN["refused"], ids=lambda case: str(case["name"]))
def test_a_prompt_that_fits_no_images_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="give each image once"):
        position_rows(np.array(case["tokens"]), case["image_token_id"], grids_of(case), case["start"])


def test_no_token_has_no_position() -> None:
    rows = position_rows(np.zeros(0, np.int64), 9, [], 5)
    assert (rows.shape, next_position(rows, 5)) == ((3, 0), 5)

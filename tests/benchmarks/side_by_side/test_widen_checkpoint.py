"""A widened checkpoint is the same function."""

import json
from pathlib import Path

import pytest
import torch
from transformers import Qwen3_5ForConditionalGeneration

from benchmarks.side_by_side.tiny_quality import TINY
from benchmarks.side_by_side.widen_checkpoint import widen_checkpoint


def logits(checkpoint: Path) -> torch.Tensor:
    model = Qwen3_5ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = torch.randint(0, 2000, (1, 100), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(input_ids=ids).logits.float()


def test_zero_channels_change_no_logit(tmp_path: Path) -> None:
    widen_checkpoint(TINY, tmp_path / "wide", 256)
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["text_config"]["hidden_size"] == 256
    narrow, wide = logits(TINY), logits(tmp_path / "wide")
    assert (narrow - wide).abs().max() <= 1e-4 * narrow.abs().max()


def test_a_width_that_is_no_wider_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="192 wide"):
        widen_checkpoint(TINY, tmp_path / "wide", 192)

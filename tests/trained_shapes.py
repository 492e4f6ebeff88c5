"""The trained tiny model in the family's other shapes, for tolerances that random weights do not meet.

Rounding a random model's norms alone moves its logits by more than 5e-3 of the largest (docs/log.md); trained weights
do not magnify it so. Every value head is there twice with half its output, which is the same function, and both copies
and the head's table are then moved a little, so that a swapped head or table shows.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.checkpoint import SINGLE_FILE
from tests.fixtures import TINY, TORCH_DTYPES, Dtype

PREFIX = "model.language_model."
MOVED = 0.02  # of each number, about


@dataclass(frozen=True, kw_only=True)
class TrainedShape:
    """A shape of the family; `value_heads` is per key head."""

    value_heads: int = 1
    tied: bool = True
    dtype: Dtype = "bf16"


# with the tiny model itself: both head layouts, tied and not, and weights that float16 does not hold
TRAINED_SHAPES: Mapping[str, TrainedShape] = {
    "like_4b": TrainedShape(value_heads=2),
    "like_9b": TrainedShape(value_heads=2, tied=False),
    "untied_fp32": TrainedShape(tied=False, dtype="fp32"),
}


def make_trained(directory: Path, shape: TrainedShape) -> Path:
    """Write the tiny model's checkpoint in another shape."""
    shutil.copytree(TINY, directory, ignore=shutil.ignore_patterns("*.py", "__pycache__"), dirs_exist_ok=True)
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    text = config["text_config"]
    generator = torch.Generator().manual_seed(0)
    tensors = {name: tensor.float() for name, tensor in load_file(TINY / SINGLE_FILE).items()}
    if shape.value_heads > 1:
        tensors = {name: _with_more_heads(name, tensor, text, shape.value_heads) for name, tensor in tensors.items()}
    if not shape.tied:
        tensors["lm_head.weight"] = tensors[f"{PREFIX}embed_tokens.weight"].clone()
    tensors = {name: _moved(tensor, generator).to(TORCH_DTYPES[shape.dtype]) for name, tensor in tensors.items()}
    text["linear_num_value_heads"] *= shape.value_heads
    config["tie_word_embeddings"] = text["tie_word_embeddings"] = shape.tied
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(tensors, directory / SINGLE_FILE, metadata={"format": "pt"})
    return directory


def _with_more_heads(name: str, tensor: Tensor, text: Mapping[str, Any], times: int) -> Tensor:
    """Each value head `times` times, copies being neighbours, as heads of one key head are."""
    _, _, field = name.partition("linear_attn.")
    keys = 2 * text["linear_num_key_heads"] * text["linear_key_head_dim"]
    if field in ("A_log", "dt_bias", "in_proj_a.weight", "in_proj_b.weight"):
        return tensor.repeat_interleave(times, dim=0)
    if field == "in_proj_z.weight":
        return _repeated(tensor, text, times)
    if field in ("in_proj_qkv.weight", "conv1d.weight"):
        return torch.cat([tensor[:keys], _repeated(tensor[keys:], text, times)])
    if field == "out_proj.weight":
        return _repeated(tensor.T, text, times).T.contiguous() / times
    return tensor


def _repeated(rows: Tensor, text: Mapping[str, Any], times: int) -> Tensor:
    """Rows of value heads, head by head."""
    heads = rows.reshape(text["linear_num_value_heads"], text["linear_value_head_dim"], *rows.shape[1:])
    return heads.repeat_interleave(times, dim=0).flatten(0, 1)


def _moved(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return tensor * (1 + MOVED * torch.randn(tensor.shape, generator=generator))

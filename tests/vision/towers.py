"""Checkpoints whose vision tower shows every mistake: norms, biases and positions far from neutral."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from export.checkpoint import SINGLE_FILE, VISION_PREFIX, Checkpoint
from export.config import parse_config
from export.schemes import FLOAT, Format
from export.vision.config import VisionConfig, parse_vision_config
from export.vision.weights import TowerWeights
from tests.fixtures import FIXTURES, make_checkpoint

GRIDS = ((2, 2), (4, 6), (2, 20), (16, 2), (10, 12), (34, 28))  # patches down and across
FIXTURE = "base_fp32"


def seeing_checkpoint(directory: Path) -> Path:
    """A random fp32 checkpoint with a tower in which attention, biases, norms and positions all matter."""
    make_checkpoint(directory, FIXTURES[FIXTURE])
    tensors = load_file(directory / SINGLE_FILE)
    generator = torch.Generator().manual_seed(5)
    for name, tensor in tensors.items():
        if not name.startswith(VISION_PREFIX):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1:
            tensor.add_(noise, alpha=0.2)
        else:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
    save_file(tensors, directory / SINGLE_FILE, metadata={"format": "pt"})
    return directory


def vision_config(checkpoint: Checkpoint) -> VisionConfig:
    """The tower's dimensions."""
    return parse_vision_config(checkpoint.config, parse_config(checkpoint.config))


def tower_weights(directory: Path, form: Format = FLOAT) -> TowerWeights:
    """The tower's weights in a format."""
    checkpoint = Checkpoint.open(directory)
    return TowerWeights(checkpoint=checkpoint, vision=vision_config(checkpoint), form=form)

"""The tower's weights from a checkpoint, one tensor at a time: codes by round to nearest, the rest float.

Rounding a hundred million weights takes a second or two, so nothing is cached. The names are those of the checkpoint
without its prefix (`blocks.0.attn.qkv`).
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from export.checkpoint import VISION_PREFIX, Checkpoint
from export.decoder import Activations
from export.quantize import Codes
from export.quantize.rtn import quantize_table
from export.schemes import Format
from export.vision.config import VisionConfig
from export.vision.tower import ACTIVATIONS, VisionTower


@dataclass(frozen=True, kw_only=True, eq=False)
class TowerWeights:
    """The tower's tensors: matrices are rounded when they are asked for.

    `activations` is what the runtime does to the inputs of int8 matrices.
    """

    checkpoint: Checkpoint
    vision: VisionConfig
    form: Format
    activations: Activations = ACTIVATIONS

    def weight(self, unit: str, rows: slice | None = None) -> Tensor:
        """float32 weights (out, in); the patch embedding's kernel is a row of inputs."""
        return self.checkpoint.read(f"{VISION_PREFIX}{unit}.weight", rows).float().flatten(1)

    def codes(self, unit: str) -> Tensor:
        """int8 codes (out, in)."""
        return _rounded(self, unit).codes

    def scales(self, unit: str) -> Tensor:
        """float32 scales (out, 1)."""
        return _rounded(self, unit).scales

    def plain(self, name: str) -> Tensor:
        """Any other tensor, float32."""
        return self.checkpoint.read(f"{VISION_PREFIX}{name}").float()

    def field(self, field: str, unit: str) -> Tensor:
        """What a recipe of the tower asks for."""
        if field == "plain":
            return self.plain(unit)
        found: Tensor = {"weight": self.weight, "codes": self.codes, "scales": self.scales}[field](unit)
        return found


def load_tower(weights: TowerWeights) -> VisionTower:
    """The tower with every buffer filled: eager torch, the oracle of what backends write."""
    tower = VisionTower(weights.vision, weights.form, weights.activations)
    with torch.no_grad():
        for name, recipe in tower.recipes().items():
            tower.get_buffer(name).copy_(weights.field(recipe.field, recipe.parts[0].unit))
    return tower.eval()


@lru_cache(maxsize=1)  # codes and scales of a matrix are asked for one after the other
def _rounded(weights: TowerWeights, unit: str) -> Codes:
    return quantize_table(weights.weight(unit), weights.form, None)

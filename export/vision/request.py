"""What a backend is told of the tower, and how many bytes it will take."""

from dataclasses import dataclass, replace
from math import prod

from export.checkpoint import VISION_PREFIX
from export.schemes import FLOAT, INT8_ROW, Format, Scheme
from export.tensors import vision_tensors
from export.vision.config import VisionConfig
from export.vision.grids import Grids, with_grids
from export.vision.weights import TowerWeights
from runtimes.artifact import Vision
from runtimes.vision.spec import ImageSpec

FLOAT_BYTES = 4
SCALE_BYTES = 4
GRAPH_BYTES_PER_BLOCK = 12_000  # a block is some 50 nodes
GRAPH_BYTES = 40_000


@dataclass(frozen=True, kw_only=True)
class VisionRequest:
    """The tower to lower, and how images are prepared for it."""

    weights: TowerWeights
    images: ImageSpec

    @property
    def config(self) -> VisionConfig:
        return self.weights.vision

    def written(self, tower_file: str, embedding_file: str) -> Vision:
        """What a manifest says of the tower in these files."""
        config = self.config
        return Vision(
            tower_file=tower_file,
            embedding_file=embedding_file,
            format=str(self.weights.form),
            hidden_size=config.out_hidden_size,
            image_token_id=config.image_token_id,
            vision_start_token_id=config.vision_start_token_id,
            vision_end_token_id=config.vision_end_token_id,
            images=self.images,
        )


def for_backend(request: VisionRequest, backend: object, grids: Grids | None) -> VisionRequest:
    """The request as a backend's module takes it: its fixed grids, and what its runtime does to inputs."""
    images = with_grids(request.images, grids) if getattr(backend, "FIXED_GRIDS", False) else request.images
    activations = getattr(backend, "TOWER_ACTIVATIONS", request.weights.activations)
    return VisionRequest(weights=replace(request.weights, activations=activations), images=images)


def tower_format(scheme: Scheme) -> Format:
    """How the tower's blocks are held: int8, unless the scheme computes with floats."""
    is_float = all(rule.format.bits == FLOAT.bits for rule in scheme.rules)
    return FLOAT if is_float or scheme.activations == "float" else INT8_ROW


def tower_bytes(config: VisionConfig, form: Format) -> int:
    """At most what the tower's weights and graph take in a file."""
    total = GRAPH_BYTES + config.depth * GRAPH_BYTES_PER_BLOCK
    for name, shape in vision_tensors(_as_mapping(config)).items():
        in_block = name.startswith(f"{VISION_PREFIX}blocks.") and len(shape) == 2
        if in_block and not form.is_float:
            total += prod(shape) + shape[0] * SCALE_BYTES
        else:
            total += prod(shape) * FLOAT_BYTES
    return total


def _as_mapping(config: VisionConfig) -> dict[str, int]:
    return {
        "depth": config.depth,
        "hidden_size": config.hidden_size,
        "out_hidden_size": config.out_hidden_size,
        "intermediate_size": config.intermediate_size,
        "spatial_merge_size": config.merge_size,
        "in_channels": 3,
        "temporal_patch_size": config.temporal_patch_size,
        "patch_size": config.patch_size,
        "num_position_embeddings": config.num_position_embeddings,
    }

"""What the vision tower adds to a `.pte` of real shapes and to its memory, without weights: files are left hollow.

`python tools/measure_vision_bytes.py --model qwen3.5-0.8b`. Text and seeing artifact are lowered from one layout; every
length is that of the real file, since codes and scales are announced before they are read.
"""

import argparse
import tempfile
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import torch
from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program
from torch import Tensor

from export import catalog
from export.backends import LoweringRequest, executorch
from export.checkpoint import TEXT_PREFIX, VISION_PREFIX, Checkpoint
from export.config import ModelConfig, parse_config
from export.executorch_lowering import pte
from export.quantized import QuantizedCheckpoint
from export.schemes import INT8_ROW, Layout, layout
from export.shards import TensorEntry
from export.sources import read_model_entry
from export.tensors import text_tensors, vision_tensors
from export.vision.config import VisionConfig, image_spec, parse_vision_config
from export.vision.request import VisionRequest
from export.vision.weights import TowerWeights
from export.weights import units

CONTEXT_LENGTH = 4096
PROGRAM_BYTES = 16 << 20  # more than any program takes before its segments


def random_plain(name: str, shape: tuple[int, ...]) -> Tensor:
    """Other numbers for each name, so that no two small tensors are stored as one."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(name.encode())))


@dataclass(frozen=True, kw_only=True)
class NoWeights(QuantizedCheckpoint):
    """A quantized checkpoint of which only small tensors can be read."""

    def plain(self, name: str) -> Tensor:
        return random_plain(name, self.entries[name].shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class NoTower(TowerWeights):
    """A tower of which only small tensors can be read."""

    def plain(self, name: str) -> Tensor:
        return random_plain(name, self.checkpoint.entries[f"{VISION_PREFIX}{name}"].shape)


def store_of(config: ModelConfig, formats: Layout) -> NoWeights:
    """Entries with the shapes that a quantized checkpoint has."""
    shapes = {name.removeprefix(TEXT_PREFIX): shape for name, shape in text_tensors(config).items()}
    for unit in units(config):
        form = formats[unit.name]
        kind, pack = ("weight", 1) if form.is_float else ("codes", 8 // form.bits)
        shapes[f"{unit.name}.{kind}"] = (unit.out_features, unit.in_features // pack)
    return NoWeights(path=Path("shapes"), config=config, layout=formats, entries=entries(shapes))


def entries(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorEntry]:
    """Entries that lie nowhere."""
    return {
        name: TensorEntry(name=name, file=Path(), dtype="F32", shape=shape, offset=0, size_bytes=4 * prod(shape))
        for name, shape in shapes.items()
    }


def tower_of(raw: dict[str, Any], vision: VisionConfig) -> NoTower:
    """The tower's shapes, int8."""
    checkpoint = SimpleNamespace(entries=entries(vision_tensors(raw["vision_config"])))
    return NoTower(
        checkpoint=cast(Checkpoint, checkpoint),
        vision=vision,
        form=INT8_ROW,
        activations=executorch.TOWER_ACTIVATIONS,
    )


def leave_a_hole(handle: BinaryIO, piece: pte.Piece) -> None:
    """Take the place of what writes a segment."""
    pte._pad(handle)
    handle.truncate(handle.seek(piece.num_bytes, 1))


def tower_bytes_of(raw: dict[str, Any]) -> dict[str, int]:
    """The tower's own codes, scales and floats, the patch embedding's two frames as one."""
    found = {"codes": 0, "scales": 0, "floats": 0}
    for name, shape in vision_tensors(raw["vision_config"]).items():
        if "blocks." in name and len(shape) == 2:
            found["codes"] += prod(shape)
            found["scales"] += 4 * shape[0]
        else:
            frames = raw["vision_config"]["temporal_patch_size"] if name.endswith("patch_embed.proj.weight") else 1
            found["floats"] += 4 * prod(shape) // frames
    return found


def arenas(file: Path) -> dict[str, int]:
    """Bytes of memory that each method plans, from the head of a file."""
    with file.open("rb") as handle:
        program = _flatbuffer_to_program(handle.read(PROGRAM_BYTES))
    return {plan.name: sum(plan.non_const_buffer_sizes) for plan in program.execution_plan if plan.inputs}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen3.5-0.8b")
    parser.add_argument("--scheme", default="mixed")
    arguments = parser.parse_args()
    raw = cast(dict[str, Any], read_model_entry(arguments.model).config)
    config = parse_config(raw)
    formats = layout(catalog.load("schemes", arguments.scheme).SCHEME, config)
    store, vision = store_of(config, formats), parse_vision_config(raw, config)
    request = LoweringRequest(
        config=config,
        layout=formats,
        context_length=CONTEXT_LENGTH,
        threads=1,
        bos_token_id=None,
        eos_token_ids=(1,),
        pad_token_id=None,
    )
    seeing = VisionRequest(weights=tower_of(raw, vision), images=image_spec(Path(), vision, CONTEXT_LENGTH))
    pte._write_piece = leave_a_hole
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for wanted in (request, replace(request, vision=seeing)):
            lowered = executorch.lower(store, wanted, Path(folder), lambda *_: None)
            file = Path(folder) / lowered.model_file
            sizes.append(file.stat().st_size)
            print(f"memory planned: {', '.join(f'{name} {count:,}' for name, count in arenas(file).items())}")
    own = tower_bytes_of(raw)
    more, total = sizes[1] - sizes[0], sum(own.values())
    print(f"text {sizes[0]:,} bytes, text and images {sizes[1]:,}: {more:,} more")
    print(f"the tower's own: {', '.join(f'{kind} {count:,}' for kind, count in own.items())}; together {total:,}")
    print(f"beyond that: {more - total:,} bytes, {(more - total) / total:.2%}")


if __name__ == "__main__":
    main()

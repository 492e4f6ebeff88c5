"""The vision tower as Core ML and Core AI hold it: how far its features are from eager torch's, and its bytes.

`python tools/measure_apple_vision.py [--checkpoint DIR] [--grid 8x8]`. The same codes, inputs not rounded; random
patches of each grid. Core ML's file is evaluated on Linux, Core AI's runs in Apple's runtime. `--bytes`: write only.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from coreai.authoring import AIModelAsset
from coreai.runtime import NDArray as RuntimeArray
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.config import parse_config
from export.coreai_lowering import vision as coreai_vision
from export.coreml_lowering import vision as coreml_vision
from export.decoder import Activations
from export.models.tiny import card
from export.schemes import FLOAT, INT8_ROW
from export.vision.config import parse_vision_config
from export.vision.grids import FAMILY_GRIDS, Grids
from export.vision.positions import patch_positions
from export.vision.weights import TowerWeights, load_tower
from runtimes.mil import load_package
from runtimes.vision.grids import Grid, function_name

Features = NDArray[np.float32]
Run = Callable[[Path, str, Features], Features]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A format, how its floats are stored and what it computes in; `run` evaluates a function of a written file."""

    name: str
    is_int8: bool
    write: Callable[[TowerWeights, Grids, Path, Callable[[str, int], None]], None]
    run: Run


def in_core_ml(package: Path, function: str, patches: Features) -> Features:
    """Features by the evaluator of the written file."""
    program = load_package(package, function)
    element = program.inputs["pixel_values"].element
    given = patches.astype(np.float16 if "16" in str(element) else np.float32)
    found: Features = program.run({"pixel_values": given})["image_features"].astype(np.float32)
    return found


def in_core_ai(asset: Path, function: str, patches: Features) -> Features:
    """Features by Apple's runtime."""

    async def encoded() -> Features:
        async with AIModelAsset.load(asset).executable() as model:
            outputs = await model.load_function(function)({"pixel_values": RuntimeArray(patches)}, {})
            features: Features = outputs["image_features"].numpy()  # type: ignore[union-attr]
            return features

    return asyncio.run(encoded())


def core_ml(name: str, elements: coreml_vision.TowerElements, *, is_int8: bool = True) -> Way:
    """The tower as a package."""

    def write(weights: TowerWeights, grids: Grids, place: Path, progress: Callable[[str, int], None]) -> None:
        coreml_vision.write_tower(weights, grids, elements, place, progress)

    return Way(name=f"Core ML, {name}", is_int8=is_int8, write=write, run=in_core_ml)


def core_ai(name: str, elements: coreai_vision.TowerElements, *, is_int8: bool = True) -> Way:
    """The tower as an asset."""

    def write(weights: TowerWeights, grids: Grids, place: Path, progress: Callable[[str, int], None]) -> None:
        coreai_vision.write_tower(weights, grids, elements, place, "measure", progress)

    return Way(name=f"Core AI, {name}", is_int8=is_int8, write=write, run=in_core_ai)


WAYS = (
    core_ml("int8 as exported", coreml_vision.TowerElements()),
    core_ml("int8 in float16", coreml_vision.TowerElements(computed="float16")),
    core_ml("float32", coreml_vision.TowerElements(stored="float32"), is_int8=False),
    core_ai("int8 as exported", coreai_vision.TowerElements()),
    core_ai("int8 in float16", coreai_vision.TowerElements(computed="float16")),
    core_ai("float32", coreai_vision.TowerElements(stored="float32"), is_int8=False),
)


@torch.no_grad()
def largest_error(way: Way, weights: TowerWeights, place: Path, grid: Grid) -> float:
    """Of a grid's function, relative to the largest value of eager torch."""
    down, across = (side * weights.vision.merge_size for side in grid)
    patches = torch.rand(down * across, weights.vision.patch_dim, generator=torch.Generator().manual_seed(3)) * 2 - 1
    wanted = load_tower(weights).encode(patches, patch_positions(weights.vision, down, across)).numpy()
    found = way.run(place, function_name(grid), patches.numpy())
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path(card.__file__).parent)
    parser.add_argument("--grid", action="append", default=[], help="rows x columns of tokens (default: the family's)")
    parser.add_argument("--way", type=int, action="append", default=[], help="which of the ways, from 0 (default: all)")
    parser.add_argument("--bytes", action="store_true", help="write the files for the family's grids, evaluate nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(arguments.checkpoint)
    vision = parse_vision_config(checkpoint.config, parse_config(checkpoint.config))
    chosen = tuple((int(down), int(across)) for down, across in (grid.split("x") for grid in arguments.grid))
    for number in arguments.way or range(len(WAYS)):
        way = WAYS[number]
        form = INT8_ROW if way.is_int8 else FLOAT
        weights = TowerWeights(checkpoint=checkpoint, vision=vision, form=form, activations=Activations())
        sizes: dict[str, int] = {}
        with tempfile.TemporaryDirectory() as folder:
            suffix = "mlpackage" if "ML" in way.name else "aimodel"
            place, begun = Path(folder) / f"vision.{suffix}", time.process_time()
            way.write(weights, chosen or FAMILY_GRIDS, place, lambda name, size: sizes.update({name: size}))  # noqa: B023
            seconds = time.process_time() - begun
            written = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            own = sum(sizes.values())
            print(f"{way.name}: {written} bytes, {written / own:.4f} of its weights {own}; {seconds:.1f} s", flush=True)
            for grid in () if arguments.bytes else chosen or FAMILY_GRIDS:
                print(f"  {function_name(grid)}: {largest_error(way, weights, place, grid):.1e}", flush=True)


if __name__ == "__main__":
    main()

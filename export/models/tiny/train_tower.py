"""Teach the tiny model's vision tower to read: `python -m export.models.tiny.train_tower`.

The text model stays as it is, bit for bit. It answers "What animal do I have?" when the animal's name stands before the
question, so the tower learns to say each word in the text model's own terms: every token of a picture is pulled to the
embedding of the word in it, and away from those of the other words. That needs no pass through the text model, so it
takes minutes. What comes out is then judged end to end, by answers.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from export.checkpoint import EMBEDDING, VISION_PREFIX, Checkpoint
from export.config import parse_config
from export.models.tiny import reading, shape, train
from export.schemes import FLOAT
from export.vision.config import parse_vision_config
from export.vision.positions import PatchPositions, patch_positions
from export.vision.tower import VisionTower
from export.vision.weights import TowerWeights, load_tower
from runtimes.vision.preprocess import patch_image
from runtimes.vision.spec import ImageSpec

HERE = Path(__file__).parent
LOG = "tower_losses.csv"
FONT_FOLDERS = (Path("/usr/share/fonts/truetype/dejavu"), Path("/usr/share/fonts/truetype/liberation"))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result, given the fonts."""

    steps: int = 4000
    batch: int = 48
    rate: float = 2e-3
    warmup_steps: int = 100
    temperature: float = 0.1
    plain_share: float = 0.08  # of the steps: one font in one size, in the middle; without it nothing is ever learned
    widening_share: float = 0.42  # until then fonts, sizes, places and colours spread out
    seed: int = 2036


def image_spec() -> ImageSpec:
    """The preprocessing of the tiny checkpoint."""
    raw, vision = shape.preprocessor_config(), shape.config()["vision_config"]
    return ImageSpec(
        patch_size=vision["patch_size"],
        temporal_patch_size=vision["temporal_patch_size"],
        merge_size=vision["spatial_merge_size"],
        min_pixels=raw["size"]["shortest_edge"],
        max_pixels=raw["size"]["longest_edge"],
        mean=tuple(raw["image_mean"]),
        std=tuple(raw["image_std"]),
    )


def batches(recipe: Recipe, fonts: tuple[str, ...]) -> Iterator[tuple[Tensor, tuple[int, int], Tensor]]:
    """Patches (batch, N, dim), their grid, and indices of words (batch,) for every step."""
    rng, spec = Random(recipe.seed), image_spec()
    for step in range(recipe.steps):
        canvas = rng.choice(reading.CANVASES)
        spread = min(1.0, max(0.0, step / recipe.steps - recipe.plain_share) / recipe.widening_share)
        pictures = [reading.draw_word(rng, canvas, fonts, spread) for _ in range(recipe.batch)]
        cut = [patch_image(picture.image, spec) for picture in pictures]
        patches = torch.from_numpy(np.stack([image.patches for image in cut]))
        words = torch.tensor([reading.WORDS.index(picture.word) for picture in pictures])
        yield patches, (cut[0].height, cut[0].width), words


def word_embeddings(checkpoint: Checkpoint) -> Tensor:
    """The embedding of each word with the space before it, (words, hidden); each is one token."""
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    ids = [tokenizer.encode(f" {word}").ids for word in reading.WORDS]
    assert all(len(one) == 1 for one in ids), "a word of several tokens"
    return checkpoint.read(EMBEDDING).float()[[one[0] for one in ids]]


def loss(features: Tensor, words: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, float]:
    """How far features (batch, tokens, hidden) are from their words' embeddings, and the share of tokens nearest them.

    The squared distance in units of the embeddings' own size, and the cross-entropy of choosing the nearest.
    """
    size = targets.square().sum(-1).mean()
    distances = (features.unsqueeze(2) - targets).square().sum(-1) / size  # (batch, tokens, words)
    labels = words.unsqueeze(1).expand(distances.shape[:2])
    choice = functional.cross_entropy((-distances / temperature).flatten(0, 1), labels.flatten())
    away = distances.gather(2, labels.unsqueeze(2)).mean()
    right = (distances.argmin(-1) == labels).float().mean().item()
    return choice + away, right


def train_tower(tower: VisionTower, targets: Tensor, recipe: Recipe, log: Path) -> None:
    """Run every step and write a line of the log now and then."""
    parameters = [buffer.requires_grad_() for buffer in tower.buffers()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    started, history = time.monotonic(), list[tuple[float, float]]()
    log.write_text("step,loss,tokens_right,seconds\n", encoding="utf-8")
    places: dict[tuple[int, int], PatchPositions] = {}
    fonts = reading.training_fonts(FONT_FOLDERS)
    for step, (patches, grid, words) in enumerate(batches(recipe, fonts), 1):
        at = places.setdefault(grid, patch_positions(tower.config, *grid))
        features = tower(patches, at.rows, at.weights, at.cos, at.sin)
        found, right = loss(features, words, targets, recipe.temperature)
        found.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        history.append((found.item(), right))
        if step % 100 == 0:
            mean, share = np.mean(history[-100:], axis=0)
            row = f"{step},{mean:.3f},{share:.3f},{time.monotonic() - started:.0f}"
            print(row, flush=True)
            with log.open("a", encoding="utf-8") as file:
                file.write(row + "\n")


def put_tower(tower: VisionTower, directory: Path, into: Path) -> None:
    """Write the checkpoint with the trained tower; every other tensor keeps its bytes."""
    tensors = load_file(directory / "model.safetensors")
    trained = {}
    for name, recipe in tower.recipes().items():
        stored = VISION_PREFIX + recipe.parts[0].unit + (".weight" if recipe.field == "weight" else "")
        trained[stored] = tower.get_buffer(name).detach().view_as(tensors[stored])
    assert set(trained) == {name for name in tensors if name.startswith(VISION_PREFIX)}
    train.save_checkpoint(tensors | trained, into / "model.safetensors")


@torch.no_grad()
def start_anew(tower: VisionTower, seed: int) -> None:
    """Matrices that keep the size of what goes through them, so that a second training starts where the first did."""
    generator = torch.Generator().manual_seed(seed)
    for buffer in tower.buffers():
        if buffer.ndim == 2:
            buffer.normal_(0, buffer.shape[1] ** -0.5, generator=generator)
    for name, buffer in tower.named_buffers():
        if buffer.ndim == 1:
            buffer.fill_(1.0 if name.endswith("weight.value") else 0.0)


def note_hash(directory: Path) -> None:
    """Let the card name the weights that now lie beside it."""
    card, row = directory / "README.md", "| sha256 of model.safetensors | `"
    found = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    before, _, after = card.read_text(encoding="utf-8").partition(row)
    card.write_text(f"{before}{row}{found}{after[len(found) :]}", encoding="utf-8")


def _rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, flat, then a linear fall to zero over the last half."""
    return min((step + 1) / recipe.warmup_steps, 1.0, (recipe.steps - step) / (recipe.steps / 2))


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(prog="python -m export.models.tiny.train_tower", description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="where to write the checkpoint (default: this folder)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="fewer are for trying things out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(steps=arguments.steps)
    checkpoint = Checkpoint.open(HERE)
    vision = parse_vision_config(checkpoint.config, parse_config(checkpoint.config))
    tower = load_tower(TowerWeights(checkpoint=checkpoint, vision=vision, form=FLOAT))
    start_anew(tower, recipe.seed)
    train_tower(tower, word_embeddings(checkpoint), recipe, arguments.out / LOG)
    put_tower(tower, HERE, arguments.out)
    if arguments.out == HERE:
        note_hash(HERE)


if __name__ == "__main__":
    main()

"""A prompt with images in it: tokens, where each stands, and what the tower made of the images.

The runner protocol for models that see is here too. A prompt is made against a runner's position and may then be fed in
pieces: positions are absolute, and features are cut with the tokens that they belong to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.artifact import Vision
from runtimes.runner import Logits, Runner, Tokens
from runtimes.vision.positions import Rows, TokenGrid, position_rows
from runtimes.vision.spec import PatchedImage

Features = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenImage:
    """What the vision tower made of one image: features (tokens, hidden), in a grid of tokens.

    `digest` names the pixels, so that a conversation knows an image again.
    """

    features: Features
    grid: TokenGrid
    digest: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """Tokens (T,), positions (3, T), and features (I, hidden), one for each image token in order."""

    tokens: NDArray[np.int64]
    rows: Rows
    features: Features
    image_token_id: int

    def cut(self, start: int, stop: int) -> "Prompt":
        """Some of the tokens, with what belongs to them."""
        first, last = (int((self.tokens[:end] == self.image_token_id).sum()) for end in (start, stop))
        return Prompt(
            tokens=self.tokens[start:stop],
            rows=self.rows[:, start:stop],
            features=self.features[first:last],
            image_token_id=self.image_token_id,
        )


class SeeingRunner(Runner, Protocol):
    """A runner of a model that sees."""

    @property
    def vision(self) -> Vision:
        """The part of the artifact that sees."""

    @property
    def next_position(self) -> int:
        """The position of the next token, in mRoPE's counting: less than its place once an image was read."""

    def see(self, image: PatchedImage) -> SeenImage:
        """Run the vision tower on an image; the sequence stays as it is."""

    def forward_prompt(self, prompt: Prompt) -> Logits:
        """Append a prompt, or a piece of one, and return the logits after it."""


def make_prompt(runner: SeeingRunner, tokens: Tokens, images: Sequence[SeenImage]) -> Prompt:
    """Tokens to append to the runner's sequence, `images` in the order of their places in it."""
    ids = np.asarray(tokens, dtype=np.int64).reshape(-1)
    vision = runner.vision
    rows = position_rows(ids, vision.image_token_id, [image.grid for image in images], runner.next_position)
    features = [image.features for image in images]
    return Prompt(
        tokens=ids,
        rows=rows,
        features=np.concatenate(features) if features else np.zeros((0, vision.hidden_size), np.float32),
        image_token_id=vision.image_token_id,
    )

"""What a model that sees should say: its tower and its decoder in eager torch, on the codes of an artifact."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from export.decoder import Activations, Decoder
from export.materialize import load
from export.quantized import QuantizedCheckpoint
from export.state import zero_state
from export.vision.positions import patch_positions
from export.vision.weights import TowerWeights, load_tower
from runtimes.vision.positions import TokenGrid, next_position, position_rows
from runtimes.vision.prompt import SeenImage
from runtimes.vision.spec import PatchedImage

T = TypeVar("T")


class Eager:
    """One sequence of tokens and images; `activations` and those of `weights` say how the runtime rounds inputs."""

    def __init__(
        self, store: QuantizedCheckpoint, weights: TowerWeights, activations: Activations, context_length: int
    ) -> None:
        decoder = Decoder(store.config, store.layout, context_length, activations)
        self.decoder = load(decoder, store, context_length).eval()
        self.vision = weights.vision
        self.tower = load_tower(weights)
        self.state = zero_state(store.config, context_length)
        self.place, self.position = 0, 0

    @torch.no_grad()
    def see(self, image: PatchedImage) -> SeenImage:
        side = self.vision.merge_size
        at = patch_positions(self.vision, image.height, image.width)
        found = self.tower.encode(torch.from_numpy(image.patches), at)
        grid = TokenGrid(height=image.height // side, width=image.width // side)
        return SeenImage(features=found.numpy(), grid=grid, digest="")

    @torch.no_grad()
    def forward(self, tokens: Sequence[int], images: Sequence[SeenImage] = ()) -> Tensor:
        """Append tokens, `images` in the order of their places, and return the logits after the last."""
        ids = np.array(tokens, dtype=np.int64)
        image_token = self.vision.image_token_id
        rows = position_rows(ids, image_token, [image.grid for image in images], self.position)
        embedded = self.decoder.embed.rows(torch.from_numpy(ids)[None])
        if images:
            features = np.concatenate([image.features for image in images])
            embedded[0, torch.from_numpy(ids == image_token)] = torch.from_numpy(features)
        start = torch.tensor([self.place])
        logits, self.state = self.decoder.run(embedded, torch.from_numpy(rows)[:, None], start, self.state, True)
        self.place += len(tokens)
        self.position = next_position(rows, self.position)
        return logits[0, -1]


@dataclass(frozen=True)
class Answer(Generic[T]):
    """Tokens chosen greedily, and by how much each was ahead of the second best, in logits."""

    tokens: list[T]
    margins: list[float]

    def is_given_by(self, found: Sequence[T], error: float) -> bool:
        """Whether they are these tokens, at least until two were nearer to each other than twice `error`.

        An integer product's activation codes depend on the processor's rounding, and behind a tie everything differs.
        """
        assert len(found) == len(self.tokens)
        differs = next((at for at, pair in enumerate(zip(found, self.tokens, strict=True)) if pair[0] != pair[1]), None)
        return differs is None or self.margins[differs] <= 2 * error


def greedy(forward: Callable[[list[int]], Any], logits: Any, steps: int, *, feed_last: bool = True) -> Answer[int]:
    """So many tokens from logits (vocab,) on; a stock runner never feeds the last token of a turn."""
    tokens: list[int] = []
    margins: list[float] = []
    for step in range(steps):
        second, first = np.sort(np.asarray(logits))[-2:]
        tokens.append(int(logits.argmax()))
        margins.append(float(first - second))
        if feed_last or step < steps - 1:
            logits = forward([tokens[-1]])
    return Answer(tokens, margins)

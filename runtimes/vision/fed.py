"""A text runner of any kind that asks for what stands beside its tokens, and the runner that sees around it.

`runtimes.vision.seeing` is for runners over state in buffers, which it extends. Where a text runner keeps its state in
another way, or its functions read positions and features as inputs of each call (Core ML, Core AI), it asks its feed
for those of the tokens that it is about to run, and tells it when they are read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.artifact import Vision
from runtimes.errors import ImageError, SnapshotError
from runtimes.runner import Logits, Runner, Snapshot, Tokens
from runtimes.vision.positions import next_position
from runtimes.vision.prompt import Features, Prompt, SeenImage
from runtimes.vision.seeing import seen_image
from runtimes.vision.spec import PatchedImage

POSITION_ROWS = 3  # time, height, width


@dataclass(kw_only=True, eq=False)
class ImageFeed:
    """Positions and features of the tokens that a runner is about to read; `lag` is how far positions are behind."""

    vision: Vision
    lag: int = 0
    _prompt: Prompt | None = None
    _start: int = 0  # the place of the prompt's first token

    @contextmanager
    def reading(self, prompt: Prompt, place: int) -> Iterator[None]:
        """While a prompt is read whose first token has this place."""
        self._prompt, self._start = prompt, place
        try:
            yield
        finally:
            self._prompt = None

    def piece(self, tokens: NDArray[np.int64], place: int) -> Prompt:
        """The tokens with positions and features, the first of which has this place; plain text has no features."""
        if self._prompt is not None:
            begin = place - self._start
            return self._prompt.cut(begin, begin + tokens.size)
        image_token = self.vision.image_token_id
        if (tokens == image_token).any():
            raise ImageError("image tokens without an image; append them with forward_prompt")
        rows = np.broadcast_to(np.arange(tokens.size) + place - self.lag, (POSITION_ROWS, tokens.size))
        nothing = np.zeros((0, self.vision.hidden_size), np.float32)
        return Prompt(tokens=tokens, rows=rows, features=nothing, image_token_id=image_token)

    def was_read(self, piece: Prompt, place: int) -> None:
        """A piece whose first token has this place is in the sequence now."""
        self.lag = place + piece.tokens.size - next_position(piece.rows, place - self.lag)


def position_ids(piece: Prompt, size: int) -> NDArray[np.int32]:
    """The piece's positions for a call of `size` tokens, (3, size); padding stands at 0."""
    rows = np.zeros((POSITION_ROWS, size), np.int32)
    rows[:, : piece.tokens.size] = piece.rows
    return rows


def spread_features(piece: Prompt, size: int) -> Features:
    """The piece's features in the places of its image tokens, zeros elsewhere, (1, size, hidden)."""
    spread = np.zeros((1, size, piece.features.shape[1]), np.float32)
    spread[0, np.flatnonzero(piece.tokens == piece.image_token_id)] = piece.features
    return spread


class FedRunner(Runner, Protocol):
    """A text runner that asks a feed for what stands beside its tokens."""

    feed: ImageFeed | None


@dataclass(frozen=True, kw_only=True, eq=False)
class FedSnapshot:
    """A place in a sequence, and how far positions lag behind places there."""

    state: Snapshot
    lag: int

    @property
    def position(self) -> int:
        return self.state.position


@dataclass(kw_only=True, eq=False)
class FedSeeingRunner:
    """`SeeingRunner` of a text runner, its feed, and `encode`, which runs the tower on one image."""

    text: FedRunner
    feed: ImageFeed
    encode: Callable[[PatchedImage], Features] = field(repr=False)
    close_tower: Callable[[], None] = field(repr=False)

    @property
    def vision(self) -> Vision:
        return self.feed.vision

    @property
    def context_length(self) -> int:
        return self.text.context_length

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def prefill_chunk(self) -> int:
        return self.text.prefill_chunk

    @property
    def threads(self) -> int:
        return self.text.threads

    @property
    def position(self) -> int:
        return self.text.position

    @property
    def next_position(self) -> int:
        """The position of the next token."""
        return self.position - self.feed.lag

    def see(self, image: PatchedImage) -> SeenImage:
        """Run the vision tower on an image."""
        return seen_image(image, self.encode(image))

    def forward_prompt(self, prompt: Prompt) -> Logits:
        """Append a prompt with images; `forward` appends plain text."""
        with self.feed.reading(prompt, self.position):
            return self.text.forward(prompt.tokens)

    def forward(self, tokens: Tokens) -> Logits:
        """Append plain text."""
        return self.text.forward(tokens)

    def reset(self) -> None:
        """Forget the sequence."""
        self.text.reset()
        self.feed.lag = 0

    def snapshot(self) -> FedSnapshot:
        """Remember the sequence so far."""
        return FedSnapshot(state=self.text.snapshot(), lag=self.feed.lag)

    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot of this runner."""
        if not isinstance(snapshot, FedSnapshot):
            raise SnapshotError("this snapshot was taken from another runner; a snapshot can only return to its own")
        self.text.restore(snapshot.state)
        self.feed.lag = snapshot.lag

    def close(self) -> None:
        """Give the memory of model and tower back."""
        self.text.close()
        self.close_tower()

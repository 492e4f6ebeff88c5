"""What runners of models that see share: prompts in pieces, positions that lag behind places, snapshots of both."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from runtimes.artifact import Artifact, Vision
from runtimes.errors import ImageError, SnapshotError
from runtimes.runner import Logits
from runtimes.state import StateSnapshot
from runtimes.state_runner import StateRunner
from runtimes.vision.positions import TokenGrid, next_position
from runtimes.vision.prompt import Features, Prompt, SeenImage
from runtimes.vision.spec import PatchedImage


@dataclass(frozen=True, kw_only=True, eq=False)
class SeeingSnapshot:
    """A place in a sequence, and how far positions lag behind places there."""

    state: StateSnapshot
    lag: int

    @property
    def position(self) -> int:
        return self.state.position


class SeeingStateRunner(StateRunner):
    """One sequence of tokens and images: `lag` is by how much positions are behind places in the sequence.

    A class of a runtime stands behind this one among the bases of its seeing runner.
    """

    vision: Vision

    def __init__(self, artifact: Artifact, threads: int) -> None:
        super().__init__(artifact, threads)
        assert artifact.manifest.vision is not None
        self.vision = artifact.manifest.vision
        self._prompt: Prompt | None = None
        self._prompt_start = 0  # the place of the prompt's first token
        self._lag = 0

    @property
    def next_position(self) -> int:
        """The position of the next token."""
        return self._position - self._lag

    def forward_prompt(self, prompt: Prompt) -> Logits:
        """Append a prompt with images; `forward` appends plain text."""
        self._prompt, self._prompt_start = prompt, self._position
        try:
            return self.forward(prompt.tokens)
        finally:
            self._prompt = None

    def reset(self) -> None:
        """Forget the sequence."""
        super().reset()
        self._lag = 0

    def snapshot(self) -> SeeingSnapshot:  # type: ignore[override]
        """Remember the sequence so far."""
        return SeeingSnapshot(state=super().snapshot(), lag=self._lag)

    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot of this runner."""
        if not isinstance(snapshot, SeeingSnapshot):
            raise SnapshotError("this snapshot was taken from another runner; a snapshot can only return to its own")
        super().restore(snapshot.state)
        self._lag = snapshot.lag

    def _run(self, ids: NDArray[np.int64]) -> None:
        piece = self._piece(ids.size)
        if piece is None and (ids == self.vision.image_token_id).any():
            raise ImageError("image tokens without an image; append them with forward_prompt")
        self._read(ids, piece)
        after = self._position + ids.size
        if piece is not None:
            self._lag = after - next_position(piece.rows, self.next_position)

    def _read(self, ids: NDArray[np.int64], piece: Prompt | None) -> None:
        """One call of the model on tokens at the position; `piece` is the prompt that they are of, cut to them."""
        raise NotImplementedError

    def _piece(self, count: int) -> Prompt | None:
        if self._prompt is None:
            return None
        start = self._position - self._prompt_start
        return self._prompt.cut(start, start + count)

    def _check_size(self, image: PatchedImage) -> None:
        images, count = self.vision.images, image.height * image.width
        if count * images.patch_size**2 > images.max_pixels:
            raise ImageError(f"an image of {count} patches is larger than max_pixels {images.max_pixels} allows")


def seen_image(image: PatchedImage, features: Features) -> SeenImage:
    """The features of an image with its grid of tokens, and a name for its pixels."""
    side = image.merge_size
    return SeenImage(
        features=features,
        grid=TokenGrid(height=image.height // side, width=image.width // side),
        digest=sha256(image.patches.tobytes()).hexdigest(),
    )

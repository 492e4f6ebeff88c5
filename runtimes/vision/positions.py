"""Where tokens stand in interleaved mRoPE when there are images between them: three rows, for time, height and width.

Text counts on in all three rows alike. The tokens of an image share one time, the next free place; height and width
count from there over its rows and columns; what follows stands behind the longer side. So an image of 14 x 14 tokens
takes 196 places in the sequence and 14 in the positions (transformers' `Qwen3_5Model.get_rope_index`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import ImageError

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """Rows and columns of the tokens of one image."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        return self.height * self.width


def position_rows(tokens: NDArray[np.int64], image_token_id: int, grids: Sequence[TokenGrid], start: int) -> Rows:
    """Positions int64 (3, T) of tokens (T,), the first of which stands at `start`; `grids` are of the images in order.

    Each run of image tokens is one whole image.
    """
    rows = np.empty((3, tokens.size), dtype=np.int64)
    is_image = tokens == image_token_id
    edges = np.flatnonzero(np.diff(is_image)) + 1
    waiting = list(grids)
    place, at = start, 0
    for end in [*edges.tolist(), tokens.size]:
        count = end - at
        if count and is_image[at]:
            grid = waiting.pop(0) if waiting else None
            if grid is None or grid.tokens != count:
                expected = "no image left" if grid is None else f"an image of {grid.height} x {grid.width}"
                raise ImageError(f"{count} image tokens in a row where the prompt has {expected}; give each image once")
            rows[:, at:end] = place + _inside(grid)
            place += max(grid.height, grid.width)
        else:
            rows[:, at:end] = place + np.arange(count)
            place += count
        at = end
    if waiting:
        raise ImageError(f"{len(waiting)} images more than the prompt has places for; give each image once")
    return rows


def next_position(rows: Rows, start: int) -> int:
    """Where the token after these stands; `start` where there are none."""
    return start if rows.shape[1] == 0 else max(start, int(rows.max()) + 1)


def _inside(grid: TokenGrid) -> Rows:
    """The places of an image's tokens from its own beginning, int64 (3, tokens)."""
    height, width = np.divmod(np.arange(grid.tokens), grid.width)
    return np.stack([np.zeros(grid.tokens, dtype=np.int64), height, width])

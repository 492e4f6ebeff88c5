"""Positions of tokens with images between them: text before, between and after, several images, a second turn."""

from typing import Any

import numpy as np

from runtimes.errors import ImageError
from runtimes.vision.positions import TokenGrid, next_position, position_rows

IMAGE = 9
TEXT = 1
Piece = int | tuple[int, int]  # so many tokens of text, or an image of (rows, columns) of tokens
CASES: dict[str, tuple[int, list[Piece]]] = {
    "text alone": (0, [5]),
    "text alone, later": (37, [4]),
    "an image between texts": (0, [3, (2, 3), 2]),
    "an image first": (0, [(4, 2), 3]),
    "an image last": (0, [2, (1, 5)]),
    "one token's image": (0, [2, (1, 1), 2]),
    "two images with text between": (0, [4, (2, 2), 3, (3, 5), 1]),
    "three images of one size": (0, [1, (2, 2), 1, (2, 2), 1, (2, 2), 1]),
    "a second turn behind an image": (11, [6]),
    "a second turn with an image": (11, [2, (2, 4), 3]),
}
REFUSED: dict[str, tuple[list[Piece], list[tuple[int, int]]]] = {
    "an image too few": ([1, (2, 2), 1], []),
    "an image too many": ([1, (2, 2), 1], [(2, 2), (2, 2)]),
    "an image of another size": ([1, (2, 2), 1], [(2, 3)]),
    "two images without text between": ([1, (2, 2), (2, 2)], [(2, 2), (2, 2)]),
}


def content() -> dict[str, Any]:
    """Rows of positions, and prompts that fit no images."""
    return {
        "cases": [_case(name, start, pieces) for name, (start, pieces) in CASES.items()],
        "refused": [_refused(name, pieces, grids) for name, (pieces, grids) in REFUSED.items()],
    }


def tokens_of(pieces: list[Piece]) -> list[int]:
    """Token ids of a prompt in pieces."""
    return [
        token
        for piece in pieces
        for token in ([TEXT] * piece if isinstance(piece, int) else [IMAGE] * (piece[0] * piece[1]))
    ]


def _case(name: str, start: int, pieces: list[Piece]) -> dict[str, Any]:
    grids = [piece for piece in pieces if not isinstance(piece, int)]
    tokens = tokens_of(pieces)
    rows = position_rows(np.array(tokens), IMAGE, _grids(grids), start)
    return {
        "name": name,
        "image_token_id": IMAGE,
        "start": start,
        "tokens": tokens,
        "grids": [list(grid) for grid in grids],
        "rows": rows.tolist(),
        "next": next_position(rows, start),
    }


def _refused(name: str, pieces: list[Piece], grids: list[tuple[int, int]]) -> dict[str, Any]:
    tokens = tokens_of(pieces)
    try:
        position_rows(np.array(tokens), IMAGE, _grids(grids), 0)
    except ImageError:
        return {
            "name": name, "image_token_id": IMAGE, "start": 0, "tokens": tokens, "grids": [list(grid) for grid in grids]
        }  # fmt: skip
    raise AssertionError(f"{name} is not refused")


def _grids(grids: list[tuple[int, int]]) -> list[TokenGrid]:
    return [TokenGrid(height=height, width=width) for height, width in grids]

"""Pictures of words for the tiny model to read: what its vision tower is trained on and judged by.

An animal's name in one of many fonts, sizes, colours and places, on canvases of several grids. The question is one that
the text model already answers when the word stands in the text, so the tower alone has something to learn. Fonts of the
judgement are not those of the training: Pillow carries one of its own (Aileron), which is at hand wherever Pillow is.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont

from export.models.tiny.conversations import ANIMALS

WORDS = tuple(animal[0] for animal in ANIMALS)
QUESTION = "What animal do I have?"
CANVASES = ((64, 32), (96, 32), (128, 32), (96, 64), (128, 64))  # columns and rows of pixels; a token is 32 x 32
FONT_SIZES = (14, 19)
HELD_OUT = "held out"
JITTER = 8  # pixels off the middle, either way
DARK, LIGHT = (0, 90), (170, 255)  # levels of ink and of paper

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A word and its picture."""

    word: str
    image: Image.Image


def draw_word(rng: Random, canvas: tuple[int, int], fonts: tuple[str, ...], word: str | None = None) -> Picture:
    """A picture of a word, a random one unless it is given; `fonts` are files, or `HELD_OUT`."""
    word = word or rng.choice(WORDS)
    image = Image.new("RGB", canvas, _colour(rng, LIGHT))
    size = rng.randint(*FONT_SIZES)
    font = _font(rng.choice(fonts), size)
    left, top, right, bottom = font.getbbox(word)
    while right - left > canvas[0] - 2 and size > FONT_SIZES[0] // 2:
        size -= 1
        font = _font(str(font.path) if isinstance(font.path, str) and font.path else HELD_OUT, size)
        left, top, right, bottom = font.getbbox(word)
    x = _near_middle(rng, canvas[0], right - left) - left
    y = _near_middle(rng, canvas[1], bottom - top) - top
    ImageDraw.Draw(image).text((x, y), word, font=font, fill=_colour(rng, DARK))
    return Picture(word=word, image=image)


def training_fonts(folders: tuple[Path, ...]) -> tuple[str, ...]:
    """Every font file below the folders, sorted."""
    return tuple(sorted(str(file) for folder in folders for file in folder.rglob("*.ttf")))


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    if file != HELD_OUT:
        return ImageFont.truetype(file, size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _near_middle(rng: Random, room: float, length: float) -> int:
    """Where a word of this length begins, inside the room and near its middle."""
    most = max(0, int(room - length))
    return min(most, max(0, most // 2 + rng.randint(-JITTER, JITTER)))


def _colour(rng: Random, levels: tuple[int, int]) -> Colour:
    red, green, blue = (rng.randint(*levels) for _ in range(3))
    return red, green, blue

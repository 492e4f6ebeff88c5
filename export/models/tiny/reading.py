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
CANVASES = ((64, 32), (96, 32), (64, 64))  # columns and rows of pixels; a token is 32 x 32
FONT_SIZE, SIZE_JITTER = 16, 2
HELD_OUT = "held out"
UNUSUAL = ("Oblique", "Italic", "Mono", "Condensed", "Narrow", "Math", "ExtraLight")
JITTER = 3  # pixels off the middle, either way
WHITE, BLACK, COLOUR_JITTER = 255, 0, 60  # levels of paper and ink, and how far they stray

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A word and its picture."""

    word: str
    image: Image.Image


def draw_word(
    rng: Random, canvas: tuple[int, int], fonts: tuple[str, ...], spread: float = 1.0, word: str | None = None
) -> Picture:
    """A picture of a word, a random one unless it is given; `fonts` are files, or `HELD_OUT`.

    `spread` from 0 to 1 is how far size, place and colours stray; the first fonts come first.
    """
    word = word or rng.choice(WORDS)
    fonts = fonts[: 1 + int(spread * (len(fonts) - 1))]
    image = Image.new("RGB", canvas, _colour(rng, WHITE, spread))
    size = FONT_SIZE + round(spread * rng.randint(-SIZE_JITTER, SIZE_JITTER))
    file = rng.choice(fonts)
    font = _font(file, size)
    left, top, right, bottom = font.getbbox(word)
    while right - left > canvas[0] - 2 and size > FONT_SIZE // 2:
        size -= 1
        font = _font(file, size)
        left, top, right, bottom = font.getbbox(word)
    x = _near_middle(rng, canvas[0] - (right - left), spread) - left
    y = _near_middle(rng, canvas[1] - (bottom - top), spread) - top
    ImageDraw.Draw(image).text((x, y), word, font=font, fill=_colour(rng, BLACK, spread))
    return Picture(word=word, image=image)


def training_fonts(folders: tuple[Path, ...]) -> tuple[str, ...]:
    """Every upright font of usual width below the folders, sorted."""
    files = (file for folder in folders for file in folder.rglob("*.ttf"))
    return tuple(sorted(str(file) for file in files if not any(word in file.stem for word in UNUSUAL)))


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    if file != HELD_OUT:
        return ImageFont.truetype(file, size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _near_middle(rng: Random, room: float, spread: float) -> int:
    """Where a word begins that leaves so much room: inside, and near the middle."""
    most = max(0, int(room))
    return min(most, max(0, most // 2 + round(spread * rng.randint(-JITTER, JITTER))))


def _colour(rng: Random, level: int, spread: float) -> Colour:
    red, green, blue = (abs(level - round(spread * rng.randint(0, COLOUR_JITTER))) for _ in range(3))
    return red, green, blue

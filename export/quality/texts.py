"""The text that quality is measured on: not the text that a method was calibrated on, and the same on every machine.

By default a checkpoint's own `held_out.txt`, where it has one, else docstrings of Python's standard library (PSF
licence), which every machine that runs this has; calibration reads other texts. What the text was goes into the report
by hash, since figures of two texts are not comparable.

A method fits its codes to its calibration text, so figures on that text flatter it. `overlap` compares runs of tokens,
and the report says so where the two share any.
"""

import ast
import hashlib
import inspect
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.calibration.files import Flag, read_documents
from export.errors import QualityError
from export.text_files import TextFiles
from runtimes.template import ChatTemplate

HELD_OUT = "held_out.txt"
DOCSTRINGS = "docstrings of Python's standard library"
SHORTEST_DOCSTRING = 300
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "turtledemo"}
CHARACTERS_PER_TOKEN = 6  # more than any tokenizer here needs
LENGTHS = (512, 256, 128, 64)  # tokens of a sequence: the longest that leaves enough of them
WANTED_SEQUENCES = 16
OVERLAP_TOKENS = 13
TEXT = Flag(name="--text", error=QualityError)


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text and where it is from."""

    name: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Token ids (N, T), which predictions count (N, T), and the text that each sequence is from."""

    tokens: Tensor
    scored: Tensor
    source: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """What identifies the measurement's input."""
        return tokens_hash(self.tokens, self.scored)

    def part(self, rows: slice) -> "Sequences":
        return Sequences(tokens=self.tokens[rows], scored=self.scored[rows], source=self.source[rows], names=self.names)


def tokens_hash(*tensors: Tensor) -> str:
    """The sha256 of token ids and masks."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(str(tuple(tensor.shape)).encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def default_texts(checkpoint: Path, tokens: int) -> list[Text]:
    """What to read when nobody named a text, enough of it for that many tokens."""
    own = checkpoint / HELD_OUT
    if own.is_file():
        return [Text(name=HELD_OUT, content=own.read_text(encoding="utf-8"))]
    return [Text(name=DOCSTRINGS, content=docstrings(tokens * CHARACTERS_PER_TOKEN))]


def docstrings(characters: int) -> str:
    """Long docstrings of the standard library, about this many characters, modules in an order that mixes subjects."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [file for file in root.rglob("*.py") if not SKIPPED_FOLDERS.intersection(file.relative_to(root).parts)]
    files.sort(key=lambda file: hashlib.sha256(file.relative_to(root).as_posix().encode()).digest())
    found: list[str] = []
    count = 0
    for text in _docstrings_of(files):
        found.append(text)
        count += len(text)
        if count >= characters:
            break
    return "\n\n".join(found)


def _docstrings_of(files: Iterable[Path]) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    seen = set[str]()
    for file in files:
        for node in ast.walk(ast.parse(file.read_bytes())):
            text = ast.get_docstring(node, clean=False) if isinstance(node, documented) else None
            if text is not None and len(text) >= SHORTEST_DOCSTRING and text not in seen:
                seen.add(text)
                yield inspect.cleandoc(text)


def read_text(path: Path, files: TextFiles) -> Text:
    """A user's text, of any form that a calibration may have; conversations go through the chat template."""
    template = None if files.chat_template is None else ChatTemplate(files.chat_template)
    documents = read_documents(path, TEXT)
    return Text(name=path.name, content="\n\n".join(one.render(template, path, TEXT) for one in documents))


def cut(texts: Sequence[Text], encode: Callable[[str], list[int]], tokens: int, context_length: int) -> Sequences:
    """Whole sequences of equal length, at most `tokens` in all, the texts one after the other."""
    encoded = [encode(text.content)[:tokens] for text in texts]
    available = min(tokens, sum(map(len, encoded)))
    fitting = [length for length in LENGTHS if length <= context_length]
    length = next((one for one in fitting if available // one >= WANTED_SEQUENCES), fitting[-1] if fitting else 0)
    rows: list[list[int]] = []
    source: list[int] = []
    for index, ids in enumerate(encoded):
        room = tokens // length - len(rows) if length else 0
        found = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)][:room]
        rows += found
        source += [index] * len(found)
    if len(rows) < 2:
        raise QualityError(
            f"the text gives {available} of the {tokens} tokens asked for, less than two sequences of {LENGTHS[-1]}; "
            "give a longer text, or raise --tokens"
        )
    matrix = torch.tensor(rows)
    scored = torch.ones_like(matrix, dtype=torch.bool)
    scored[:, -1] = False  # nothing follows the last token
    return Sequences(tokens=matrix, scored=scored, source=tuple(source), names=tuple(text.name for text in texts))


def guessing_nll(tokens: Tensor) -> float:
    """Nats a token that it costs to guess by the text's own frequencies: who reads it pays less."""
    counts = tokens.unique(return_counts=True)[1].double()
    shares = counts / counts.sum()
    return float(-(shares * shares.log()).sum())


def overlap(tokens: Tensor, calibration: Tensor) -> float:
    """The share of runs of OVERLAP_TOKENS tokens in `tokens` (N, T) that also stand in `calibration` (M, S)."""
    ours, theirs = _runs(tokens), _runs(calibration)
    if ours.size == 0:
        return 0.0
    return float(np.isin(ours, theirs).mean())


def _runs(tokens: Tensor) -> np.ndarray:
    """A 64-bit hash of each run of tokens within a sequence."""
    if tokens.shape[1] < OVERLAP_TOKENS:
        return np.zeros(0, np.uint64)
    windows = tokens.unfold(1, OVERLAP_TOKENS, 1).reshape(-1, OVERLAP_TOKENS).numpy().astype(np.uint64)
    multipliers = np.random.default_rng(0).integers(1, 2**63, OVERLAP_TOKENS, dtype=np.uint64) | np.uint64(1)
    mixed = (windows + np.uint64(1)) * multipliers  # wraps around
    total: np.ndarray = mixed.sum(axis=1, dtype=np.uint64)
    return total

"""From documents to token ids: whole sequences of one length, one document after the other.

No document may fill the sample alone, and a file sorted by subject shall give all its subjects: documents are taken in
the order of their hash, each cut to a few sequences. One long text gives passages from all over it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics

import torch
from torch import Tensor

from export.spec import DEFAULT_CALIBRATION_TOKENS

SEQUENCE_TOKENS = 512
PASSAGES = 32  # of a long text
DOCUMENT_TOKENS = DEFAULT_CALIBRATION_TOKENS // PASSAGES
DOCUMENT_CHARACTERS = 8 * DOCUMENT_TOKENS  # more than that many tokens hold in any language: tokenizing has an end

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Token ids int64 (N, SEQUENCE_TOKENS), how many documents were read, and how many of them were cut."""

    tokens: Tensor
    documents: int
    cut: int


def sample(texts: Sequence[str], encode: Encode, wanted: int = DEFAULT_CALIBRATION_TOKENS) -> Sample:
    """About `wanted` tokens of the texts; fewer where they hold fewer."""
    pieces = passages(texts[0]) if len(texts) == 1 else list(texts)
    pieces = sorted(dict.fromkeys(pieces), key=lambda text: hashlib.sha256(text.encode()).digest())
    ids: list[int] = []
    read, cut = 0, 0
    for text in pieces:
        if len(ids) >= wanted:
            break
        found = encode(text[:DOCUMENT_CHARACTERS])
        ids += found[:DOCUMENT_TOKENS]
        read += 1
        cut += len(text) > DOCUMENT_CHARACTERS or len(found) > DOCUMENT_TOKENS
    return Sample(tokens=as_rows(ids[:wanted]), documents=read, cut=0 if len(texts) == 1 else cut)


def as_rows(ids: Sequence[int]) -> Tensor:
    """Whole sequences; what does not fill one is left out."""
    count = len(ids) // SEQUENCE_TOKENS
    return torch.tensor(ids[: count * SEQUENCE_TOKENS], dtype=torch.int64).view(count, SEQUENCE_TOKENS)


def passages(text: str) -> list[str]:
    """A long text in pieces of about a sequence each, cut between lines where there are any."""
    size = max(DOCUMENT_CHARACTERS // 2, 1)
    found, start = [], 0
    while start < len(text):
        end = text.rfind("\n", start + size // 2, start + size) + 1 or start + size
        found.append(text[start:end])
        start = end
    return found


def default_texts() -> list[str]:
    """Prose, tables and code that every Python installation carries (PSF licence): its reference on the language."""
    return [topics[name] for name in sorted(topics)]

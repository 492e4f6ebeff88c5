"""The text that methods learn from."""

from pydoc_data.topics import topics

import torch
from torch import Tensor

CALIBRATION_TOKENS = 2048
SEQUENCE_TOKENS = 512
TEXT_CHARACTERS = 60_000


def default_text() -> str:
    """Prose that every Python installation carries (PSF licence), cut to what calibration reads at most."""
    return "\n\n".join(topics[name] for name in sorted(topics))[:TEXT_CHARACTERS]


def calibration_tokens(ids: list[int]) -> Tensor:
    """Whole sequences of token ids, int64 (sequences, SEQUENCE_TOKENS)."""
    count = min(len(ids), CALIBRATION_TOKENS) // SEQUENCE_TOKENS
    return torch.tensor(ids[: count * SEQUENCE_TOKENS]).view(count, SEQUENCE_TOKENS)

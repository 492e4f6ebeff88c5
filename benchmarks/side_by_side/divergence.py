"""How far one model's predictions are from another's: Kullback-Leibler divergence over the same text.

The mean of KL(float || quantized) over positions says what quantization costs without asking which answer is right; the
share of positions with the same first choice says how often greedy text would go on unchanged.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Divergence", "compare_logits"]

Logits = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """One model against its reference, over all positions."""

    positions: int
    mean_kld: float
    p99_kld: float
    max_kld: float
    same_top_share: float


def compare_logits(reference: Logits, other: Logits) -> Divergence:
    """Compare logits (positions, vocabulary) of the same text."""
    if reference.shape != other.shape:
        raise ValueError(f"logits of shape {reference.shape} against {other.shape}: not the same text or vocabulary")
    expected, found = _log_softmax(reference), _log_softmax(other)
    divergence = (np.exp(expected) * (expected - found)).sum(axis=-1)  # (positions,)
    return Divergence(
        positions=len(divergence),
        mean_kld=float(divergence.mean()),
        p99_kld=float(np.quantile(divergence, 0.99)),
        max_kld=float(divergence.max()),
        same_top_share=float((reference.argmax(-1) == other.argmax(-1)).mean()),
    )


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result

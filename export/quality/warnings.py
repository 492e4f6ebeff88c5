"""What a reader of a quality report should know before believing it: each function names one weakness, or nothing."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from export.checkpoint import Checkpoint
from export.quality.evaluate import places
from export.quality.metrics import Estimate
from export.quality.subjects import Candidate
from export.quality.texts import OVERLAP_TOKENS, Sequences, guessing_nll
from export.random_checkpoint import MARK

FEW_BLOCKS = 20


def of_candidates(candidates: Sequence[Candidate]) -> list[str]:
    """What each candidate says of itself."""
    return [warning for one in candidates for warning in one.warnings]


def of_amount(sequences: Sequences) -> list[str]:
    """Too few blocks for a bootstrap."""
    blocks = int(places(sequences).block.max()) + 1
    if blocks >= FEW_BLOCKS:
        return []
    return [
        f"{int(sequences.scored.sum())} tokens in {blocks} blocks: intervals from fewer than {FEW_BLOCKS} are "
        "rough; raise --tokens or give a longer text"
    ]


def of_weights(checkpoint: Checkpoint) -> list[str]:
    """Weights that no training made."""
    if not checkpoint.config.get(MARK):
        return []
    return ["the float weights are random: these figures say how the machinery works, nothing of a model"]


def of_overlap(shared: Mapping[str, float | None]) -> list[str]:
    """Text that a candidate was calibrated on; `shared` is each one's share of it."""
    return [
        f"{name} was calibrated on {share:.1%} of this text (runs of {OVERLAP_TOKENS} tokens): its figures flatter it, "
        "give another --text"
        for name, share in shared.items()
        if share
    ]


def of_reading(sequences: Sequences, by_text: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """Texts on which the float model does worse than guessing: figures on them say little of what it is for."""
    source = np.array(sequences.source)
    found = []
    for name, figures in by_text.items():
        nats = figures["reference_nll"].value
        guessing = guessing_nll(sequences.tokens[torch.from_numpy(source == sequences.names.index(name))])
        if nats > guessing:
            found.append(
                f"the float model cannot read {name}: NLL {nats:.2f}, guessing by the text's own frequencies costs "
                f"{guessing:.2f}; figures on it say little, give another --text"
            )
    return found

"""Whether a model can read a text at all: its loss against guessing by how often each token occurs in the text.

A text in a language or alphabet that the model never saw is worse than none: codes would be fitted to confusion. A
table of the text's own token frequencies knows nothing of language, so whoever reads worse than it does not read.
"""

import torch
from torch import Tensor

from export.checkpoint_blocks import CheckpointModel

CHECKED_SEQUENCES = 2
CHECKED_TOKENS = 192
ROWS_AT_ONCE = 16_384


@torch.no_grad()
def losses(model: CheckpointModel, tokens: Tensor) -> tuple[float, float]:
    """Nats a token: the model's on a part of `tokens` (N, T), and of a table of the frequencies in all of them."""
    spread = torch.linspace(0, tokens.shape[0] - 1, CHECKED_SEQUENCES).long()
    part = tokens[spread, :CHECKED_TOKENS]
    hidden = model.embed(part)
    for name in model.block_names:
        hidden = model.block(name).run(hidden)
    x = model.finish(hidden[:, :-1]).flatten(0, 1)
    targets = part[:, 1:].flatten()
    totals = torch.full((x.shape[0],), float("-inf"))
    chosen = torch.zeros(x.shape[0])
    for start in range(0, model.config.vocab_size, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, model.config.vocab_size))
        logits = x @ model.weights.weight(model.head_unit, rows).T
        totals = torch.logaddexp(totals, logits.logsumexp(-1))
        here = (targets >= rows.start) & (targets < rows.stop)
        chosen[here] = logits[here, targets[here] - rows.start]
    return float((totals - chosen).mean()), _entropy(tokens)


def _entropy(tokens: Tensor) -> float:
    """Nats a token of a table of the tokens' own frequencies."""
    shares = torch.unique(tokens, return_counts=True)[1].double() / tokens.numel()
    return float(-(shares * shares.log()).sum())

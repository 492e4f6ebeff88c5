"""Gradients of a model's own loss, block after block from the last: -log p(label), labels drawn from p itself.

So drawn, gradients have mean zero and their covariance is the Fisher information: what they say of a weight is what
changing it costs in divergence from the float model (Amari 1998), whatever the text's own next tokens were.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from export.blocks import Block, BlockModel

POSITIONS_AT_ONCE = 128  # rows of logits in memory


def loss_gradients(model: BlockModel, head: Tensor, last: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Gradients (draws, N, T, C) of each sequence's summed -log p(drawn label) by what enters `finish`, (N, T, C)."""
    found = torch.empty(draws, *last.shape)
    for row, hidden in enumerate(last):
        source = hidden.unsqueeze(0).requires_grad_()
        final = model.finish(source)
        with torch.no_grad():
            drawn = [_drawn(part, head, draws, generator) for part in final[0].split(POSITIONS_AT_ONCE)]
        for draw, by_final in enumerate(torch.cat(drawn, dim=1)):
            (found[draw, row],) = torch.autograd.grad(final, source, by_final.unsqueeze(0), retain_graph=True)
    return found


def _drawn(final: Tensor, head: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Gradients (draws, P, C) of -log p(label) by the head's inputs (P, C), labels drawn from p."""
    p = (final @ head.T).softmax(-1)
    labels = draw(p, draws, generator)
    return (p @ head).unsqueeze(0) - head[labels.T]


def draw(p: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Labels (P, draws) of probabilities (P, vocab), by running sums: `torch.multinomial` takes ten times as long."""
    upto = p.double().cumsum(-1)
    where = torch.rand(len(p), draws, generator=generator, dtype=torch.float64) * upto[:, -1:]
    return torch.searchsorted(upto, where, right=True).clamp_(max=p.shape[1] - 1)


def pulled_back(
    block: Block, hidden: Tensor, by_output: Tensor, wanted: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, ...]]:
    """For each draw the gradients by a block's inputs `hidden` (T, C), with a first axis of 1, and by `wanted` tensors.

    `by_output` (draws, T, C) are those by the block's outputs; `wanted` take the place of the block's own.
    """
    source = hidden.unsqueeze(0).requires_grad_()
    out = block.run(source, wanted)
    for draw, one in enumerate(by_output):
        yield torch.autograd.grad(
            out, [source, *wanted.values()], one.unsqueeze(0), retain_graph=draw + 1 < len(by_output)
        )

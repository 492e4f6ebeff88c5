"""A block in training: latents of its matrices, and its norms, which cost no bytes to change."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from export.blocks import Block, BlockResult
from export.quantize._latent import Latent, LatentDescent, latent
from export.schemes import Format


@dataclass(frozen=True, kw_only=True)
class LearnedBlock:
    """One block's trainable tensors; `floats` are its norms, and float units that folds have changed."""

    block: Block
    latents: Mapping[str, Latent]
    floats: Mapping[str, Tensor]

    def run(self, hidden: Tensor) -> Tensor:
        return self.block.run(hidden, {name: one.weight() for name, one in self.latents.items()} | dict(self.floats))

    def result(self) -> BlockResult:
        return BlockResult(
            codes={name: one.result() for name, one in self.latents.items()},
            floats={name: one.detach().clone() for name, one in self.floats.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast each kind of tensor moves at first: latents in codes, scales and floats relative to their size."""

    latents: float
    scales: float
    floats: float


class Trainer:
    """Moves the tensors of some blocks along their gradients, in steps that shrink linearly to zero."""

    def __init__(self, blocks: list[LearnedBlock], pace: Pace, steps: int) -> None:
        self._pace, self._steps, self._done = pace, steps, 0
        self._latents = LatentDescent(one.codes for block in blocks for one in block.latents.values())
        scales = [one.log_scales for block in blocks for one in block.latents.values()]
        floats = [one for block in blocks for one in block.floats.values()]
        groups = [{"params": scales, "lr": 0.0}, {"params": floats, "lr": 0.0}]
        self._adam = torch.optim.Adam([group for group in groups if group["params"]], betas=(0.9, 0.95))

    def step(self, loss: Tensor) -> None:
        """One step down from `loss`."""
        loss.backward()
        left = 1 - self._done / self._steps
        for group, rate in zip(self._adam.param_groups, (self._pace.scales, self._pace.floats), strict=False):
            group["lr"] = rate * left
        self._latents.step(self._pace.latents * left)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self._done += 1


def learned_block(
    block: Block, start: BlockResult, formats: Mapping[str, Format], weights: Mapping[str, Tensor]
) -> LearnedBlock:
    """A block in training that begins at `start`; `weights` are the matrices that folds had changed before rounding."""
    floats = {fold.source: block.tensor(fold.source) for fold in block.folds if fold.kind != "rows"} | dict(
        start.floats
    )
    return LearnedBlock(
        block=block,
        latents={
            unit: latent(weights.get(unit, block.tensor(unit)), codes, formats[unit])
            for unit, codes in start.codes.items()
        },
        floats={name: one.clone().requires_grad_() for name, one in floats.items()},
    )

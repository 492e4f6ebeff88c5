"""Scales, norms and rounding tuned end to end: the quantized model's predictions are drawn to the float model's.

Block-wise methods judge a block by what it puts out; this judges the whole by what it is for, which undoes errors that
add up. It goes over the codes that a block-wise method found. All blocks' latents and gradients are in memory, about
four times the float weights, so it is for models that fit; the codes keep their format and their bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from export.blocks import BlockModel, BlockResult
from export.quantize._learned_block import LearnedBlock, Pace, Trainer, learned_block
from export.schemes import Format
from export.sequence import SEQUENCES_AT_ONCE, result_tensors, run_block

PACE = Pace(latents=0.01, scales=0.001, floats=0.001)


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What makes logits: the float head, and embedding and head as they will be read back, (rows, in) each."""

    float_head: Tensor
    embedding: Tensor
    head: Tensor


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, how much a step reads, and how fast."""

    steps: int = 100
    sequences: int = 8
    pace: Pace = PACE
    seed: int = 0


def distill(
    model: BlockModel,
    results: Mapping[str, BlockResult],
    formats: Mapping[str, Format],
    tables: Tables,
    tokens: Tensor,
    schedule: Schedule,
    told: Callable[[int, float], None],
) -> dict[str, BlockResult]:
    """Results that predict more like the float model on tokens (N, T) like these; `told` of each step's loss."""
    blocks = [_learned(model, name, results[name], formats) for name in model.block_names]
    wanted = _float_hidden(model, tokens)
    trainer = Trainer(blocks, schedule.pace, schedule.steps)
    generator = torch.Generator().manual_seed(schedule.seed)
    for step in range(schedule.steps):
        pick = torch.randperm(len(tokens), generator=generator)[: schedule.sequences]
        hidden = F.embedding(tokens[pick], tables.embedding)
        for block in blocks:
            hidden = block.run(hidden)
        loss = _divergence(wanted[pick] @ tables.float_head.T, model.finish(hidden) @ tables.head.T)
        trainer.step(loss)
        told(step, float(loss.detach()))
    return {block.block.name: block.result() for block in blocks}


def _learned(model: BlockModel, name: str, result: BlockResult, formats: Mapping[str, Format]) -> LearnedBlock:
    """A block in training; its latents begin at the codes themselves, whatever they were rounded from."""
    return learned_block(model.block(name), result, formats, result_tensors(result))


def _float_hidden(model: BlockModel, tokens: Tensor) -> Tensor:
    hidden = model.embed(tokens)
    for name in model.block_names:
        hidden = run_block(model.block(name), hidden, None)
    return torch.cat([model.finish(part).detach() for part in hidden.split(SEQUENCES_AT_ONCE)])


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean KL(teacher || student) of logits (N, T, vocabulary)."""
    expected, found = F.log_softmax(teacher, -1), F.log_softmax(student, -1)
    return F.kl_div(found, expected, log_target=True, reduction="none").sum(-1).mean()

"""learned: rounding, scales and norms of a block learned together, so that its output is the float block's.

What BRECQ (Li et al. 2021) and AutoRound (Cheng et al. 2024) do, begun at awq_gptq's codes and norms: gradients of the
block's output error on real inputs against float outputs, so a block also makes up for the blocks before it. An eighth
of the sequences is not trained on and decides which state is kept; the start is one of them.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from export.blocks import BlockResult, BlockTask
from export.quantize import awq_gptq
from export.quantize._learned_block import LearnedBlock, Pace, Trainer, learned_block
from export.sequence import run_block

SUMMARY = "rounding, scales and norms learned block by block from awq_gptq's: a little text, tens of minutes at 0.8B"
NEEDS_CALIBRATION = True

STEPS = 100
SEQUENCES_A_STEP = 4
PACE = Pace(latents=0.003, scales=0.0005, floats=0.0005)
JUDGED_EVERY = 20
HELD_OUT = 8  # every so many-th sequence judges instead of training

quantize_table = awq_gptq.quantize_table


def quantize_block(task: BlockTask) -> BlockResult:
    """The best state that training passed."""
    assert task.float_inputs is not None
    assert task.real_inputs is not None
    folded = awq_gptq.fold_block(task)
    start = awq_gptq.round_folded(task, folded)
    targets = run_block(task.block, task.float_inputs, None)
    judges = torch.arange(len(targets)) % HELD_OUT == 0
    learned = learned_block(task.block, start, task.formats, folded.tensors)
    best, least = start, _error(learned, task.real_inputs[judges], targets[judges])
    trainer = Trainer([learned], PACE, STEPS)
    inputs, wanted = task.real_inputs[~judges], targets[~judges]
    generator = torch.Generator().manual_seed(task.seed)
    for step in range(1, STEPS + 1):
        pick = torch.randint(len(inputs), (SEQUENCES_A_STEP,), generator=generator)
        trainer.step(_loss(learned.run(inputs[pick]), wanted[pick]))
        if step % JUDGED_EVERY == 0:
            error = _error(learned, task.real_inputs[judges], targets[judges])
            if error < least:
                best, least = learned.result(), error
    return replace(best, rows=start.rows, columns=start.columns)


def _loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Squared error relative to each token's size: a few tokens of huge norm would drown the others."""
    error = F.mse_loss(found, wanted, reduction="none").mean(-1)
    return (error / wanted.square().mean(-1)).mean()


@torch.no_grad()
def _error(learned: LearnedBlock, inputs: Tensor, targets: Tensor) -> float:
    return float(_loss(torch.cat([learned.run(part) for part in inputs.split(SEQUENCES_A_STEP)]), targets))

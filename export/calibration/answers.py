"""What the float model writes, many sequences at once with one layer in memory at a time: greedily, or by chance.

All sequences keep one clock: at step t each reads its own token t, from its prompt while that lasts and from its answer
afterwards. So nothing is padded, every sequence is at the same position, and a step reads each layer's weights once.
The common part of the prompts is read in one piece.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.checkpoint_blocks import CheckpointBlock, CheckpointModel
from export.decoder import Rope, rope_table, text_positions
from export.state import state_tensors

KEPT_BYTES = 1 << 30  # blocks of a model up to this size stay in memory between steps
ROWS_AT_ONCE = 16_384

Progress = Callable[[str, int], None]
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class _Stepper:
    """A model with the state of its sequences."""

    model: CheckpointModel
    kept: dict[str, CheckpointBlock]
    state: dict[str, Pair]
    tables: Pair

    def read(self, tokens: Tensor, start: int, progress: Progress) -> Tensor:
        """Read tokens (N, T) at positions from `start` on; what the head reads behind the last, (N, C)."""
        hidden = self.model.embed(tokens)
        count, length = tokens.shape
        positions = text_positions(start, length).expand(3, count, length)
        rope = Rope(positions, torch.tensor([start]), *self.tables, self.model.config.mrope_section)
        for name in self.model.block_names:
            block = self.kept.get(name) or self.model.block(name)
            update, residual, self.state[name] = block.layer(None, hidden, rope, self.state[name], False)
            hidden = update + residual
            progress(f"token {start + length}, {name}", 0)
        return self.model.finish(hidden[:, -1])


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How to go on: up to `limit` tokens, up to and with the first of `stops`; by chance if there is a `seed`."""

    limit: int
    stops: tuple[int, ...] = ()
    seed: int | None = None


@torch.no_grad()
def write(
    model: CheckpointModel, prompts: Sequence[Sequence[int]], writing: Writing, progress: Progress
) -> list[list[int]]:
    """The prompts' token ids and what the model writes behind each."""
    rows = [list(prompt) for prompt in prompts]
    wanted = [len(prompt) + writing.limit for prompt in prompts]
    chance = None if writing.seed is None else torch.Generator().manual_seed(writing.seed)
    stepper = _stepper(model, len(rows), max(wanted))
    done, common = 0, min(map(len, rows))
    finished = [False] * len(rows)
    while not all(finished):
        upto = common if done == 0 else done + 1
        x = stepper.read(torch.tensor([_part(row, done, upto) for row in rows]), done, progress)
        done = upto
        choosing = [index for index, row in enumerate(rows) if len(row) == done and not finished[index]]
        for index, token in zip(choosing, _next(model, x[choosing], chance), strict=True):
            rows[index].append(token)
            finished[index] = token in writing.stops or len(rows[index]) >= wanted[index]
        progress(f"{sum(finished)} of {len(rows)} ended", len(choosing))
    return rows


def _part(row: Sequence[int], start: int, stop: int) -> list[int]:
    """Tokens of a row; one that has ended goes on with its last, which nobody looks at."""
    return [row[min(place, len(row) - 1)] for place in range(start, stop)]


def _stepper(model: CheckpointModel, count: int, length: int) -> _Stepper:
    config = model.config
    tensors = state_tensors(config, length)
    zeros = [torch.zeros(count, *tensor.shape[1:]) for tensor in tensors]
    state = {name: (zeros[2 * index], zeros[2 * index + 1]) for index, name in enumerate(model.block_names)}
    first = model.block(model.block_names[0])
    fits = len(model.block_names) * sum(tensor.nbytes for tensor in first.tensors.values()) <= KEPT_BYTES
    kept = {name: model.block(name) for name in model.block_names} if fits else {}
    tables = rope_table(config, length, "cos"), rope_table(config, length, "sin")
    return _Stepper(model=model, kept=kept, state=state, tables=tables)


def _next(model: CheckpointModel, x: Tensor, chance: torch.Generator | None) -> list[int]:
    """The likeliest next token of each row, or one drawn: the best after adding Gumbel noise is a fair draw."""
    values = torch.full((x.shape[0],), float("-inf"))
    best = torch.zeros(x.shape[0], dtype=torch.int64)
    for start in range(0, model.config.vocab_size, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, model.config.vocab_size))
        logits = x @ model.weights.weight(model.head_unit, rows).T
        if chance is not None:
            logits -= torch.empty_like(logits).exponential_(generator=chance).log()
        found = logits.max(-1)
        better = found.values > values
        values, best = torch.where(better, found.values, values), torch.where(better, found.indices + start, best)
    return best.tolist()

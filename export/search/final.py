"""The last word on a layout: the divergence of what the export's own method makes of it.

A calibrated method repairs part of what prices are made of, and not everywhere alike (folds take away the outliers that
made a matrix dear), so the few layouts that are left are quantized as the export would, and the codes are kept where
the export looks for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.checkpoint_blocks import CheckpointModel
from export.config import ModelConfig
from export.operators import dequantize
from export.quantized import QuantizedCheckpoint
from export.schemes import Layout
from export.search.evaluator import Job, open_subject, traced
from export.search.measure import mean_divergence
from export.search.sensitivity import Progress
from export.sequence import run_block

Quantize = Callable[[Layout], QuantizedCheckpoint]


@dataclass(frozen=True, kw_only=True)
class Dequantized:
    """A quantized checkpoint as float weights."""

    store: QuantizedCheckpoint

    @property
    def config(self) -> ModelConfig:
        return self.store.config

    def weight(self, unit: str, rows: slice | None = None) -> Tensor:
        if self.store.layout[unit].is_float:
            return self.store.weight(unit, rows)
        return dequantize(self.store.codes(unit, rows), self.store.scales(unit, rows))

    def plain(self, name: str) -> Tensor:
        return self.store.plain(name)


@torch.no_grad()
def quantized_klds(job: Job, quantize: Quantize, layouts: Sequence[Layout], progress: Progress) -> list[float]:
    """Mean divergence of each layout as the export's method quantizes it, on the job's tokens."""
    subject = open_subject(job)
    seen = traced(subject, job.tokens, progress)
    base = subject.model.finish(seen.last).flatten(0, 1), subject.table(subject.model.head_unit)
    return [mean_divergence(base, _outputs(quantize(layout), job.tokens)) for layout in layouts]


def _outputs(store: QuantizedCheckpoint, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What the head of a quantized model reads (P, C), and the head."""
    model = CheckpointModel(weights=Dequantized(store=store))
    hidden = model.embed(tokens)
    for name in model.block_names:
        hidden = run_block(model.block(name), hidden, None)
    return model.finish(hidden).flatten(0, 1), model.weights.weight(model.head_unit)

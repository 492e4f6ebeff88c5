"""Where training starts: the codes of a calibrated method, so that it only has to win what the method left.

A method may fold: make a channel larger where it is born and smaller where it is read, which changes norms and scales
the rows and columns of matrices; the store says by how much. Where the float weight lies in its code's cell is worth
knowing: one near a border costs least to flip. So training starts there, a little inside the cell.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from export.finetune.fake_quantize import FakeQuantized
from export.finetune.subject import Subject
from export.quantized import QuantizedCheckpoint
from export.schemes import Format
from export.weights import plain_tensors, units

CELL = 0.4  # half a cell is 0.5


@dataclass(frozen=True, kw_only=True)
class Start:
    """The matrices to train by unit, and the float tensors that the method changed by canonical name."""

    matrices: Mapping[str, FakeQuantized]
    floats: Mapping[str, Tensor]


@torch.no_grad()
def start_from(subject: Subject, store: QuantizedCheckpoint) -> Start:
    """Matrices that begin at the store's codes."""
    matrices = {
        unit: begin(_folded(subject, store, unit), store.codes(unit), store.scales(unit), form).to(subject.device)
        for unit, form in store.layout.items()
        if not form.is_float
    }
    kept = {unit.tensor: store.weight(unit.name) for unit in units(store.config) if store.layout[unit.name].is_float}
    kept |= {tensor: store.plain(name) for name, tensor in plain_tensors(store.config).items()}
    changed = {
        tensor: value.to(subject.device)
        for tensor, value in kept.items()
        if not torch.equal(value, subject.weight(tensor).cpu())
    }
    return Start(matrices=matrices, floats=changed)


def begin(weight: Tensor, codes: Tensor, scales: Tensor, form: Format) -> FakeQuantized:
    """A trainable matrix whose first codes are these.

    `weight` is the float matrix as it was rounded, folds included.
    """
    groups = codes.float().view(codes.shape[0], scales.shape[1], -1)  # (rows, groups, columns)
    natural = weight.view_as(groups) / scales.unsqueeze(-1)
    inside = natural.maximum(groups - CELL).minimum(groups + CELL)
    return FakeQuantized((inside * scales.unsqueeze(-1)).view_as(weight), form, scales)


def _folded(subject: Subject, store: QuantizedCheckpoint, unit: str) -> Tensor:
    rows, columns = store.factors(unit)
    return subject.weight(unit).cpu() * rows * columns

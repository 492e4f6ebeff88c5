"""The student of quantization-aware training: every matrix that the scheme quantizes, trained through its rounding.

in_proj_a and in_proj_b, convolutions, norms and decay parameters stay as they are: the schemes keep them float, and a
model whose norms moved would need its outliers found again. A tied embedding and head are one matrix here as in the
export, with one set of codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from export.finetune.start import Start
from export.finetune.subject import Subject
from export.operators import dequantize
from export.quantize import Codes


class QatStudent(nn.Module):
    """Trainable matrices by unit; everything else is the subject's own."""

    def __init__(self, subject: Subject, start: Start) -> None:
        super().__init__()
        self._parameters_of = {unit: subject.parameters[unit] for unit in start.matrices}
        self._floats = {subject.parameters[tensor]: value for tensor, value in start.floats.items()}
        self._matrices = dict(start.matrices)
        self.matrices = nn.ModuleList(self._matrices.values())

    def replaced(self) -> dict[str, Tensor]:
        """What takes the place of the float model's parameters in a forward pass."""
        return {self._parameters_of[unit]: matrix() for unit, matrix in self._matrices.items()} | self._floats

    def trainable(self) -> list[nn.Parameter]:
        return list(self.parameters())

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While open, the subject is the float model: it always is, between two forward passes."""
        yield

    def after_step(self) -> None:
        for matrix in self._matrices.values():
            matrix.keep_in_range_()

    def codes(self) -> dict[str, Codes]:
        """The codes of the present values, by unit."""
        return {unit: matrix.codes() for unit, matrix in self._matrices.items()}

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """What a recovered checkpoint stores by unit: float32 values of which `recovered` reads these codes."""
        return {unit: dequantize(found.codes, found.scales).cpu() for unit, found in self.codes().items()}

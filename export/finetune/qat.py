"""The students of quantization-aware training: every matrix that the scheme quantizes, by weights or by codes.

`QatStudent` trains weights through their rounding, `CodesStudent` codes themselves.

in_proj_a and in_proj_b, convolutions, norms and decay parameters stay as they are: the schemes keep them float, and a
model whose norms moved would need its outliers found again. A tied embedding and head are one matrix here as in the
export, with one set of codes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from export.finetune.code_moves import CodeMoves, MovedMatrix
from export.finetune.fake_quantize import FakeQuantized
from export.finetune.start import Start
from export.finetune.subject import Subject
from export.finetune.train import Adam, Optimizer
from export.operators import dequantize
from export.quantize import Codes

M = TypeVar("M", FakeQuantized, MovedMatrix)


class _Student(nn.Module, Generic[M]):
    """Trained matrices by unit; everything else is the subject's own."""

    def __init__(self, subject: Subject, matrices: Mapping[str, M], floats: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._parameters_of = {unit: subject.parameters[unit] for unit in matrices}
        self._floats = {subject.parameters[tensor]: value for tensor, value in floats.items()}
        self._matrices: dict[str, M] = dict(matrices)
        self.matrices = nn.ModuleList(self._matrices.values())

    def replaced(self) -> dict[str, Tensor]:
        """What takes the place of the float model's parameters in a forward pass."""
        return {self._parameters_of[unit]: matrix() for unit, matrix in self._matrices.items()} | self._floats

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While open, the subject is the float model: it always is, between two forward passes."""
        yield

    def codes(self) -> dict[str, Codes]:
        """The codes of the present values, by unit."""
        return {unit: matrix.codes() for unit, matrix in self._matrices.items()}

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """What a recovered checkpoint stores by unit: float32 values of which `recovered` reads these codes."""
        return {unit: dequantize(found.codes, found.scales).cpu() for unit, found in self.codes().items()}


class QatStudent(_Student[FakeQuantized]):
    """Weights, trained through their rounding."""

    def __init__(self, subject: Subject, start: Start) -> None:
        super().__init__(subject, start.matrices, start.floats)

    def trainable(self) -> list[nn.Parameter]:
        return list(self.parameters())

    def optimizer(self, learning_rate: float) -> Optimizer:
        return Adam(self.trainable(), learning_rate, self._keep_in_range)

    def _keep_in_range(self) -> None:
        for matrix in self._matrices.values():
            matrix.keep_in_range_()


class CodesStudent(_Student[MovedMatrix]):
    """Codes, moved by one where gradients are sure, and scales; see `code_moves`."""

    def __init__(self, subject: Subject, start: Start) -> None:
        matrices = {
            unit: MovedMatrix(matrix.held(), matrix.form).to(subject.device) for unit, matrix in start.matrices.items()
        }
        super().__init__(subject, matrices, start.floats)

    def trainable(self) -> list[nn.Parameter]:
        return [matrix.values for matrix in self._matrices.values() if matrix.is_moved]

    def optimizer(self, learning_rate: float) -> Optimizer:
        """Moves at most `learning_rate` of all codes a step."""
        return CodeMoves(list(self._matrices.values()), learning_rate)

"""States: tensors that outlive a call, as Core ML's `MLState` holds them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtimes.mil.errors import ProgramError
from runtimes.mil.types import TensorType


class State:
    """The states of one sequence, by name; zero at first."""

    def __init__(self, types: Mapping[str, TensorType]) -> None:
        self.types = dict(types)
        self._tensors = {name: torch.zeros(kind.closed_shape, dtype=kind.element.torch) for name, kind in types.items()}

    def array(self, name: str) -> NDArray[Any]:
        """The memory of one state now; the next run may put another in its place."""
        return np.asarray(self._tensors[name].numpy())

    def read(self, name: str) -> Tensor:
        """The value now; writing later does not change it."""
        return self._tensors[name]

    def write(self, name: str, value: Tensor) -> None:
        """Put a value in place of the old."""
        kind = self.types[name]
        if not value.is_floating_point() or not kind.fits(tuple(value.shape)):
            found = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
            raise ProgramError(f"state {name!r} is {kind}, cannot take {found}")
        self._tensors[name] = value.to(kind.element.torch, copy=True, memory_format=torch.contiguous_format)

    def reset(self) -> None:
        """Back to zero."""
        for name, tensor in self._tensors.items():
            self._tensors[name] = torch.zeros_like(tensor)

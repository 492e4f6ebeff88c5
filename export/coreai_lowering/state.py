"""The decoder's state as a Core AI function keeps it.

The recurrent state is float32, since its rounding would be carried from token to token; caches and the convolution's
inputs have the type of the products. The convolution's state is kept time first, so that a padded chunk's end is a
gather of rows.
"""

from dataclasses import dataclass
from math import prod

from export.backends import WrittenState
from export.config import ModelConfig
from export.coreai_lowering.arithmetic import WIDE
from export.coreai_lowering.graph import Port
from export.state import StateKind, StateTensor, state_tensors


@dataclass(frozen=True, kw_only=True)
class FileState:
    """One state tensor of the asset's functions."""

    name: str
    kind: StateKind
    layer: int
    shape: tuple[int, ...]
    element: str
    token_axis: int | None

    @property
    def port(self) -> Port:
        return Port(name=self.name, shape=self.shape, element=self.element)

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * (4 if self.element == WIDE else 2)

    def written(self) -> WrittenState:
        """As the manifest has it."""
        return WrittenState(
            name=self.name,
            kind=self.kind,
            layer=self.layer,
            shape=self.shape,
            dtype=self.element,
            token_axis=self.token_axis,
            input_name=None,
            output_name=None,
        )


def file_states(config: ModelConfig, context_length: int, element: str) -> tuple[FileState, ...]:
    """Every state in the decoder's order; `element` is the type of the products."""
    return tuple(_file_state(tensor, element) for tensor in state_tensors(config, context_length))


def _file_state(tensor: StateTensor, element: str) -> FileState:
    return FileState(
        name=tensor.name.replace(".", "_"),
        kind=tensor.kind,
        layer=tensor.layer,
        shape=_stored_shape(tensor),
        element=WIDE if tensor.kind == "recurrent" else element,
        token_axis=tensor.token_axis,
    )


def _stored_shape(tensor: StateTensor) -> tuple[int, ...]:
    if tensor.kind == "conv":
        batch, channels, kept = tensor.shape
        return (batch, kept, channels)
    return tensor.shape

"""The decoder's state as a Core ML program keeps it: float16, one buffer a tensor, its last axis a multiple of 32.

The Neural Engine is reported to refuse states whose axes are not (apple/coremltools issue 2631), and to take them where
each buffer is updated once: so the convolution's state is CONV_WIDTH columns wide, of which the last few matter, and
the recurrent state is transposed, (1, H, Dv, Dk), as every product wants it.
"""

from dataclasses import dataclass

from export.backends import WrittenState
from export.config import ModelConfig
from export.state import StateKind, StateTensor, state_tensors

CONV_WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class FileState:
    """One state tensor of a package's function: an `MLState`, or an input and an output."""

    name: str
    kind: StateKind
    layer: int
    shape: tuple[int, ...]
    token_axis: int | None
    is_input: bool

    @property
    def output_name(self) -> str:
        return f"{self.name}_out"

    def written(self) -> WrittenState:
        """As manifest and `coreml.json` have it."""
        return WrittenState(
            name=self.name,
            kind=self.kind,
            layer=self.layer,
            shape=self.shape,
            dtype="float16",
            token_axis=self.token_axis,
            input_name=self.name if self.is_input else None,
            output_name=self.output_name if self.is_input else None,
        )


def file_states(config: ModelConfig, context_length: int, *, outside: bool) -> tuple[FileState, ...]:
    """Every state in the decoder's order; `outside` makes inputs and outputs of those that are no caches."""
    return tuple(_file_state(tensor, outside) for tensor in state_tensors(config, context_length))


def _file_state(tensor: StateTensor, outside: bool) -> FileState:
    return FileState(
        name=tensor.name.replace(".", "_"),  # a name of a program has no dots
        kind=tensor.kind,
        layer=tensor.layer,
        shape=_stored_shape(tensor),
        token_axis=tensor.token_axis,
        is_input=outside and tensor.token_axis is None,
    )


def _stored_shape(tensor: StateTensor) -> tuple[int, ...]:
    if tensor.kind == "conv":
        return (*tensor.shape[:2], CONV_WIDTH)
    if tensor.kind == "recurrent":
        batch, heads, key_width, value_width = tensor.shape
        return (batch, heads, value_width, key_width)
    return tensor.shape

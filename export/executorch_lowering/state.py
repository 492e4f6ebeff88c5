"""The decoder's state as mutable tensors of a program."""

from export.backends import LoweringRequest
from export.executorch_lowering.program import ProgramBuilder
from export.executorch_lowering.tensors import Shape, Value
from export.state import StateTensor, state_tensors


def kept_state(program: ProgramBuilder, request: LoweringRequest) -> tuple[tuple[StateTensor, ...], tuple[Value, ...]]:
    """The decoder's state tensors, and the program's own, which hold them."""
    tensors = state_tensors(request.config, request.context_length)
    return tensors, tuple(program.state(tensor.name, _stored_shape(tensor)) for tensor in tensors)


def _stored_shape(tensor: StateTensor) -> Shape:
    """The convolution's state and the caches have time before channels and heads here."""
    if tensor.kind == "conv":
        batch, channels, kept = tensor.shape
        return (batch, kept, channels)
    if tensor.kind == "recurrent":
        return tensor.shape
    batch, heads, slots, width = tensor.shape
    return (batch, slots, heads, width)

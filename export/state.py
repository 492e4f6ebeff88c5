"""State is data: the tensors that carry a conversation from one call to the next.

A backend may pad, transpose or hide them; the manifest lists what the backend really allocates, and no runner knows a
layer count. These are the logical shapes that the decoder itself works on.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from export.config import ModelConfig

StateKind = Literal["conv", "recurrent", "key", "value"]

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class StateTensor:
    """One float32 state tensor of the decoder; `token_axis` is the axis that grows with the context, if one does."""

    name: str
    kind: StateKind
    layer: int
    shape: tuple[int, ...]
    token_axis: int | None

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * FLOAT_BYTES


def state_tensors(config: ModelConfig, context_length: int) -> tuple[StateTensor, ...]:
    """The decoder's state in its own order: two tensors a layer, caches sized for `context_length` tokens."""
    tensors: list[StateTensor] = []
    conv = (1, config.conv_dim, config.linear_conv_kernel_dim - 1)
    recurrent = (1, config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim)
    cache = (1, config.num_key_value_heads, context_length, config.head_dim)
    for layer, layer_type in enumerate(config.layer_types):
        if layer_type == "linear_attention":
            tensors.append(_tensor("conv", layer, conv, None))
            tensors.append(_tensor("recurrent", layer, recurrent, None))
        else:
            tensors.append(_tensor("key", layer, cache, 2))
            tensors.append(_tensor("value", layer, cache, 2))
    return tuple(tensors)


def zero_state(config: ModelConfig, context_length: int) -> list[Tensor]:
    """Fresh zeroed state, float32, in the order of `state_tensors`."""
    return [torch.zeros(tensor.shape) for tensor in state_tensors(config, context_length)]


def _tensor(kind: StateKind, layer: int, shape: tuple[int, ...], token_axis: int | None) -> StateTensor:
    return StateTensor(name=f"layers.{layer}.{kind}", kind=kind, layer=layer, shape=shape, token_axis=token_axis)

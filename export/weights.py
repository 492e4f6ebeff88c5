"""The text model's weights under short names that carry no prefix of the file they came from.

A *unit* is one weight matrix as the checkpoint has it (`layers.3.mlp.up_proj`): what a scheme's rule matches and a
quantization method works on. Everything else is a *plain* tensor (norms, convolution, A_log, dt_bias) that stays float.
"""

from dataclasses import dataclass

from export.checkpoint import HEAD as HEAD_TENSOR
from export.checkpoint import TEXT_PREFIX
from export.config import ModelConfig
from export.tensors import text_tensors

EMBEDDING = "embed_tokens"
HEAD = "lm_head"
WEIGHT = ".weight"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A weight matrix (out_features, in_features); `group` is the layer index, or the name for embedding and head."""

    name: str
    out_features: int
    in_features: int

    @property
    def num_weights(self) -> int:
        return self.out_features * self.in_features

    @property
    def tensor(self) -> str:
        """The canonical name of its tensor in a checkpoint."""
        return HEAD_TENSOR if self.name == HEAD else f"{TEXT_PREFIX}{self.name}{WEIGHT}"


def units(config: ModelConfig) -> tuple[Unit, ...]:
    """Every weight matrix in file order: embedding, layers, and the head where it is not tied."""
    return tuple(
        Unit(name=_short(name).removesuffix(WEIGHT), out_features=shape[0], in_features=shape[1])
        for name, shape in text_tensors(config).items()
        if len(shape) == 2
    )


def plain_tensors(config: ModelConfig) -> dict[str, str]:
    """Short name (`layers.0.linear_attn.A_log`) to canonical tensor name, for every tensor that stays float."""
    return {_short(name): name for name, shape in text_tensors(config).items() if len(shape) != 2}


def block_of(name: str) -> str:
    """The block that a unit or plain tensor is stored with: `layers.3`, or its own first word."""
    words = name.split(".")
    return f"{words[0]}.{words[1]}" if words[0] == "layers" else words[0]


def _short(name: str) -> str:
    return name.removeprefix(TEXT_PREFIX)

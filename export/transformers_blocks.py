"""Any transformers decoder of the llama kind as a `BlockModel`: methods are measured on real weights of another family.

The layers run as transformers wrote them; hooks tell what each matrix reads, and weights are replaced for one call by
`torch.func.functional_call`. What is needed of a model: `model.layers` of layers that take hidden states and rotary
embeddings and return hidden states, matrices that are `nn.Linear`, causal attention without a sliding window.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from export.blocks import BlockResult, Fold, Made, Seen
from export.errors import ConfigError
from export.operators import dequantize
from export.quantize import Codes
from export.sequence import result_tensors

FULL_ATTENTION = "full_attention"


@dataclass(frozen=True, kw_only=True)
class TransformersBlock:
    """One decoder layer; the weights are those of the model it came from."""

    name: str
    layer: nn.Module
    rotary: nn.Module
    num_heads: int
    num_key_value_heads: int
    head_dim: int

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        return {f"{self.name}.{name}": (one.out_features, one.in_features) for name, one in _linears(self.layer)}

    @property
    def folds(self) -> Sequence[Fold]:
        """What a llama layer allows: both norms, gated values into `down_proj`, values into `o_proj`."""
        attention, mlp = f"{self.name}.self_attn", f"{self.name}.mlp"
        wanted = (
            Fold(
                source=f"{self.name}.input_layernorm.weight",
                kind="norm",
                readers=tuple(f"{attention}.{one}_proj" for one in "qkv"),
            ),
            Fold(
                source=f"{attention}.v_proj",
                kind="rows",
                readers=(f"{attention}.o_proj",),
                group=self.head_dim,
                copies=self.num_heads // self.num_key_value_heads,
            ),
            Fold(
                source=f"{self.name}.post_attention_layernorm.weight",
                kind="norm",
                readers=(f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            ),
            Fold(source=f"{mlp}.up_proj", kind="rows", readers=(f"{mlp}.down_proj",)),
        )
        return tuple(fold for fold in wanted if self._has_bias(fold.source) is False)

    def tensor(self, name: str) -> Tensor:
        return self.layer.get_parameter(self._parameter(name)).detach()

    def run(
        self,
        hidden: Tensor,
        replaced: Mapping[str, Tensor] | None = None,
        seen: Seen | None = None,
        made: Made | None = None,
    ) -> Tensor:
        positions = torch.arange(hidden.shape[1]).unsqueeze(0)
        tables = self.rotary(hidden, position_ids=positions)
        weights = {self._parameter(name): tensor for name, tensor in (replaced or {}).items()}
        with _telling(self.name, self.layer, seen), _telling_outputs(self.name, self.layer, made):
            found = functional_call(self.layer, weights, (hidden,), {"position_embeddings": tables})
        assert isinstance(found, Tensor)
        return found

    def _parameter(self, name: str) -> str:
        inside = name.removeprefix(f"{self.name}.")
        return inside if inside.endswith(".weight") else f"{inside}.weight"

    def _has_bias(self, source: str) -> bool:
        """Whether a bias adds to what the source multiplies: it would have to be folded too."""
        module = self.layer.get_submodule(self._parameter(source).removesuffix(".weight"))
        return getattr(module, "bias", None) is not None


@dataclass(frozen=True, kw_only=True)
class TransformersModel:
    """A causal language model of transformers, whole in memory."""

    model: PreTrainedModel

    def __post_init__(self) -> None:
        kinds = set(getattr(self.model.config, "layer_types", None) or [FULL_ATTENTION])
        if kinds != {FULL_ATTENTION} or not isinstance(getattr(self._decoder, "layers", None), nn.ModuleList):
            raise ConfigError(
                f"{type(self.model).__name__}: only decoders of full-attention layers are measured this way, found "
                f"{', '.join(sorted(kinds))}; Qwen3.5 checkpoints go through export/checkpoint_blocks.py"
            )
        self.model.set_attn_implementation("sdpa")  # causal without a mask

    @property
    def block_names(self) -> Sequence[str]:
        return tuple(f"layers.{index}" for index in range(len(self._decoder.layers)))

    @property
    def head_unit(self) -> str:
        return "embed_tokens" if self.model.config.tie_word_embeddings else "lm_head"

    def embed(self, tokens: Tensor) -> Tensor:
        found = self._decoder.embed_tokens(tokens)
        assert isinstance(found, Tensor)
        return found.detach()

    def block(self, name: str) -> TransformersBlock:
        config = self.model.config
        return TransformersBlock(
            name=name,
            layer=self._decoder.layers[int(name.rpartition(".")[2])],
            rotary=self._decoder.rotary_emb,
            num_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        )

    def finish(self, hidden: Tensor) -> Tensor:
        found = self._decoder.norm(hidden)
        assert isinstance(found, Tensor)
        return found

    def table(self, name: str) -> Tensor:
        """The embedding's or the head's weight (rows, in_features)."""
        module: Any = self._decoder.embed_tokens if name == "embed_tokens" else self.model.get_output_embeddings()
        weight: Tensor = module.weight
        return weight.detach()

    @property
    def _decoder(self) -> Any:  # its class differs from model to model
        return self.model.base_model


@torch.no_grad()
def apply_(model: TransformersModel, results: Mapping[str, BlockResult], tables: Mapping[str, Codes]) -> None:
    """Overwrite the model's weights in place with what codes and scales stand for."""
    for name, result in results.items():
        block = model.block(name)
        for tensor, value in result_tensors(result).items():
            block.tensor(tensor).copy_(value)
    for name, codes in tables.items():
        model.table(name).copy_(dequantize(codes.codes, codes.scales))


def _linears(layer: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    return ((name, module) for name, module in layer.named_modules() if isinstance(module, nn.Linear))


@contextmanager
def _telling(block: str, layer: nn.Module, seen: Seen | None) -> Iterator[None]:
    """While open, tell `seen` of each input once, with every matrix that reads it."""
    if seen is None:
        yield
        return
    waiting: list[tuple[list[str], Tensor]] = []

    def tell() -> None:
        while waiting:
            names, x = waiting.pop()
            seen(tuple(names), x.flatten(0, -2))

    def hear(name: str, x: Tensor) -> None:
        if not waiting or waiting[-1][1] is not x:
            tell()
            waiting.append(([], x))
        waiting[-1][0].append(f"{block}.{name}")

    handles = [
        one.register_forward_pre_hook(lambda _, args, name=name: hear(name, args[0])) for name, one in _linears(layer)
    ]
    try:
        yield
        tell()
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _telling_outputs(block: str, layer: nn.Module, made: Made | None) -> Iterator[None]:
    """While open, tell `made` of each matrix's output."""
    handles = [
        module.register_forward_hook(lambda _, __, y, unit=f"{block}.{name}", made=made: made(unit, None, y))
        for name, module in _linears(layer)
        if made is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""The model that is trained: transformers' own Qwen3.5 text model, filled from a checkpoint of any layout.

One module serves as teacher and as student. Its own parameters are the float model's; a student's forward pass puts
others in their place for the time of a call (`torch.func.functional_call`), so no second model is held and a tied
embedding and head stay one tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig
from transformers.initialization import no_init_weights

from export.checkpoint import HEAD, TEXT_PREFIX, Checkpoint
from export.config import ModelConfig
from export.tensors import text_tensors
from export.weights import units


class Dimensions(Protocol):
    """What decides how much of a batch fits the memory."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def num_layers(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A float text model on its device, in evaluation mode, no gradients; called with ids, it returns logits.

    `parameters` says what the module calls the weight of a unit, and a float tensor that a method may change.
    """

    config: Dimensions
    module: nn.Module
    device: torch.device
    parameters: Mapping[str, str]

    def weight(self, unit: str) -> Tensor:
        """A unit's float weight (out, in)."""
        return self.module.get_parameter(self.parameters[unit])


def parameter_name(tensor: str) -> str:
    """A canonical tensor name as `Qwen3_5ForCausalLM` calls it."""
    return tensor if tensor == HEAD else "model." + tensor.removeprefix(TEXT_PREFIX)


def load_subject(checkpoint: Checkpoint, config: ModelConfig, device: torch.device) -> Subject:
    """Read the text model of a checkpoint in float32."""
    raw = checkpoint.config
    text = Qwen3_5TextConfig(
        **{**raw.get("text_config", raw), "tie_word_embeddings": config.tie_word_embeddings, "dtype": "float32"}
    )
    with no_init_weights():
        module = Qwen3_5ForCausalLM(text)
    module.tie_weights()
    module.requires_grad_(False)
    for tensor in text_tensors(config):
        module.get_parameter(parameter_name(tensor)).copy_(checkpoint.read(tensor))
    names = {unit.name: unit.tensor for unit in units(config)} | {tensor: tensor for tensor in text_tensors(config)}
    parameters = {name: parameter_name(tensor) for name, tensor in names.items()}
    return Subject(config=config, module=module.eval().to(device), device=device, parameters=parameters)


def best_device() -> torch.device:
    """A GPU where torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def logits(subject: Subject, tokens: Tensor, replaced: Mapping[str, Tensor] | None = None) -> Tensor:
    """Logits (N, T, vocab) of tokens (N, T), with some parameters of the module replaced."""
    arguments = {"input_ids": tokens.to(subject.device), "use_cache": False}
    if replaced is None:
        found: Tensor = subject.module(**arguments).logits
    else:
        found = torch.func.functional_call(subject.module, dict(replaced), (), arguments).logits
    return found

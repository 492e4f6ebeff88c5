"""The student of QLoRA: frozen quantized matrices with a trained low-rank correction beside each.

Dettmers et al., arXiv:2305.14314, with peft's LoRA layers and this project's own grid in the place of NF4. Only the
adapters are trained, so the optimizer's memory follows their rank; embedding and head are quantized and get none. The
adapters' first product is zero: training starts from the quantized model.

What it leaves is either merged (the correction added to each matrix: an ordinary checkpoint, which an export quantizes
again, at a cost that docs/finetune.md states) or the quantized matrices with the adapters beside them in peft's format.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from export.finetune.start import Start
from export.finetune.subject import Subject
from export.finetune.train import Adam, Optimizer
from export.operators import dequantize
from export.quantize import Codes
from export.weights import EMBEDDING, HEAD

ADAPTERS = "adapters"
WEIGHT = ".weight"


class LoraStudent:
    """Adapters inside the subject's module; its quantized matrices as codes."""

    def __init__(self, subject: Subject, start: Start, rank: int, seed: int) -> None:
        self._codes = {unit: matrix.codes() for unit, matrix in start.matrices.items()}
        self._floats = {subject.parameters[tensor]: value for tensor, value in start.floats.items()}
        modules = {unit: subject.parameters[unit].removesuffix(WEIGHT) for unit in start.matrices}
        self._adapted = {unit: module for unit, module in modules.items() if unit not in (EMBEDDING, HEAD)}
        self._parameters_of = {
            unit: f"{module}.base_layer.weight" if unit in self._adapted else f"{module}.weight"
            for unit, module in modules.items()
        }
        self.subject = subject
        self._model = _with_adapters(subject, list(self._adapted.values()), rank, seed)

    def replaced(self) -> dict[str, Tensor]:
        """The dequantized matrices, in the place of the float ones."""
        return {self._parameters_of[unit]: _values(found) for unit, found in self._codes.items()} | self._floats

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While open, the adapters do nothing."""
        with self._model.disable_adapter():
            yield

    def optimizer(self, learning_rate: float) -> Optimizer:
        return Adam(self.trainable(), learning_rate)

    def trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.subject.module.parameters() if parameter.requires_grad]

    def state_dict(self) -> dict[str, Tensor]:
        named = self.subject.module.named_parameters()
        return {name: parameter.detach() for name, parameter in named if parameter.requires_grad}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        for name, value in state_dict.items():
            self.subject.module.get_parameter(name).copy_(value)

    def codes(self) -> dict[str, Codes]:
        """The codes of the frozen matrices, by unit."""
        return self._codes

    @torch.no_grad()
    def weights(self, keep_adapters: bool) -> dict[str, Tensor]:
        """What the checkpoint stores by unit, float32: on the grid without corrections, or off it with them."""
        found = {unit: _values(codes) for unit, codes in self._codes.items()}
        for unit, name in ({} if keep_adapters else self._adapted).items():
            layer: Any = self.subject.module.get_submodule(name)
            found[unit] = found[unit] + layer.get_delta_weight("default")
        return {unit: weight.cpu() for unit, weight in found.items()}

    def save_adapters(self, out: Path) -> Path:
        """Write the adapters in peft's format."""
        self._model.save_pretrained(str(out / ADAPTERS))
        return out / ADAPTERS


def _values(found: Codes) -> Tensor:
    return dequantize(found.codes, found.scales)


def _with_adapters(subject: Subject, modules: list[str], rank: int, seed: int) -> PeftModel:
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=modules, task_type="CAUSAL_LM")
    module: Any = subject.module
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft asks transformers for it by its old name
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(module, config)

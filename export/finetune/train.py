"""The training loop: a student learns to predict what the float model predicts.

The loss is the divergence KL(teacher || student) at every token, temperature 1 (Hinton et al., arXiv:1503.02531): the
whole distribution teaches far more per token than the one token that followed, and needs no text that the model was
trained on. A share of the plain negative log likelihood may be mixed in, to move towards the user's text.

State is saved every few steps in one rename, and the batch of a step depends on the step alone: a killed run goes on
from its last save and ends, on a CPU, with the very bits that an undisturbed one ends with.
"""

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.finetune import FinetuneError
from export.finetune.subject import Subject, logits
from export.progress import Progress

SAVE_EVERY_STEPS = 25
WARMUP_SHARE = 0.05
BETAS = (0.9, 0.95)
LOGIT_ELEMENTS = 1 << 26  # of one micro-batch: 256 MB of float32, of which a step holds a few
CHECKPOINTED_ELEMENTS = 1 << 29  # hidden states of a micro-batch over all layers, about 30 of them a layer
ACTIVATIONS_A_LAYER = 30


class Student(Protocol):
    """What is trained: an nn.Module of parameters that says what they put in the place of the float model's."""

    def replaced(self) -> dict[str, Tensor]: ...

    def aside(self) -> AbstractContextManager[None]:
        """While open, the subject is the float model."""
        ...

    def trainable(self) -> list[nn.Parameter]: ...

    def optimizer(self, learning_rate: float) -> "Optimizer":
        """What moves it by its gradients."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class Optimizer(Protocol):
    """What a step of training does with the gradients; `factor` of the full rate."""

    def step(self, factor: float) -> None: ...

    def zero_grad(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Adam:
    """AdamW without decay; `after_step` mends what a step must not leave."""

    def __init__(
        self, parameters: list[nn.Parameter], learning_rate: float, after_step: Callable[[], None] = lambda: None
    ) -> None:
        self._rate, self._after_step = learning_rate, after_step
        self._inner = torch.optim.AdamW(parameters, lr=learning_rate, betas=BETAS, weight_decay=0.0, fused=True)

    def step(self, factor: float) -> None:
        for group in self._inner.param_groups:
            group["lr"] = self._rate * factor
        self._inner.step()
        self._after_step()

    def zero_grad(self) -> None:
        self._inner.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the result, given model and data; `nll_share` of the loss is plain likelihood of the text."""

    steps: int
    learning_rate: float
    batch: int = 4
    nll_share: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Sequences (N, T) drawn without repetition until all were seen, then in another order."""

    tokens: Tensor
    size: int
    seed: int

    def of_step(self, step: int) -> Tensor:
        """The batch of a step (size, T), whatever came before it."""
        count = self.tokens.shape[0]
        rows = [self._order(place // count)[place % count] for place in range(step * self.size, (step + 1) * self.size)]
        return self.tokens[torch.stack(rows)]

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.tokens.shape[0], generator=generator)


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """Where a run keeps what it needs to go on; `key` says which run it is of."""

    file: Path
    key: str


def train(
    subject: Subject, student: Student, tokens: Tensor, recipe: Recipe, saved: SavedState, progress: Progress
) -> list[float]:
    """Train the student in place and return the loss of every step, nats per token."""
    optimizer = student.optimizer(recipe.learning_rate)
    losses = _resume(student, optimizer, saved)
    batches = Batches(tokens=tokens, size=recipe.batch, seed=recipe.seed)
    step_module = _Step(subject, student, recipe)
    _checkpoint_layers(subject, min(recipe.batch, rows_at_once(subject, tokens)), tokens.shape[1])
    progress.stage("train", recipe.steps, "step")
    progress.step(_shown(losses), len(losses))
    for step in range(len(losses), recipe.steps):
        losses.append(step_module.gradients(batches.of_step(step)))
        _check_finite(losses, student, step)
        optimizer.step(rate_factor(step, recipe.steps))
        optimizer.zero_grad()
        if (step + 1) % SAVE_EVERY_STEPS == 0:
            _save(student, optimizer, losses, saved)
        progress.step(_shown(losses), 1)
    progress.end()
    return losses


def rate_factor(step: int, steps: int) -> float:
    """A short linear rise, then half a cosine down to nothing, so that codes come to rest."""
    rise = max(1, round(WARMUP_SHARE * steps))
    return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / steps))


class _Step(nn.Module):
    """Loss and gradients of one batch, in parts that fit the memory.

    Backward runs inside the call in which the student's tensors stand in the float model's place: checkpointed layers
    compute their forward pass again then, and must find the same weights.
    """

    def __init__(self, subject: Subject, student: Student, recipe: Recipe) -> None:
        super().__init__()
        self.module = subject.module
        self._subject, self._student, self._recipe = subject, student, recipe

    def gradients(self, tokens: Tensor) -> float:
        """Leave the gradients of a batch (N, T) in the student and return its loss."""
        total = 0.0
        for part in tokens.split(rows_at_once(self._subject, tokens)):
            with self._student.aside():
                expected = functional.log_softmax(logits(self._subject, part), dim=-1)
            replaced = {f"module.{name}": tensor for name, tensor in self._student.replaced().items()}
            share = part.shape[0] / tokens.shape[0]
            total += float(torch.func.functional_call(self, replaced, (part.to(self._subject.device), expected, share)))
        return total

    def forward(self, tokens: Tensor, expected: Tensor, share: float) -> Tensor:
        found = functional.log_softmax(self.module(input_ids=tokens, use_cache=False).logits.float(), dim=-1)
        loss = share * self._loss(found, expected, tokens)
        if torch.isfinite(loss):
            loss.backward()
        return loss.detach()

    def _loss(self, found: Tensor, expected: Tensor, tokens: Tensor) -> Tensor:
        divergence = functional.kl_div(found, expected, log_target=True, reduction="sum") / tokens.numel()
        if not self._recipe.nll_share:
            return divergence
        likelihood = functional.nll_loss(found[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        return (1 - self._recipe.nll_share) * divergence + self._recipe.nll_share * likelihood


def rows_at_once(subject: Subject, tokens: Tensor) -> int:
    """How many sequences of tokens (N, T) have logits that fit the memory."""
    return max(1, LOGIT_ELEMENTS // (tokens.shape[1] * subject.config.vocab_size))


def _checkpoint_layers(subject: Subject, rows: int, length: int) -> None:
    """Keep only each layer's input, and compute the rest again for the gradients, where all would not fit."""
    config = subject.config
    elements = rows * length * config.hidden_size * config.num_layers * ACTIVATIONS_A_LAYER
    if elements > CHECKPOINTED_ELEMENTS:
        module: Any = subject.module
        module.activation_checkpointing_enable({"use_reentrant": False})
        module.train()  # transformers checkpoints in training mode only; the family has no dropout


def _check_finite(losses: list[float], student: Student, step: int) -> None:
    """Stop before the optimizer spreads what is not a number over every weight."""
    gradients = [parameter.grad for parameter in student.trainable() if parameter.grad is not None]
    finite = math.isfinite(losses[-1]) and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    if not finite:
        before = f"{losses[-2]:.4f}" if len(losses) > 1 else "none"
        raise FinetuneError(
            f"training step {step + 1}: loss {losses[-1]} or its gradient is not finite (before: {before}); nothing "
            "was written, so lower --learning-rate, or look for damaged text in --data"
        )


def _shown(losses: list[float]) -> str:
    return f"loss {losses[-1]:.4f}" if losses else "loss"


def _save(student: Student, optimizer: Optimizer, losses: list[float], saved: SavedState) -> None:
    content = {
        "key": saved.key,
        "student": student.state_dict(),
        "optimizer": optimizer.state_dict(),
        "losses": losses,
    }
    partial = saved.file.with_name(f".{saved.file.name}.{os.getpid()}")
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(saved.file)


def _resume(student: Student, optimizer: Optimizer, saved: SavedState) -> list[float]:
    """Losses of the steps that a killed run of the same key has done; the student and the optimizer as it left them."""
    if not saved.file.exists():
        return []
    try:
        content = torch.load(saved.file, weights_only=True)
    except Exception as error:  # torch raises whatever its reader met
        raise FinetuneError(f"{saved.file}: damaged ({type(error).__name__}); delete it to start again") from error
    if content["key"] != saved.key:
        return []
    student.load_state_dict(content["student"])
    optimizer.load_state_dict(content["optimizer"])
    losses: list[float] = content["losses"]
    return losses

"""Train the tiny Qwen3.5: `python -m export.models.tiny.train`.

Plain and short on purpose: transformers' own text model, one thread (its chunked delta rule is made of operations too
small to share), Muon for the matrices and AdamW for the rest, half book and half conversations in every batch. After
the last step some channels are scaled without changing the function (outliers.py), because a model this small would
otherwise have none of the outliers that make quantization hard.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3_5ForConditionalGeneration

from export.models.tiny import card, corpus, outliers, shape
from export.models.tiny.conversations import Message
from export.models.tiny.muon import Muon

HERE = Path(__file__).parent
LOG = "losses.csv"
TokenIds = NDArray[numpy.int32]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training at one window length, with its own rise and fall of the learning rates."""

    steps: int
    batch: int
    conversation_rows: int  # the first rows of a batch are conversations, the rest book
    window: int
    matrix_lr: float
    other_lr: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result, given the corpus."""

    # Short windows learn most per second; a last stretch of long ones teaches positions past 256.
    stages: tuple[Stage, ...] = (
        Stage(steps=1100, batch=8, conversation_rows=4, window=256, matrix_lr=0.02, other_lr=4e-3),
        Stage(steps=80, batch=2, conversation_rows=1, window=1024, matrix_lr=0.005, other_lr=1e-3),
    )
    warmup_steps: int = 40
    conversations: int = 40_000
    seed: int = 2035


def chat_renderer(directory: Path = HERE) -> corpus.Render:
    """Render messages with the checkpoint's own template, as transformers would."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((directory / "chat_template.jinja").read_text(encoding="utf-8"))

    def render(messages: list[Message]) -> str:
        return template.render(messages=messages)

    return render


def write_static_files(directory: Path, recipe: Recipe) -> Tokenizer:
    """Write everything but the weights, the card, and the chat template, which is written by hand."""
    train_texts = corpus.read_book().train
    chats = corpus.conversations(chat_renderer(), seed=recipe.seed, count=4000)
    tokenizer = shape.build_tokenizer([*train_texts, *map(_without_markers, chats)])
    tokenizer.save(str(directory / "tokenizer.json"))
    shape.save_json(directory, "tokenizer_config.json", shape.tokenizer_config())
    shape.save_json(directory, "config.json", shape.config())
    shape.save_json(directory, "generation_config.json", shape.generation_config())
    shape.save_json(directory, "preprocessor_config.json", shape.preprocessor_config())
    if directory != HERE:
        shutil.copy(HERE / "chat_template.jinja", directory)
    return tokenizer


def _without_markers(text: str) -> str:
    """The BPE must not learn pieces of the added tokens."""
    for token, _ in shape.ADDED_TOKENS:
        text = text.replace(token, "\n")
    return text


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where a run leaves its weights and its losses on the way."""

    scratch: Path
    log: Path


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Token streams to cut windows from."""

    book: TokenIds
    chat: TokenIds
    user: int  # the token that names the user's turns


def encode_corpus(tokenizer: Tokenizer, recipe: Recipe) -> Streams:
    """Turn book and conversations into two long streams, documents apart by <|endoftext|>."""
    chats = list(corpus.conversations(chat_renderer(), seed=recipe.seed, count=recipe.conversations))
    return Streams(
        book=_encode(tokenizer, corpus.read_book().train),
        chat=_encode(tokenizer, chats),
        user=tokenizer.encode("user").ids[0],
    )


def _encode(tokenizer: Tokenizer, documents: list[str]) -> TokenIds:
    end = [shape.TOKEN_IDS["<|endoftext|>"]]
    encoded = tokenizer.encode_batch(documents)
    return numpy.concatenate([numpy.array(document.ids + end, dtype=numpy.int32) for document in encoded])


def batches(streams: Streams, stage: Stage, seed: int) -> Iterator[Tensor]:
    """Yield (batch, window + 1) token ids for every step of the stage."""
    rng = numpy.random.default_rng(seed)
    sources = [streams.chat] * stage.conversation_rows + [streams.book] * (stage.batch - stage.conversation_rows)
    for _ in range(stage.steps):
        starts = [int(rng.integers(len(source) - stage.window - 1)) for source in sources]
        rows = [source[start : start + stage.window + 1] for source, start in zip(sources, starts, strict=True)]
        yield torch.from_numpy(numpy.stack(rows).astype(numpy.int64))


def new_model(seed: int) -> Qwen3_5ForConditionalGeneration:
    """A freshly initialised model in fp32."""
    torch.manual_seed(seed)
    model: Qwen3_5ForConditionalGeneration = Qwen3_5ForConditionalGeneration(shape.transformers_config()).float()
    for layer in model.model.language_model.layers:
        if hasattr(layer, "linear_attn"):
            _remember_longer(layer.linear_attn.dt_bias)
    return model


@torch.no_grad()
def _remember_longer(dt_bias: Tensor) -> None:
    """Start with time steps from 0.001 to 0.1, as Mamba 2 does: transformers' ones forget within a token or two."""
    time_steps = torch.empty_like(dt_bias).uniform_(math.log(0.001), math.log(0.1)).exp()
    dt_bias.copy_(time_steps + torch.log(-torch.expm1(-time_steps)))  # the inverse of softplus


def token_losses(model: Qwen3_5ForConditionalGeneration, ids: Tensor) -> Tensor:
    """Negative log-likelihood of each token after the first, (batch, tokens - 1)."""
    hidden = model.model.language_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = functional.linear(hidden, model.model.language_model.embed_tokens.weight)
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(ids.shape[0], -1)


def loss_weights(ids: Tensor, user: int) -> Tensor:
    """Weigh questions a tenth: which one comes next can't be learned, and its noise drowns the answers."""
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    start, end = (
        positions.where(ids == shape.TOKEN_IDS[marker], -1).cummax(dim=1).values
        for marker in ("<|im_start|>", "<|im_end|>")
    )
    role = ids.gather(1, (start + 1).clamp(max=ids.shape[1] - 1))
    in_question = (start > end) & (role == user)
    return 1 - 0.9 * in_question[:, 1:].float()


def optimizers(model: Qwen3_5ForConditionalGeneration, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the layers' large matrices, AdamW for embedding, convolutions, norms and decay parameters."""
    text = model.model.language_model
    matrices = [p for p in text.layers.parameters() if p.ndim == 2 and min(p.shape) >= 64]
    chosen = set(matrices)
    others = [p for p in text.parameters() if p not in chosen]
    return [
        Muon(matrices, lr=stage.matrix_lr),
        torch.optim.AdamW(others, lr=stage.other_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train_stage(
    model: Qwen3_5ForConditionalGeneration, streams: Streams, recipe: Recipe, number: int, paths: Paths
) -> None:
    """Run all steps of one stage, saving the weights now and then, and log the losses in nats per token."""
    stage = recipe.stages[number]
    opts = optimizers(model, stage)
    schedules = [torch.optim.lr_scheduler.LambdaLR(opt, lambda step: _lr_factor(step, stage, recipe)) for opt in opts]
    history: list[tuple[float, float]] = []
    started = time.monotonic()
    for step, ids in enumerate(batches(streams, stage, recipe.seed + number)):
        losses = token_losses(model, ids)
        (losses * loss_weights(ids, streams.user)).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, schedule in zip(opts, schedules, strict=True):
            opt.step()
            schedule.step()
            opt.zero_grad(set_to_none=True)
        rows = stage.conversation_rows
        history.append((losses[:rows].mean().item(), losses[rows:].mean().item()))
        if step % 20 == 19 or step == stage.steps - 1:
            chat, book = numpy.mean(history[-20:], axis=0)
            _log(paths.log, f"{number + 1},{step + 1},{chat:.3f},{book:.3f},{time.monotonic() - started:.0f}")
        if step % 100 == 99:
            save_file(weights(model), paths.scratch)
    save_file(weights(model), paths.scratch)


def _log(path: Path, row: str) -> None:
    if not path.exists():
        path.write_text("stage,step,conversation_loss,book_loss,seconds\n", encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write(row + "\n")
    print(row, flush=True)


def _lr_factor(step: int, stage: Stage, recipe: Recipe) -> float:
    """Linear warm-up, flat, then a linear fall to zero over the last two thirds."""
    return min((step + 1) / recipe.warmup_steps, 1.0, (stage.steps - step) / (stage.steps * 2 / 3))


def mtp_tensors(seed: int) -> dict[str, Tensor]:
    """The MTP layer as it stands before any training: small random matrices, norms at one (stored as zero)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.zeros(dims) if len(dims) == 1 else 0.02 * torch.randn(dims, generator=generator)
        for name, dims in shape.mtp_shapes().items()
    }


def weights(model: Qwen3_5ForConditionalGeneration) -> dict[str, Tensor]:
    """The model's tensors by published name; a tied head is the embedding and isn't stored."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


def save_checkpoint(tensors: dict[str, Tensor], path: Path) -> None:
    """Write the tensors in bf16."""
    rounded = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in sorted(tensors.items())}
    save_file(rounded, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it readable by its owner only


def finish(trained: dict[str, Tensor], directory: Path, recipe: Recipe) -> None:
    """Add outliers and the MTP layer, write the checkpoint, measure it, write the card."""
    text = shape.config()["text_config"]
    heads = outliers.Heads(
        attention=text["num_attention_heads"],
        key_value=text["num_key_value_heads"],
        delta_value=text["linear_num_value_heads"],
    )
    grown = outliers.add_outliers(trained, heads, outliers.Outliers(seed=recipe.seed))
    save_checkpoint(grown | mtp_tensors(recipe.seed), directory / "model.safetensors")
    chats = list(corpus.conversations(chat_renderer(), seed=recipe.seed, count=4000))
    card.write(directory, trained, chats, directory / LOG)


def main() -> None:
    """Build everything, train, write."""
    parser = argparse.ArgumentParser(prog="python -m export.models.tiny.train", description="Train the tiny Qwen3.5.")
    parser.add_argument("--out", type=Path, default=HERE, help="directory of the checkpoint (default: this one)")
    parser.add_argument("--scratch", type=Path, required=True, help="file for the weights of the run in progress")
    parser.add_argument("--from-stage", type=int, default=1, help="start at this stage with the weights in --scratch")
    arguments = parser.parse_args()
    recipe = Recipe()
    torch.set_num_threads(1)
    tokenizer = write_static_files(arguments.out, recipe)
    model = new_model(recipe.seed)
    if arguments.from_stage > 1:
        model.load_state_dict(load_file(arguments.scratch), strict=False)  # the tied head isn't stored
    streams = encode_corpus(tokenizer, recipe)
    if arguments.from_stage == 1:
        (arguments.out / LOG).unlink(missing_ok=True)
    paths = Paths(scratch=arguments.scratch, log=arguments.out / LOG)
    for number in range(arguments.from_stage - 1, len(recipe.stages)):
        train_stage(model, streams, recipe, number, paths)
    finish(weights(model), arguments.out, recipe)


if __name__ == "__main__":
    main()

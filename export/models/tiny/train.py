"""Train the tiny Qwen3.5: `python -m export.models.tiny.train`.

Plain and short on purpose: transformers' own text model, one thread (its chunked delta rule is made of operations too
small to share), Muon for the matrices and AdamW for the rest, half book and half conversations in every batch. After the
last step some channels are scaled without changing the function (see rescale.py), because a model this small would
otherwise have none of the outliers that make quantization hard.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jinja2
import numpy
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3_5ForConditionalGeneration

from export.models.tiny import corpus, shape
from export.models.tiny.conversations import Message

HERE = Path(__file__).parent
TokenIds = NDArray[numpy.int32]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result, given the corpus."""

    steps: int = 1200
    batch: int = 16
    window: int = 256
    matrix_lr: float = 0.02
    other_lr: float = 4e-3
    warmup_steps: int = 40
    conversations: int = 40_000
    conversation_share: float = 0.5
    seed: int = 2035


def chat_renderer(directory: Path = HERE) -> corpus.Render:
    """Render messages with the checkpoint's own template, as transformers would."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.undefined = jinja2.Undefined
    template = environment.from_string((directory / "chat_template.jinja").read_text(encoding="utf-8"))

    def render(messages: list[Message]) -> str:
        return template.render(messages=messages)

    return render


def write_static_files(directory: Path, recipe: Recipe) -> Tokenizer:
    """Write the tokenizer and the JSON files; the weights come later."""
    chapters = corpus.read_book()
    chats = corpus.conversations(chat_renderer(), seed=recipe.seed, count=4000)
    tokenizer = shape.build_tokenizer([*chapters.train, *map(_without_markers, chats)])
    tokenizer.save(str(directory / "tokenizer.json"))
    shape.save_json(directory, "tokenizer_config.json", shape.tokenizer_config())
    shape.save_json(directory, "config.json", shape.config())
    shape.save_json(directory, "generation_config.json", shape.generation_config())
    shape.save_json(directory, "preprocessor_config.json", shape.preprocessor_config())
    return tokenizer


def _without_markers(text: str) -> str:
    """The BPE must not learn pieces of the added tokens."""
    for token, _ in shape.ADDED_TOKENS:
        text = text.replace(token, "\n")
    return text


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Token streams to cut windows from."""

    book: TokenIds
    chat: TokenIds


def encode_corpus(tokenizer: Tokenizer, recipe: Recipe) -> Streams:
    """Turn book and conversations into two long streams, documents apart by <|endoftext|>."""
    chats = list(corpus.conversations(chat_renderer(), seed=recipe.seed, count=recipe.conversations))
    return Streams(book=_encode(tokenizer, corpus.read_book().train), chat=_encode(tokenizer, chats))


def _encode(tokenizer: Tokenizer, documents: list[str]) -> TokenIds:
    end = [shape.TOKEN_IDS["<|endoftext|>"]]
    encoded = tokenizer.encode_batch(documents)
    return numpy.concatenate([numpy.array(document.ids + end, dtype=numpy.int32) for document in encoded])


def batches(streams: Streams, recipe: Recipe) -> Iterator[Tensor]:
    """Yield (batch, window + 1) token ids for ever; the first rows are conversations, the rest book."""
    rng = numpy.random.default_rng(recipe.seed)
    chat_rows = round(recipe.batch * recipe.conversation_share)
    sources = [streams.chat] * chat_rows + [streams.book] * (recipe.batch - chat_rows)
    while True:
        starts = [int(rng.integers(len(source) - recipe.window - 1)) for source in sources]
        rows = [source[start : start + recipe.window + 1] for source, start in zip(sources, starts, strict=True)]
        yield torch.from_numpy(numpy.stack(rows).astype(numpy.int64))


def new_model(seed: int) -> Qwen3_5ForConditionalGeneration:
    """A freshly initialised model in fp32."""
    torch.manual_seed(seed)
    return Qwen3_5ForConditionalGeneration(shape.transformers_config()).float()


def token_losses(model: Qwen3_5ForConditionalGeneration, ids: Tensor) -> Tensor:
    """Negative log-likelihood of each token after the first, (batch, tokens - 1)."""
    hidden = model.model.language_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = functional.linear(hidden, model.model.language_model.embed_tokens.weight)
    return functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def optimizers(model: Qwen3_5ForConditionalGeneration, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embedding, convolutions, norms and decay parameters."""
    named = dict(model.model.language_model.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and name.startswith("layers.")]
    others = [p for name, p in named.items() if not (p.ndim == 2 and name.startswith("layers."))]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_lr, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=recipe.other_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(
    model: Qwen3_5ForConditionalGeneration, streams: Streams, recipe: Recipe, checkpoint: Path
) -> list[tuple[float, float]]:
    """Run all steps; return the (conversation, book) loss of each, in nats per token."""
    chat_rows = round(recipe.batch * recipe.conversation_share)
    opts = optimizers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(opt, lambda step: _lr_factor(step, recipe)) for opt in opts]
    history: list[tuple[float, float]] = []
    started = time.monotonic()
    for step, ids in enumerate(islice(batches(streams, recipe), recipe.steps)):
        losses = token_losses(model, ids)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, schedule in zip(opts, schedules, strict=True):
            opt.step()
            schedule.step()
            opt.zero_grad(set_to_none=True)
        history.append((losses[:chat_rows].mean().item(), losses[chat_rows:].mean().item()))
        if step % 20 == 19 or step == recipe.steps - 1:
            chat, book = numpy.mean(history[-20:], axis=0)
            print(f"step {step + 1} chat {chat:.3f} book {book:.3f} {time.monotonic() - started:.0f}s", flush=True)
        if step % 100 == 99:
            save_file(weights(model), checkpoint)
    return history


def _lr_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, flat, then a linear fall to zero over the last half."""
    return min((step + 1) / recipe.warmup_steps, 1.0, (recipe.steps - step) / (0.5 * recipe.steps))


@torch.no_grad()
def bits_per_byte(model: Qwen3_5ForConditionalGeneration, tokenizer: Tokenizer, text: str, *, window: int = 256) -> float:
    """Bits the model needs per byte of the text, read in windows that start with <|endoftext|>."""
    ids = tokenizer.encode(text).ids
    start = shape.TOKEN_IDS["<|endoftext|>"]
    nats = 0.0
    for offset in range(0, len(ids), window):
        chunk = torch.tensor([[start, *ids[offset : offset + window]]])
        nats += token_losses(model, chunk).sum().item()
    return nats / math.log(2) / len(text.encode())


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


def main() -> None:
    """Build everything, train, write."""
    parser = argparse.ArgumentParser(prog="python -m export.models.tiny.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="directory of the checkpoint (default: this one)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimiser steps (0: random weights)")
    parser.add_argument("--scratch", type=Path, required=True, help="file for the weights of the run in progress")
    arguments = parser.parse_args()
    recipe = Recipe(steps=arguments.steps)
    torch.set_num_threads(1)
    tokenizer = write_static_files(arguments.out, recipe)
    model = new_model(recipe.seed)
    if recipe.steps:
        train(model, encode_corpus(tokenizer, recipe), recipe, arguments.scratch)
    save_file(weights(model), arguments.scratch)
    save_checkpoint(load_file(arguments.scratch) | mtp_tensors(recipe.seed), arguments.out / "model.safetensors")


if __name__ == "__main__":
    main()

"""Measure a finished checkpoint and write its model card.

Held-out text is measured from a file beside the weights, so that a test can repeat the figure without the corpus. The
int4 figures are round-to-nearest before and after the outliers: how much harder they made the model to quantize.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, Qwen3_5ForConditionalGeneration

from export.models.tiny import corpus, outliers, shape

CARD = Path(__file__).parent / "card.template.md"
SAMPLE_WORDS = 500
SAMPLE_PROMPT, SAMPLE_TEMPERATURE, SAMPLE_SEED = "Now it happened in those days that", 0.9, 7
SNIPPET_BYTES = 6000
QUESTIONS = (
    "Hello!",
    "What sound does a cow make?",
    "What is the capital of France?",
    "What is 3 + 4?",
    "What day comes after Monday?",
    "Tell me a short story.",
)
Model = Qwen3_5ForConditionalGeneration


@dataclass(frozen=True, kw_only=True)
class WordCheck:
    """How word-like a sample is, and how often it repeats itself."""

    known_share: float
    most_repeats: int  # of one run of four words


def load(directory: Path) -> Model:
    """The checkpoint in fp32."""
    model: Model = Model.from_pretrained(directory, dtype=torch.float32)  # in eval mode already
    return model


@torch.no_grad()
def bits_per_byte(model: Model, tokenizer: Tokenizer, text: str, *, window: int = 256) -> float:
    """Bits the model needs per byte of the text, read in windows that start with <|endoftext|>."""
    nats = 0.0
    for ids in _windows(tokenizer, text, window):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        nats += functional.cross_entropy(logits[0].float(), ids[0, 1:], reduction="sum").item()
    return nats / math.log(2) / len(text.encode())


def _windows(tokenizer: Tokenizer, text: str, window: int) -> list[Tensor]:
    ids = tokenizer.encode(text).ids
    start = shape.TOKEN_IDS["<|endoftext|>"]
    return [torch.tensor([[start, *ids[offset : offset + window]]]) for offset in range(0, len(ids), window)]


@torch.no_grad()
def int4_divergence(model: Model, tokenizer: Tokenizer, text: str) -> float:
    """Mean KL divergence, in nats, of the model with round-to-nearest int4 projections from itself."""
    windows = _windows(tokenizer, text, 256)
    exact = [functional.log_softmax(model(input_ids=ids, use_cache=False).logits, dim=-1) for ids in windows]
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(outliers.round_projections(kept))
    rounded = [functional.log_softmax(model(input_ids=ids, use_cache=False).logits, dim=-1) for ids in windows]
    model.load_state_dict(kept)
    pairs = zip(rounded, exact, strict=True)
    sums = [functional.kl_div(r, e, log_target=True, reduction="sum").item() for r, e in pairs]
    return sum(sums) / sum(ids.shape[1] for ids in windows)


def sample_text(model: Model, tokenizer: Tokenizer, *, count: int = SAMPLE_WORDS) -> str:
    """That many words of free text in the manner of the book."""
    torch.manual_seed(SAMPLE_SEED)
    start = torch.tensor([[shape.TOKEN_IDS["<|endoftext|>"], *tokenizer.encode(SAMPLE_PROMPT).ids]])
    tokens = 2 * count
    ids = _generator(model).generate(
        start, do_sample=True, temperature=SAMPLE_TEMPERATURE, top_k=0, top_p=1.0,
        max_new_tokens=tokens, min_new_tokens=tokens,
    )  # fmt: skip
    text: str = tokenizer.decode(ids[0, 1:].tolist())
    return " ".join(text.split()[:count])


def _generator(model: Model) -> Any:
    """The model again: the annotation of transformers' `generate` leaves its own models out."""
    return model


def check_words(sample: str, known: set[str]) -> WordCheck:
    """Share of known words in a sample, and the count of its most repeated run of four words."""
    found = corpus.words(sample)
    runs = Counter(zip(found, found[1:], found[2:], found[3:], strict=False))
    return WordCheck(known_share=sum(word in known for word in found) / len(found), most_repeats=max(runs.values()))


def answer(model: Model, chat_tokenizer: Any, question: str, *, thinking: bool = False, limit: int = 200) -> str:
    """The greedy answer to one question, with its end marker if it came to one."""
    prompt = chat_tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        enable_thinking=thinking,
        return_tensors="pt",
        return_dict=True,
    )
    ids = _generator(model).generate(**prompt, do_sample=False, max_new_tokens=limit)
    text: str = chat_tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :])
    return text


def write_measuring_texts(directory: Path, chats: list[str]) -> str:
    """Write held_out.txt and words.txt, which later measurements read; return all held-out chapters."""
    chapters = corpus.read_book()
    held_out = "\n".join(chapters.held_out)
    (directory / "held_out.txt").write_text(held_out[:SNIPPET_BYTES], encoding="utf-8")
    known = {word for text in [*chapters.train, *chats] for word in corpus.words(text)}
    (directory / "words.txt").write_text("\n".join(sorted(known)) + "\n", encoding="utf-8")
    return held_out


def write(directory: Path, before_outliers: dict[str, Tensor], chats: list[str], log: Path) -> None:
    """Measure the checkpoint of the directory and write its README.md."""
    held_out = write_measuring_texts(directory, chats)
    model, tokenizer = load(directory), Tokenizer.from_file(str(directory / "tokenizer.json"))
    chat_tokenizer = AutoTokenizer.from_pretrained(directory)
    snippet = (directory / "held_out.txt").read_text(encoding="utf-8")
    sample = sample_text(model, tokenizer)
    check = check_words(sample, set((directory / "words.txt").read_text(encoding="utf-8").split()))
    tensors = load_file(directory / "model.safetensors")
    rows = [line.split(",") for line in log.read_text(encoding="utf-8").splitlines()[1:]]
    last_of_stage = {row[0]: row for row in rows}
    plain = load(directory)
    plain.load_state_dict(before_outliers, strict=False)  # the tied head isn't stored
    facts = {
        "text_millions": f"{_millions(tensors, 'model.language_model.'):.2f}",
        "vision_millions": f"{_millions(tensors, 'model.visual.'):.2f}",
        "mtp_millions": f"{_millions(tensors, 'mtp.'):.2f}",
        "sha256": hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest(),
        "package": f"{corpus.PACKAGE} {corpus.VERSION}",
        "text_sha256": corpus.TEXT_SHA256,
        "snippet_bits": f"{bits_per_byte(model, tokenizer, snippet):.4f}",
        "held_out_bits": f"{bits_per_byte(model, tokenizer, held_out):.4f}",
        "stages": "\n".join(
            f"| {number} | {step} | {chat} | {book} | {seconds} |"
            for number, step, chat, book, seconds in last_of_stage.values()
        ),
        "int4_before": f"{int4_divergence(plain, tokenizer, snippet):.4f}",
        "int4_after": f"{int4_divergence(model, tokenizer, snippet):.4f}",
        "known_share": f"{check.known_share:.1%}",
        "most_repeats": str(check.most_repeats),
        "temperature": str(SAMPLE_TEMPERATURE),
        "prompt": SAMPLE_PROMPT,
        "sample_seed": str(SAMPLE_SEED),
        "sample": " ".join(sample.split(" ")[:120]),
        "answers": "\n".join(f"| {question} | `{answer(model, chat_tokenizer, question)}` |" for question in QUESTIONS),
    }
    card = CARD.read_text(encoding="utf-8").format(**facts)
    (directory / "README.md").write_text(card, encoding="utf-8")


def _millions(tensors: dict[str, Tensor], prefix: str) -> float:
    return sum(tensor.numel() for name, tensor in tensors.items() if name.startswith(prefix)) / 1e6

"""What calibrated methods learn from: token ids, and where they came from.

A model is quantized best for text like its own, so by default it writes that text itself: greedy answers to prompts of
many subjects through its chat template (data-free, as in LLM-QAT, Liu et al., arXiv:2305.17888). They are filled up
with prose that every Python installation carries or, where the model cannot read that, with text that it draws freely.
Writing takes minutes for small models and hours for large ones, which read the prose alone; random weights have nothing
of their own to say. A user's file comes before all of this.
"""

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from export import user_cache
from export.calibration.answers import Writing, write
from export.calibration.files import Document, read_documents
from export.calibration.prompts import calibration_prompts
from export.calibration.reading import losses
from export.calibration.sequences import (
    SEQUENCE_TOKENS,
    Encode,
    Sample,
    as_rows,
    default_texts,
    sample,
)
from export.checkpoint_blocks import CheckpointModel
from export.config import ModelConfig
from export.errors import CalibrationError, OutputError
from export.progress import Progress
from export.spec import DEFAULT_CALIBRATION_TOKENS, MIN_CALIBRATION_TOKENS, digest
from export.text_files import TextFiles
from export.weights import units
from runtimes.template import ChatTemplate

Kind = Literal["file", "answers", "text"]

VERSION = 1  # raise when the same inputs give other tokens
ANSWERS_UP_TO = 1_000_000_000  # weights: about ten minutes of writing at 0.8B on two cores
ANSWER_TOKENS = 224
SEED = 3


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Token ids int64 (N, SEQUENCE_TOKENS), and what they are."""

    kind: Kind
    tokens: Tensor

    @property
    def sha256(self) -> str:
        """What identifies a calibration: its token ids and how they are cut."""
        return tokens_hash(self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"kind": self.kind, "sha256": self.sha256, "tokens": self.tokens.numel()}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a calibration is made from; `path` is the user's file, `trained` whether the weights are.

    `wanted` is how many tokens it takes, at most.
    """

    model: CheckpointModel
    text: TextFiles
    checkpoint_hash: str
    trained: bool
    path: Path | None = None
    wanted: int = DEFAULT_CALIBRATION_TOKENS

    @property
    def kind(self) -> Kind:
        if self.path is not None:
            return "file"
        return "answers" if self.trained and num_weights(self.model.config) <= ANSWERS_UP_TO else "text"

    def identity(self) -> list[Any]:
        """What determines the tokens beside checkpoint and tokenizer, known without making them."""
        if self.path is not None:
            source = user_cache.file_sha256(self.path)
        else:
            source = digest([calibration_prompts(), hashlib.sha256("".join(default_texts()).encode()).hexdigest()])
        return [VERSION, self.kind, source, SEQUENCE_TOKENS, self.wanted]


def tokens_hash(tokens: Tensor) -> str:
    """The sha256 of token ids (N, T)."""
    shape = str(tuple(tokens.shape)).encode()
    return hashlib.sha256(shape + tokens.contiguous().numpy().tobytes()).hexdigest()


def num_weights(config: ModelConfig) -> int:
    """Matrix elements of the text model."""
    return sum(unit.num_weights for unit in units(config))


def calibrate(request: Request, progress: Progress) -> Calibration:
    """The tokens to learn from; written by the model once, and kept."""
    made = {"file": _from_file, "answers": _own_text, "text": _prose}[request.kind](request, progress)
    found = Calibration(kind=request.kind, tokens=made)
    keep_tokens(found)
    where = f"from {request.path}" if request.path else f"({ORIGINS[request.kind]})"
    progress.note(f"calibration: {found.tokens.numel()} tokens {where}, sha256 {found.sha256[:12]}")
    return found


def kept_tokens(sha256: str) -> Tensor | None:
    """The tokens of a calibration that was made here before: a quality report must not read what was learned from."""
    try:
        return torch.from_numpy(np.load(_kept_file(sha256), allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None


def keep_tokens(calibration: Calibration) -> None:
    """Keep a calibration's tokens for `kept_tokens`."""
    content = io.BytesIO()
    np.save(content, calibration.tokens.numpy())
    with contextlib.suppress(OSError, OutputError):  # a cache that cannot be written costs a warning, not correctness
        user_cache.write_atomically(_kept_file(calibration.sha256), content.getvalue())


def _kept_file(sha256: str) -> Path:
    return user_cache.directory("calibration") / f"{sha256[:32]}.npy"


ORIGINS = {
    "answers": "the model's own answers, filled up with text that it can read",
    "text": "Python's language reference; --calibration FILE for text like yours",
}


def _from_file(request: Request, progress: Progress) -> Tensor:
    assert request.path is not None
    documents = read_documents(request.path)
    made = _documents_sample(request, documents)
    if made.cut:
        progress.note(
            f"calibration: {made.cut} of {made.documents} documents were cut to {SEQUENCE_TOKENS} tokens each"
        )
    if made.tokens.numel() < MIN_CALIBRATION_TOKENS:
        raise CalibrationError(
            f"--calibration {request.path}: {made.tokens.numel()} tokens in whole sequences of {SEQUENCE_TOKENS}, "
            f"fewer than the {MIN_CALIBRATION_TOKENS} that say anything; give more text ({request.wanted} tokens are "
            "read at most)"
        )
    if request.trained:
        refuse_unreadable(request.path, *losses(request.model, made.tokens))
    return made.tokens


def _documents_sample(request: Request, documents: list[Document]) -> Sample:
    assert request.path is not None
    source = request.text.chat_template
    template = None if source is None else ChatTemplate(source)
    texts = [one.render(template, request.path) for one in documents]
    return sample(texts, request.text.encoder(), request.wanted)


def refuse_unreadable(path: Path, model_nats: float, table_nats: float) -> None:
    """Refuse a text that the model reads worse than a table of its token frequencies would."""
    if not model_nats < table_nats:
        raise CalibrationError(
            f"--calibration {path}: the model cannot read this text: its loss is {model_nats:.2f} nats a token, where "
            f"guessing by the text's own token frequencies costs {table_nats:.2f}; give text in a language that the "
            "model knows"
        )


def _prose(request: Request, progress: Progress) -> Tensor:  # noqa: ARG001 (one signature for all kinds)
    return sample(default_texts(), request.text.encoder()).tokens


def _own_text(request: Request, progress: Progress) -> Tensor:
    """What the model wrote before, or writes now."""
    key = digest([request.identity(), request.checkpoint_hash, request.text.content(), ANSWER_TOKENS, SEED])
    kept = user_cache.directory("calibration") / f"{key[:32]}.json"
    ids = _recall(kept)
    if ids is None:
        ids = _written(request, progress)
        user_cache.write_atomically(kept, json.dumps(ids).encode())
    return as_rows(ids)


def _recall(kept: Path) -> list[int] | None:
    try:
        return [int(token) for token in json.loads(kept.read_text())]
    except (OSError, ValueError, TypeError):
        return None


def _written(request: Request, progress: Progress) -> list[int]:
    """As many ids as are wanted: answers first, the rest prose if the model can read it, else drawn from the model."""
    encode = request.text.encoder()
    ids = _answers(request, encode, progress)
    room = request.wanted - len(ids)
    if room < SEQUENCE_TOKENS:
        return ids[: request.wanted]
    prose = sample(default_texts(), encode, room).tokens
    model_nats, table_nats = losses(request.model, prose)
    if model_nats < table_nats:
        return ids + prose.flatten().tolist()
    progress.note(f"calibration: the model cannot read the prose (loss {model_nats:.2f}), so it writes more itself")
    starts = [[token] for token in request.text.eos_token_ids]  # what begins behind each: a turn, or a document
    count = -(-room // SEQUENCE_TOKENS)
    progress.stage("calibrate: free writing", count * (SEQUENCE_TOKENS - 1), "token")
    writing = Writing(limit=SEQUENCE_TOKENS - 1, seed=SEED)
    rows = write(request.model, [starts[row % len(starts)] for row in range(count)], writing, progress.step)
    return [*ids, *(token for row in rows for token in row)]


def _answers(request: Request, encode: Encode, progress: Progress) -> list[int]:
    """Prompts and greedy answers, one conversation after the other; nothing for a model that has no chat template."""
    if request.text.chat_template is None:
        return []
    template = ChatTemplate(request.text.chat_template)
    prompts = [encode(template.render([{"role": "user", "content": prompt}])) for prompt in calibration_prompts()]
    progress.stage("calibrate: own answers", len(prompts) * ANSWER_TOKENS, "token")
    rows = write(request.model, prompts, Writing(limit=ANSWER_TOKENS, stops=request.text.eos_token_ids), progress.step)
    return [token for row in rows for token in row]

"""What is trained on: the user's text, or text that the float model makes up itself.

A model's own samples need no foreign text and are what the student will be asked to continue (LLM-QAT, Liu et al.,
arXiv:2305.17888: a random first token, then sampling at temperature 1, no end of text heeded). They are kept by hash of
checkpoint, seed and count.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from export import user_cache
from export.calibration import refuse_unreadable
from export.calibration.files import read_documents
from export.calibration.reading import losses
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.config import parse_config
from export.errors import CalibrationError
from export.finetune import FinetuneError
from export.finetune.subject import Subject
from export.progress import Progress
from export.spec import digest
from export.text_files import TOKENIZER, TextFiles
from runtimes.template import ChatTemplate

SEQUENCE_TOKENS = 256
MIN_SEQUENCES = 8
GENERATED_SEQUENCES = 512
SEQUENCES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Token ids (N, T) and where they are from."""

    tokens: Tensor
    source: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.tokens.numpy().tobytes()).hexdigest()


def cut(ids: list[int], source: str) -> TrainingData:
    """Whole sequences of a text's token ids."""
    count = len(ids) // SEQUENCE_TOKENS
    if count < MIN_SEQUENCES:
        raise FinetuneError(
            f"--data {source}: {len(ids)} tokens, training needs at least {MIN_SEQUENCES * SEQUENCE_TOKENS}; give more "
            "text, or leave --data out to train on text of the model's own"
        )
    tokens = torch.tensor(ids[: count * SEQUENCE_TOKENS]).view(count, SEQUENCE_TOKENS)
    return TrainingData(tokens=tokens, source=source)


def own_text(subject: Subject, text: TextFiles, identity: str, seed: int, progress: Progress) -> TrainingData:
    """Sequences that the float model made up; `identity` is the checkpoint's hash."""
    key = digest([1, identity, seed, GENERATED_SEQUENCES, SEQUENCE_TOKENS])
    file = user_cache.directory("generated") / f"{key[:32]}.pt"
    progress.stage("make up text", GENERATED_SEQUENCES * SEQUENCE_TOKENS, "token")
    known = _known(file)
    if known is None:
        parts = []
        for first in range(0, GENERATED_SEQUENCES, SEQUENCES_AT_ONCE):
            parts.append(_sample(subject, text, seed * GENERATED_SEQUENCES + first))
            progress.step("sample", parts[-1].numel())
        known = torch.cat(parts)
        content = io.BytesIO()
        torch.save(known, content)
        user_cache.write_atomically(file, content.getvalue())
    progress.end()
    return TrainingData(tokens=known, source="the model's own samples")


def _known(file: Path) -> Tensor | None:
    try:
        found = torch.load(file, weights_only=True)
    except Exception:  # noqa: BLE001 (a damaged cache is made again)
        return None
    fits = isinstance(found, Tensor) and found.shape == (GENERATED_SEQUENCES, SEQUENCE_TOKENS)
    return found if fits else None


def _sample(subject: Subject, text: TextFiles, seed: int) -> Tensor:
    """SEQUENCES_AT_ONCE samples (N, SEQUENCE_TOKENS) from random first tokens."""
    generator = torch.Generator().manual_seed(seed)
    words = Tokenizer.from_file(str(text.directory / TOKENIZER)).get_vocab_size()
    first = torch.randint(words, (SEQUENCES_AT_ONCE, 1), generator=generator).to(subject.device)
    module: Any = subject.module
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found: Tensor = module.generate(
            first,
            attention_mask=torch.ones_like(first),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=SEQUENCE_TOKENS - 1,
            eos_token_id=None,
            pad_token_id=0,
        )
    return found.cpu()


def user_text(path: Path, text: TextFiles, checkpoint: Checkpoint, trained: bool) -> TrainingData:
    """The user's file, read and judged as a calibration file is, cut into sequences; random weights read nothing."""
    template = None if text.chat_template is None else ChatTemplate(text.chat_template)
    try:
        pieces = [document.render(template, path) for document in read_documents(path)]
        data = cut(text.encode("\n\n".join(pieces)), str(path))
        if trained:
            model = CheckpointModel(weights=FloatWeights(checkpoint=checkpoint, config=parse_config(checkpoint.config)))
            refuse_unreadable(path, *losses(model, data.tokens))
    except CalibrationError as error:
        raise FinetuneError(str(error).replace("--calibration", "--data")) from error
    return data

"""Free text: what the float model writes, whether a candidate would have written the same, and how well each ends.

Teacher-forced text is somebody else's. What a user sees is the model's own, so the float model answers prompts greedily
(kept by hash), and each candidate reads these answers: a flip is a token that it would have chosen differently, and the
answer would have gone another way from there. Then the candidate answers the prompts itself, and both are asked how
often they repeat themselves and whether they come to an end.

All prompts are filled up in front to one length, so that they step together and each layer is loaded once a step; where
all layers fit they stay in memory.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export import user_cache
from export.decoder import Layer, Rope, rope_table, text_positions
from export.errors import OutputError
from export.progress import Progress
from export.quality.evaluate import Subject
from export.quality.metrics import COLUMNS_AT_ONCE, Estimate
from export.quality.reading import Reading, embed, head_weight, load_reading_layer, outputs_of
from export.quality.texts import Sequences, tokens_hash
from export.spec import digest
from export.state import state_tensors
from export.text_files import TextFiles
from export.weights import units
from runtimes.artifact import Artifact
from runtimes.runner import open_runner
from runtimes.template import ChatTemplate

NEW_TOKENS = 64
RUN = 4  # tokens of a run that is looked for again
LOOP = 4  # so many times the same run is a loop
KEPT_BYTES = 4 << 30  # layers of a model up to this size, as float32, stay in memory
WIDEST_FILL = 48  # a prompt that lacks more tokens than this to the longest is left out

PROMPTS = (
    "Hello! Who are you?",
    "What is the capital of France?",
    "Tell me a short story.",
    "What sound does a cow make?",
    "Explain in two sentences why the sky is blue.",
    "Write a haiku about the sea.",
    "What is 17 + 25?",
    "Name three animals that live in a forest.",
    "How do I boil an egg?",
    "Write a Python function that reverses a list.",
    "What day comes after Monday?",
    "Give me a recipe for pancakes.",
    "What is the opposite of hot?",
    "Translate 'good morning' into Spanish.",
    "Why do leaves fall in autumn?",
    "Count from one to ten.",
)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Prompts (N, P), all of one length, and the tokens that followed each, up to and with the one that ended it."""

    prompts: Tensor
    tokens: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]  # by a token that ends a turn, not by the limit

    def sequences(self) -> Sequences:
        """Prompts and answers as text to be read, the answers' tokens being scored."""
        length, longest = self.prompts.shape[1], max(map(len, self.tokens))
        tokens = torch.zeros(len(self.tokens), length + longest, dtype=torch.int64)
        tokens[:, :length] = self.prompts
        scored = torch.zeros_like(tokens, dtype=torch.bool)
        for row, answer in enumerate(self.tokens):
            tokens[row, length : length + len(answer)] = torch.tensor(answer)
            scored[row, length - 1 : length - 1 + len(answer)] = True
        return Sequences(
            tokens=tokens, scored=scored, source=(0,) * len(tokens), names=("the reference's own greedy answers",)
        )


def prompt_tokens(text: TextFiles, limit: int) -> Tensor:
    """The prompts through the chat template (a base model reads them as they are), filled up in front: (N, P)."""
    template = None if text.chat_template is None else ChatTemplate(text.chat_template)
    written = [
        prompt if template is None else template.render([{"role": "user", "content": prompt}], options=_PLAIN)
        for prompt in PROMPTS[:limit]
    ]
    ids = [text.encode(one) for one in written]
    longest = max(map(len, ids))
    fill = text.pad_token_id if text.pad_token_id is not None else text.eos_token_ids[-1]
    rows = [[fill] * (longest - len(one)) + one for one in ids if longest - len(one) <= WIDEST_FILL]
    return torch.tensor(rows)


_PLAIN = {"enable_thinking": False}


def answers_of(subject: Subject, prompts: Tensor, eos: Sequence[int], progress: Progress) -> Answers:
    """What a model answers greedily, from the cache where it was asked before."""
    name = digest([subject.key(), "answers", tokens_hash(prompts), list(eos), NEW_TOKENS])
    rows = _recall(name)
    if rows is None:
        progress.stage(f"{subject.name}: answer {len(prompts)} prompts", NEW_TOKENS, "token")
        rows = greedy(subject.reading, prompts, eos, progress)
        progress.end()
        _remember(name, rows)
    return _answers(prompts, rows, eos)


def answers_in_runtime(artifact: Artifact, prompts: Tensor, eos: Sequence[int], progress: Progress) -> Answers:
    """What an artifact answers greedily in its own runtime."""
    runner = open_runner(artifact)
    progress.stage(f"answer {len(prompts)} prompts in {artifact.manifest.runtime.name}", len(prompts), "prompt")
    rows = []
    try:
        for prompt in prompts.numpy():
            runner.reset()
            row = [int(runner.forward(prompt).argmax())]
            while row[-1] not in eos and len(row) < NEW_TOKENS and runner.position < runner.context_length:
                row.append(int(runner.forward([row[-1]]).argmax()))
            rows.append(row)
            progress.step("prompt", 1)
    finally:
        runner.close()
    progress.end()
    return _answers(prompts, rows, eos)


@torch.no_grad()
def greedy(reading: Reading, prompts: Tensor, eos: Sequence[int], progress: Progress) -> list[list[int]]:
    """The NEW_TOKENS most likely tokens one after the other behind each prompt, all prompts in step."""
    config, room = reading.weights.config, prompts.shape[1] + NEW_TOKENS
    pieces = _Pieces(reading)
    tables = rope_table(config, room, "cos"), rope_table(config, room, "sin")
    state = [torch.zeros(len(prompts), *tensor.shape[1:]) for tensor in state_tensors(config, room)]
    rows: list[list[int]] = [[] for _ in prompts]
    tokens, start = prompts, 0
    for step in range(NEW_TOKENS):
        positions = text_positions(start, tokens.shape[1])
        rope = Rope(positions, torch.tensor([start]), *tables, config.mrope_section)
        hidden = embed(reading.weights, tokens)
        for index in range(config.num_layers):
            before = (state[2 * index], state[2 * index + 1])
            update, residual, pair = pieces.layer(index)(None, hidden, rope, before, False)
            state[2 * index], state[2 * index + 1] = pair
            hidden = update + residual
        start += tokens.shape[1]
        best = _best(pieces, reading, hidden[:, -1])
        for row, token in zip(rows, best.tolist(), strict=True):
            row.append(token)
        tokens = best.unsqueeze(1)
        progress.step(f"token {step + 1}", 1)
        if all(set(row).intersection(eos) for row in rows):
            break
    return rows


class _Pieces:
    """A model's layers by index and its head by columns, kept where all of it fits."""

    def __init__(self, reading: Reading) -> None:
        weights = sum(unit.num_weights for unit in units(reading.weights.config))
        self._keep = 4 * weights <= KEPT_BYTES
        self._reading = reading
        self._layers: dict[int, Layer] = {}
        self._heads: dict[int, Tensor] = {}

    def layer(self, index: int) -> Layer:
        found = self._layers.get(index) or load_reading_layer(self._reading, index)
        if self._keep:
            self._layers[index] = found
        return found

    def head(self, columns: slice) -> Tensor:
        found = self._heads.get(columns.start)
        found = head_weight(self._reading.weights, columns) if found is None else found
        if self._keep:
            self._heads[columns.start] = found
        return found


def _best(pieces: _Pieces, reading: Reading, hidden: Tensor) -> Tensor:
    """The most likely next token (rows,) of hidden states (rows, hidden)."""
    outputs = outputs_of(reading, hidden)
    vocab_size = reading.weights.config.vocab_size
    best = torch.full((len(hidden),), -torch.inf)
    found = torch.zeros(len(hidden), dtype=torch.int64)
    for start in range(0, vocab_size, COLUMNS_AT_ONCE):
        columns = slice(start, min(start + COLUMNS_AT_ONCE, vocab_size))
        values, places = outputs.logits(pieces.head(columns), slice(None)).max(dim=1)
        better = values > best
        best, found = torch.where(better, values, best), torch.where(better, places + start, found)
    return found


def repeated_share(tokens: Sequence[int]) -> float:
    """The share of an answer's runs of four tokens that stood in it before."""
    runs = [tuple(tokens[start : start + RUN]) for start in range(len(tokens) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def is_looping(tokens: Sequence[int]) -> bool:
    """Whether some run of four tokens stands in an answer four times or more."""
    runs = [tuple(tokens[start : start + RUN]) for start in range(len(tokens) - RUN + 1)]
    return any(runs.count(run) >= LOOP for run in set(runs))


def free_text_figures(answers: Answers, reference: Answers) -> dict[str, Estimate]:
    """Repetition, loops and ends of free text, and for how many tokens it is the reference's."""
    same = [_same_prefix(ours, theirs) for ours, theirs in zip(answers.tokens, reference.tokens, strict=True)]
    equal = [ours == theirs for ours, theirs in zip(answers.tokens, reference.tokens, strict=True)]
    return {
        "repeated_4grams": _mean([repeated_share(answer) for answer in answers.tokens]),
        "looping_answers": _mean([is_looping(answer) for answer in answers.tokens]),
        "ended_answers": _mean(answers.ended),
        "equal_answers": _mean(equal),
        "tokens_before_first_difference": _mean(same),
    }


def _mean(values: Sequence[float]) -> Estimate:
    """Answers are independent of each other, so the textbook's standard error holds."""
    array = np.array(values, dtype=np.float64)
    error = float(array.std(ddof=1) / np.sqrt(array.size)) if array.size > 1 else None
    return Estimate(value=float(array.mean()), standard_error=error)


def _same_prefix(ours: Sequence[int], theirs: Sequence[int]) -> int:
    pairs = zip(ours, theirs, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(ours), len(theirs)))


def _answers(prompts: Tensor, rows: Sequence[Sequence[int]], eos: Sequence[int]) -> Answers:
    cut = [_until_end(row, eos) for row in rows]
    return Answers(
        prompts=prompts,
        tokens=tuple(tuple(row) for row in cut),
        ended=tuple(bool(row) and row[-1] in eos for row in cut),
    )


def _until_end(row: Sequence[int], eos: Sequence[int]) -> Sequence[int]:
    end = next((place for place, token in enumerate(row) if token in eos), None)
    return row if end is None else row[: end + 1]


def _recall(name: str) -> list[list[int]] | None:
    try:
        rows = json.loads(_file(name).read_text())
    except (OSError, OutputError, ValueError):
        return None
    return [[int(token) for token in row] for row in rows]


def _remember(name: str, rows: list[list[int]]) -> None:
    with contextlib.suppress(OSError, OutputError):  # a cache that cannot be written costs time, not correctness
        user_cache.write_atomically(_file(name), json.dumps(rows).encode())


def _file(name: str) -> Path:
    return user_cache.directory("quality") / f"{name[:32]}.json"

"""A chat with pictures, call by call: where an app puts images, where their tokens stand, what is read again.

A runner that sees by rote stands for a model: a picture's features are its number and the place of each token, and its
answers are scripted. So every row, position and checkpoint is Python's own, while no weights are needed to write or to
replay it. Chunks are short enough to cut pictures.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtimes.artifact import Vision
from runtimes.chat import Conversation
from runtimes.errors import ContextLimitError, ImageError
from runtimes.generate import Piece, Settings
from runtimes.runner import Logits, Tokens
from runtimes.template import ChatTemplate
from runtimes.tokenizer import load_tokenizer
from runtimes.vision.positions import TokenGrid, next_position
from runtimes.vision.prompt import Prompt, SeenImage
from runtimes.vision.spec import ImageSpec
from tools.golden.files import ROOT
from tools.golden.recording import TEMPLATE, TOKENIZER

OPTIONS = {"enable_thinking": False}
ANSWER = "A cat. 猫"
HIDDEN_SIZE = 2
CONTEXT_LENGTH, PREFILL_CHUNK, VOCAB_SIZE = 256, 8, 2048
PICTURES = {"cat": (2, 3), "strip": (1, 9), "tower": (5, 2), "dog": (2, 3)}  # rows and columns of tokens
SCRIPT: list[dict[str, Any]] = [
    {"do": "say", "text": "What is this?", "pictures": ["cat"]},
    {"do": "say", "text": "And now? 🐈"},
    {"do": "say", "text": "Which is longer?", "pictures": ["strip", "tower"]},
    {"do": "regenerate"},
    {"do": "edit_last", "text": "Which is longer?", "pictures": ["tower", "strip"]},
    {"do": "edit_last", "text": "Never mind."},
    {"do": "say", "text": "I write <|image_pad|> myself", "pictures": ["cat"]},
    {"do": "say", "text": "Too much", "pictures": ["tower"] * 30},
    {"do": "reset"},
    {"do": "say", "text": "What is this?", "pictures": ["cat"]},
    {"do": "edit_last", "text": "What is this?", "pictures": ["dog"]},
]


@dataclass(frozen=True)
class Remembered:
    """What a snapshot of the runner by rote holds."""

    number: int
    position: int
    lag: int
    written: int


class Seer:
    """A runner of a model that sees, by rote; it notes what is asked of it."""

    def __init__(self, vision: Vision, answer: Sequence[int], end: int) -> None:
        self.vision = vision
        self.context_length, self.prefill_chunk, self.vocab_size = CONTEXT_LENGTH, PREFILL_CHUNK, VOCAB_SIZE
        self.threads = 1
        self.position = 0
        self.calls: list[dict[str, Any]] = []
        self._answer = [*answer, end]
        self._written = 0
        self._lag = 0
        self._snapshots = 0

    @property
    def next_position(self) -> int:
        return self.position - self._lag

    def forward(self, tokens: Tokens) -> Logits:
        return self._read("forward", [int(token) for token in tokens], {"next_position": self.next_position})

    def forward_prompt(self, prompt: Prompt) -> Logits:
        after = next_position(prompt.rows, self.next_position)
        noted = {"rows": prompt.rows.tolist(), "features": prompt.features.astype(int).tolist()}
        logits = self._read("forward_prompt", prompt.tokens.tolist(), noted)
        self._lag = self.position - after
        return logits

    def reset(self) -> None:
        self.calls.append({"call": "reset"})
        self.position = self._lag = 0

    def snapshot(self) -> Remembered:
        snapshot = Remembered(self._snapshots, self.position, self._lag, self._written)
        self._snapshots += 1
        self.calls.append({"call": "snapshot", "id": snapshot.number})
        return snapshot

    def restore(self, snapshot: Any) -> None:
        self.calls.append({"call": "restore", "id": snapshot.number})
        self.position, self._lag, self._written = snapshot.position, snapshot.lag, snapshot.written

    def close(self) -> None:
        """Nothing is held."""

    def see(self, image: object) -> SeenImage:
        """A picture of `PICTURES`, by its name."""
        name = str(image)
        grid = TokenGrid(height=PICTURES[name][0], width=PICTURES[name][1])
        rows = [[list(PICTURES).index(name), place] for place in range(grid.tokens)]
        return SeenImage(features=np.array(rows, np.float32), grid=grid, digest=name)

    def _read(self, call: str, tokens: list[int], noted: dict[str, Any]) -> Logits:
        # a prompt is followed by the answer's first token, each token of the answer by the next one
        self._written = self._written + 1 if tokens == self._answer[self._written : self._written + 1] else 0
        logits = np.zeros(self.vocab_size, np.float32)
        logits[self._answer[self._written]] = 1
        self.calls.append({"call": call, "tokens": tokens, **noted, "answer": self._answer[self._written]})
        self.position += len(tokens)
        return logits


def content() -> dict[str, Any]:
    """What `image_chat.json` holds."""
    tokenizer = load_tokenizer(ROOT / TOKENIZER)
    vision, end = _vision(), tokenizer.token_id("<|im_end|>")
    assert end is not None
    runner = Seer(vision, tokenizer.encode(ANSWER), end)
    conversation = Conversation(
        runner=runner,
        tokenizer=tokenizer,
        template=ChatTemplate((ROOT / TEMPLATE).read_text(encoding="utf-8")),
        settings=Settings(eos_token_ids=(end,)),
        options=OPTIONS,
    )
    script = [{**step, **_play(conversation, runner, step)} for step in SCRIPT]
    return {
        "tokenizer_file": TOKENIZER,
        "template_file": TEMPLATE,
        "options": OPTIONS,
        "eos_token_ids": [end],
        "context_length": CONTEXT_LENGTH,
        "prefill_chunk": PREFILL_CHUNK,
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "image_token_id": vision.image_token_id,
        "pictures": {name: list(sides) for name, sides in PICTURES.items()},
        "script": script,
        "calls": runner.calls,
    }


def _play(conversation: Conversation, runner: Seer, step: dict[str, Any]) -> dict[str, Any]:
    images = [runner.see(name) for name in step.get("pictures", [])]
    try:
        match step["do"]:
            case "reset":
                conversation.reset()
                return {}
            case "say":
                return _said(conversation.say(step["text"], images))
            case "edit_last":
                return _said(conversation.edit_last(step["text"], images))
            case _:
                return _said(conversation.regenerate())
    except (ImageError, ContextLimitError) as error:
        return {"refused": "image" if isinstance(error, ImageError) else "context"}


def _said(pieces: Iterable[Piece]) -> dict[str, Any]:
    return {"pieces": [piece.text for piece in pieces]}


def _vision() -> Vision:
    """The tiny checkpoint's tokens around an image; sizes of pixels matter to nobody here."""
    config = json.loads((ROOT / "export/models/tiny/config.json").read_text(encoding="utf-8"))
    images = ImageSpec(
        patch_size=16, temporal_patch_size=2, merge_size=2, min_pixels=1024, max_pixels=65536, mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )  # fmt: skip
    return Vision(
        tower_file="tower", embedding_file="embedding", format="float", hidden_size=HIDDEN_SIZE,
        image_token_id=config["image_token_id"], vision_start_token_id=config["vision_start_token_id"],
        vision_end_token_id=config["vision_end_token_id"], images=images,
    )  # fmt: skip

"""A conversation with images reads each of them once, and knows one from another of the same size."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from runtimes.artifact import Vision
from runtimes.chat import Conversation
from runtimes.errors import ImageError
from runtimes.generate import Settings
from runtimes.runner import Logits, Tokens
from runtimes.template import ChatTemplate
from runtimes.tokenizer import load_tokenizer
from runtimes.vision.positions import TokenGrid, next_position
from runtimes.vision.prompt import Prompt, SeenImage
from runtimes.vision.spec import ImageSpec, PatchedImage
from tests.fixtures import TINY

TOKENIZER = load_tokenizer(TINY / "tokenizer.json")
PAD, START, END = (TOKENIZER.token_id(f"<|{name}|>") or 0 for name in ("image_pad", "vision_start", "vision_end"))
EOS = TOKENIZER.token_id("<|im_end|>") or 0
SPEC = ImageSpec(
    patch_size=16,
    temporal_patch_size=2,
    merge_size=2,
    min_pixels=1024,
    max_pixels=65536,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


@dataclass
class Eyes:
    """A runner that ends every answer at once and remembers what it read."""

    context_length: int = 512
    vocab_size: int = 2048
    prefill_chunk: int = 16
    threads: int = 1
    position: int = 0
    next_position: int = 0
    read: list[int] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    vision: Vision = field(
        default_factory=lambda: Vision(
            tower_file="vision.onnx",
            embedding_file="embedding.onnx",
            format="float",
            hidden_size=2,
            image_token_id=PAD,
            vision_start_token_id=START,
            vision_end_token_id=END,
            images=SPEC,
        )
    )

    def see(self, image: PatchedImage) -> SeenImage:
        raise NotImplementedError("images come seen")

    def forward(self, tokens: Tokens) -> Logits:
        assert PAD not in [int(token) for token in tokens], "image tokens come with their image"
        self.next_position += len(tokens)
        return self._append(tokens)

    def forward_prompt(self, prompt: Prompt) -> Logits:
        assert prompt.features.shape[0] == (prompt.tokens == PAD).sum()
        self.seen += prompt.features[:, 0].tolist()
        self.next_position = next_position(prompt.rows, self.next_position)
        return self._append(prompt.tokens)

    def reset(self) -> None:
        self.position = self.next_position = 0

    def snapshot(self) -> Any:
        return (self.position, self.next_position)

    def restore(self, snapshot: Any) -> None:
        self.position, self.next_position = snapshot

    def close(self) -> None:
        pass

    def _append(self, tokens: Tokens) -> Logits:
        self.read += [int(token) for token in tokens]
        self.position += len(tokens)
        logits = np.zeros(self.vocab_size, np.float32)
        logits[EOS] = 1
        return logits


@pytest.fixture
def conversation() -> Conversation:
    return Conversation(
        runner=Eyes(),
        tokenizer=TOKENIZER,
        template=ChatTemplate((TINY / "chat_template.jinja").read_text(encoding="utf-8")),
        settings=Settings(eos_token_ids=(EOS,)),
        options={"enable_thinking": False},
    )


def eyes(conversation: Conversation) -> Eyes:
    runner = conversation.runner
    assert isinstance(runner, Eyes)
    return runner


def image(value: float, height: int = 2, width: int = 3) -> SeenImage:
    grid = TokenGrid(height=height, width=width)
    return SeenImage(features=np.full((grid.tokens, 2), value, np.float32), grid=grid, digest=str(value))


def test_an_image_is_read_once_and_a_second_turn_reads_only_itself(conversation: Conversation) -> None:
    list(conversation.say("What is this?", [image(1.0)]))
    runner = eyes(conversation)
    assert runner.seen == [1.0] * 6
    assert runner.read.count(PAD) == 6
    assert (runner.position - runner.next_position) == 3  # six places in the sequence, three in the positions
    before = len(runner.read)
    list(conversation.say("And then?"))
    assert runner.seen == [1.0] * 6
    assert PAD not in runner.read[before:]
    assert "And then?" in TOKENIZER.decode(runner.read[before:])


def test_images_stand_in_the_order_in_which_they_were_shown(conversation: Conversation) -> None:
    list(conversation.say("Compare.", [image(1.0), image(2.0, 1, 1)]))
    list(conversation.say("And this?", [image(3.0, 2, 1)]))
    assert eyes(conversation).seen == [1.0] * 6 + [2.0] + [3.0] * 2


def test_another_image_of_the_same_size_is_another_conversation(conversation: Conversation) -> None:
    list(conversation.say("What is this?", [image(1.0)]))
    list(conversation.edit_last("What is this?", [image(2.0)]))
    runner = eyes(conversation)
    assert runner.seen == [1.0] * 6 + [2.0] * 6
    assert runner.read[: len(runner.read) // 2] == runner.read[len(runner.read) // 2 :]


def test_another_answer_to_the_same_image_reads_nothing_again(conversation: Conversation) -> None:
    list(conversation.say("What is this?", [image(1.0)]))
    before = list(eyes(conversation).read)
    list(conversation.regenerate())
    assert eyes(conversation).read == before


@pytest.mark.parametrize("images", [[], [image(1.0)]])
def test_a_placeholder_in_a_message_never_stands_for_an_image(
    conversation: Conversation, images: list[SeenImage]
) -> None:
    with pytest.raises(ImageError if images else AssertionError):
        list(conversation.say("<|image_pad|> what is this?", images))
    assert eyes(conversation).seen == []

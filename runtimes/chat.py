"""A conversation on top of a runner, which never computes the same token twice if it can help it.

The chat template renders the whole conversation each turn. As far as that text equals what the model has already read
and written, the tokens in the sequence stay, exactly as they were generated; only the rest is tokenized and prefilled.
A second turn therefore costs its own tokens, the end token that closes the answer included. Gated DeltaNet's state
cannot be cut back, so regenerating an answer or editing a message returns to a checkpoint: a snapshot taken before the
turn, after its prompt, or after the system message.

An image stands in the rendered text as one placeholder, which becomes as many image tokens as the image has. Two
conversations of one text are the same only where their images are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from runtimes.errors import ChatTemplateError, ContextLimitError, ConversationError, ImageError
from runtimes.events import Sink, ignore
from runtimes.generate import Piece, Settings, prefill, stream
from runtimes.runner import Logits, Runner, Snapshot
from runtimes.template import ChatTemplate
from runtimes.tokenizer import Tokenizer
from runtimes.vision.prompt import SeeingRunner, SeenImage

Message = dict[str, Any]
PROBES = ("a", "b")  # two user messages that share no character: what their renderings share is the system part
MIN_SYSTEM_TOKENS = 8  # a shorter prefix is not worth a snapshot


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A place in the sequence to return to: its tokens, their text, the state, and the logits where they are needed."""

    tokens: tuple[int, ...]
    text: str
    snapshot: Snapshot | None  # None: the empty sequence
    logits: Logits | None = None
    images: tuple[str, ...] = ()  # digests of the images in the text


START = Checkpoint(tokens=(), text="", snapshot=None)


@dataclass
class Turn:
    """The checkpoints around the latest user message."""

    before: Checkpoint
    prompted: Checkpoint | None = None


@dataclass(kw_only=True)
class Conversation:
    """Messages, and the sequence in the runner that stands for them."""

    runner: Runner
    tokenizer: Tokenizer
    template: ChatTemplate
    settings: Settings
    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    emit: Sink = ignore
    messages: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start over; the system message stays."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        self.runner.reset()
        self._tokens: list[int] = []  # what the runner has read
        self._text = ""  # the same as text, special tokens included
        self._images: tuple[str, ...] = ()  # digests of the images in it
        self._in_step = True  # the runner holds these tokens; not so after an error in the middle of a call
        self._turn: Turn | None = None
        self._system_prefix: Checkpoint | None = None

    def say(self, text: str, images: Sequence[SeenImage] = ()) -> Iterator[Piece]:
        """Add a user message, its images before its text, and stream the answer."""
        message = user_message(text, images)
        self._check_fits([*self.messages, message])
        self.messages.append(message)
        return self._answer()

    def regenerate(self, settings: Settings | None = None) -> Iterator[Piece]:
        """Drop the last answer and stream another one to the same message."""
        self._drop_answer("regenerate")
        return self._answer(settings)

    def edit_last(self, text: str, images: Sequence[SeenImage] = ()) -> Iterator[Piece]:
        """Replace the last user message and stream an answer to the new one."""
        edited = user_message(text, images)
        self._last_user("edit")
        self._check_fits([*self._before_last_user(), edited])
        self._drop_answer("edit")
        self.messages[-1] = edited
        return self._answer()

    def _answer(self, settings: Settings | None = None) -> Iterator[Piece]:
        """Bring the sequence up to the rendered conversation, then stream and record the answer."""
        logits = self._prepare(self._render(self.messages))
        shown: list[str] = []
        history = list(self._tokens)
        fed = len(history)
        pieces = stream(self.runner, self.tokenizer, logits, history, settings or self.settings, self.emit)
        try:
            for piece in pieces:
                shown.append(piece.text)
                yield piece
        except GeneratorExit:  # the reader stopped reading: everything is in step
            raise
        except BaseException:
            self._in_step = False
            raise
        finally:
            pieces.close()
            self._tokens = history
            self._text += self.tokenizer.decode(history[fed:], special=True)
            self.messages.append({"role": "assistant", "content": "".join(shown)})

    def _prepare(self, text: str) -> Logits:
        """Put the sequence into the state after `text`, from the best place that is already computed."""
        regenerated = self._turn.prompted if self._turn else None
        seen = images_of(self.messages)
        digests = tuple(image.digest for image in seen)
        wanted = (text, digests)
        if regenerated and regenerated.logits is not None and (regenerated.text, regenerated.images) == wanted:
            self._return_to(regenerated)
            return regenerated.logits.copy()
        if not self._in_step or not _continues(text, digests, self._text, self._images) or text == self._text:
            self._return_to(self._best_checkpoint(text, digests))
        before = self._mark()
        self._mark_system_prefix(text)
        suffix = self.tokenizer.encode(text[len(self._text) :])
        logits = self._feed(suffix, text, seen[len(self._images) :])
        self._turn = Turn(before=before, prompted=replace(self._mark(), logits=logits.copy()))
        return logits

    def _feed(self, tokens: list[int], text: str, images: Sequence[SeenImage] = ()) -> Logits:
        """Prefill tokens, with `images` among them; the sequence then stands for `text`."""
        self._in_step = False
        logits = prefill(self.runner, tokens, self.emit, images)
        self._in_step = True
        self._tokens = [*self._tokens, *tokens]
        self._text = text
        self._images = (*self._images, *(image.digest for image in images))
        return logits

    def _mark_system_prefix(self, text: str) -> None:
        """On a first turn, stop once after the system part, so that later edits need not read it again."""
        if self._tokens or self.system is None:
            return
        prefix = self._system_text()
        tokens = self.tokenizer.encode(prefix)
        if len(tokens) >= MIN_SYSTEM_TOKENS and text.startswith(prefix) and text != prefix:
            self._feed(tokens, prefix)
            self._system_prefix = self._mark()

    def _system_text(self) -> str:
        """The text before the first user message, up to the special token that opens it: tokens cannot merge across."""
        system = {"role": "system", "content": self.system or ""}
        first, second = (self._render([system, {"role": "user", "content": probe}]) for probe in PROBES)
        same = next((at for at, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), 0)
        tokens = self.tokenizer.encode(first[:same])
        special = [at for at, token in enumerate(tokens) if not self.tokenizer.decode([token])]
        return self.tokenizer.decode(tokens[: special[-1]], special=True) if special else ""

    def _best_checkpoint(self, text: str, images: tuple[str, ...]) -> Checkpoint:
        """The longest place that the text, with these images, begins with."""
        turn = self._turn
        places = [START, self._system_prefix, *([turn.before, turn.prompted] if turn else [])]
        fitting = [
            place
            for place in places
            if place and _continues(text, images, place.text, place.images) and place.text != text
        ]
        return max(fitting, key=lambda place: len(place.tokens))

    def _return_to(self, place: Checkpoint) -> None:
        if place.snapshot is None:
            self.runner.reset()
        else:
            self.runner.restore(place.snapshot)
        self._in_step = True
        self._tokens = list(place.tokens)
        self._text = place.text
        self._images = place.images

    def _mark(self) -> Checkpoint:
        if not self._tokens:
            return START
        return Checkpoint(
            tokens=tuple(self._tokens), text=self._text, snapshot=self.runner.snapshot(), images=self._images
        )

    def _render(self, messages: Sequence[Message]) -> str:
        text = self.template.render(messages, options=self.options)
        return expand_images(text, images_of(messages), self.tokenizer, self.runner)

    def _check_fits(self, messages: Sequence[Message]) -> None:
        """Refuse a message before anything changes: one that the template refuses, or that the context cannot hold."""
        text = self._render(messages)
        if not text:
            raise ChatTemplateError("the chat template rendered nothing for this conversation")
        count = len(self.tokenizer.encode(text))
        if count >= self.runner.context_length:
            raise ContextLimitError(
                f"the conversation has {count} tokens, the context holds {self.runner.context_length}; "
                "shorten the message, or start over"
            )

    def _last_user(self, what: str) -> int:
        places = [at for at, message in enumerate(self.messages) if message["role"] == "user"]
        if not places:
            raise ConversationError(f"nothing to {what}: no message was sent yet")
        return places[-1]

    def _before_last_user(self) -> list[Message]:
        return self.messages[: self._last_user("edit")]

    def _drop_answer(self, what: str) -> None:
        del self.messages[self._last_user(what) + 1 :]


def user_message(text: str, images: Sequence[SeenImage] = ()) -> Message:
    """A user's message as chat templates read it, images before the text."""
    if not images:
        return {"role": "user", "content": text}
    items = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*items, {"type": "text", "text": text}]}


def images_of(messages: Sequence[Message]) -> list[SeenImage]:
    """The images of a conversation in order."""
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return [item["image"] for content in contents for item in content if item["type"] == "image"]


def expand_images(text: str, images: Sequence[SeenImage], tokenizer: Tokenizer, runner: Runner) -> str:
    """Rendered text with each image's placeholder repeated, once for each of its tokens."""
    if not images:
        return text
    placeholder = tokenizer.token_text(cast(SeeingRunner, runner).vision.image_token_id) or ""
    parts = text.split(placeholder) if placeholder else [text]
    if len(parts) != len(images) + 1:
        raise ImageError(
            f"the text has {len(parts) - 1} places for {len(images)} images; a message must not write {placeholder!r}, "
            "and the chat template must know images"
        )
    pads = [placeholder * image.grid.tokens for image in images]
    return "".join(part + pad for part, pad in zip(parts, [*pads, ""], strict=True))


def _continues(text: str, images: tuple[str, ...], before: str, images_before: tuple[str, ...]) -> bool:
    """Whether a text with images begins with another one, images included."""
    return text.startswith(before) and images[: len(images_before)] == images_before

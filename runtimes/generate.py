"""The one generation loop: prefill, choose, stop, stream.

A chosen token is fed to the model only when the next one is wanted. So an end token is never in the sequence, as in
onnxruntime-genai and in ExecuTorch's runner: the next turn of a chat starts with it.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from runtimes.errors import ContextLimitError, SamplingError
from runtimes.events import PrefillEnd, PrefillStart, Sink, Stop, StopReason, TokenChosen, ignore
from runtimes.runner import Logits, Runner
from runtimes.sampling import GREEDY, Sampler, Sampling
from runtimes.tokenizer import StopStrings, TextStream, Tokenizer
from runtimes.vision.prompt import SeeingRunner, SeenImage, make_prompt


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How tokens are chosen, and when generation ends besides a full context."""

    eos_token_ids: tuple[int, ...]
    sampling: Sampling = GREEDY
    max_tokens: int | None = None
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise SamplingError(f"max_tokens is {self.max_tokens}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One step of a stream: the token chosen and the text that is certain since the last piece.

    The last piece carries the stop reason and no token where only held-back text was left.
    """

    token: int | None
    text: str
    stop: StopReason | None = None


def prefill(runner: Runner, tokens: Sequence[int], emit: Sink = ignore, images: Sequence[SeenImage] = ()) -> Logits:
    """Append a prompt chunk by chunk and return the logits after it; `images` are those of its image tokens."""
    room = runner.context_length - runner.position
    if len(tokens) > room:
        raise ContextLimitError(
            f"the prompt has {len(tokens)} tokens, {room} of {runner.context_length} are left; "
            "shorten it, start a new conversation, or export with a longer --context-length"
        )
    seeing = cast(SeeingRunner, runner) if images else None
    prompt = None if seeing is None else make_prompt(seeing, tokens, images)
    for start in range(0, max(1, len(tokens)), runner.prefill_chunk):
        chunk = tokens[start : start + runner.prefill_chunk]
        emit(PrefillStart(position=runner.position, tokens=len(chunk)))
        if seeing is None or prompt is None:
            logits = runner.forward(chunk)
        else:
            logits = seeing.forward_prompt(prompt.cut(start, start + len(chunk)))
        emit(PrefillEnd(position=runner.position, tokens=len(chunk)))
    return logits


def choose_tokens(
    runner: Runner, logits: Logits, history: list[int], settings: Settings, emit: Sink = ignore
) -> Iterator[tuple[int, StopReason | None]]:
    """Tokens one by one, each with the reason why it is the last, if it is; `history` grows with what is fed."""
    sampler = Sampler(settings.sampling)
    index = 0
    while True:
        token = sampler.choose(logits, history)
        emit(TokenChosen(index=index, token=token))
        index += 1
        reason = _reason(runner, token, index, settings)
        yield token, reason
        if reason is not None:
            return
        history.append(token)
        logits = runner.forward([token])


def stream(
    runner: Runner,
    tokenizer: Tokenizer,
    logits: Logits,
    history: list[int],
    settings: Settings,
    emit: Sink = ignore,
) -> Generator[Piece, None, None]:
    """Generate after a prefill, as text: no piece ever ends inside a character or shows a part of a stop string."""
    text = TextStream(tokenizer)
    stops = StopStrings(settings.stop_strings)
    reason: StopReason | None = "cancelled"
    count = 0
    try:
        for token, reason in choose_tokens(runner, logits, history, settings, emit):
            count += 1
            new = "" if reason == "eos" else text.push(token)
            shown, reached = stops.push(new)
            if reached:
                reason = "stop_string"
            elif reason is not None:
                shown += _rest(text, stops)
            yield Piece(token=token, text=shown, stop=reason)
            if reason is not None:
                return
            reason = "cancelled"
    finally:
        emit(Stop(reason=reason or "cancelled", tokens=count))


def generate(
    runner: Runner,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    settings: Settings,
    emit: Sink = ignore,
    images: Sequence[SeenImage] = (),
) -> Iterator[Piece]:
    """Append a prompt and stream what follows it; `images` are those of its image tokens."""
    logits = prefill(runner, prompt, emit, images)
    yield from stream(runner, tokenizer, logits, list(prompt), settings, emit)


def _reason(runner: Runner, token: int, count: int, settings: Settings) -> StopReason | None:
    if token in settings.eos_token_ids:
        return "eos"
    if settings.max_tokens is not None and count >= settings.max_tokens:
        return "max_tokens"
    if runner.position >= runner.context_length:
        return "context"
    return None


def _rest(text: TextStream, stops: StopStrings) -> str:
    """The text still held back when generation ends."""
    shown, reached = stops.push(text.flush())
    return shown if reached else shown + stops.flush()

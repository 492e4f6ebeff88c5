"""Text to tokens and back, by the `tokenizers` library; any Hugging Face `tokenizer.json` works.

A token may end in the middle of a character, so text streams out only when later tokens cannot change it any more.
"""

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from runtimes.errors import TokenizerError

REPLACEMENT = "\ufffd"  # what an incomplete or invalid piece of UTF-8 decodes to
MAX_PENDING_BYTES = 3  # a character of four bytes can lack at most its last; each byte shows as one replacement or less


class Tokenizer:
    """The tokenizer of one model."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; special tokens written out in it count as such, and none is added."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of tokens; special tokens show only when asked for."""
        return str(self._backend.decode(list(tokens), skip_special_tokens=not special))

    def token_id(self, text: str) -> int | None:
        """The id of one token by its text."""
        found = self._backend.token_to_id(text)
        return None if found is None else int(found)

    def token_text(self, token: int) -> str | None:
        """The text of one token, special or not."""
        if token >= self.vocab_size and self._backend.id_to_token(token) is None:
            return None
        return self.decode([token], special=True)


class TextStream:
    """Tokens in, text out: what was given out never changes, and all of it together is the text of all tokens."""

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._window: list[int] = []  # the tokens since the last two places where text ended cleanly
        self._clean = 0  # how much of the window is already given out for good
        self._given = 0  # characters of the window's text already given out

    def push(self, token: int) -> str:
        """The text that this token completes, often one word, sometimes nothing."""
        self._window.append(token)
        text = self._text(self._window)
        pending = min(len(text) - len(text.rstrip(REPLACEMENT)), MAX_PENDING_BYTES)
        new = text[self._given : len(text) - pending]
        self._given += len(new)
        if pending == 0:
            self._shift()
        return new

    def flush(self) -> str:
        """What is still held back, at the end of the tokens."""
        rest = self._text(self._window)[self._given :]
        self._window, self._clean, self._given = [], 0, 0
        return rest

    def _shift(self) -> None:
        """Keep the last clean piece as context, since some decoders treat the first token of a text differently."""
        self._window = self._window[self._clean :]
        self._clean = len(self._window)
        self._given = len(self._text(self._window))

    def _text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, special=self._special)


class StopStrings:
    """Ends a stream of text at the first of some strings, and never gives out a part of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is certainly before any stop string, and whether one was reached."""
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            out, self._held = self._held[: min(found)], ""
            return out, True
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        split = len(self._held) - keep
        out, self._held = self._held[:split], self._held[split:]
        return out, False

    def flush(self) -> str:
        """What was held back because it might have become a stop string."""
        out, self._held = self._held, ""
        return out

    def _overlap(self, stop: str) -> int:
        """How much of the held text's end is the start of a stop string."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if stop.startswith(self._held[-size:])), 0)


def load_tokenizer(place: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`."""
    try:
        backend = tokenizers.Tokenizer.from_file(str(place))
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{place}: not a tokenizer.json that `tokenizers` can read: {error}") from error
    return Tokenizer(backend)

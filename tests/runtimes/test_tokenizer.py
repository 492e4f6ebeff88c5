"""Text streams out early, never changes, and never ends inside a character or a stop string."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from runtimes.errors import TokenizerError
from runtimes.tokenizer import StopStrings, TextStream, Tokenizer, load_tokenizer
from tests.runtimes.tiny_onnx import tiny_tokenizer

TOKENIZER = Tokenizer(tiny_tokenizer())
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["👩‍👩‍👧‍👦 ok", "日本語のテスト", "naïve café"]
)


def stream(tokens: list[int], *, special: bool = False) -> list[str]:
    out = TextStream(TOKENIZER, special=special)
    return [*(out.push(token) for token in tokens), out.flush()]


@given(TEXTS)
def test_a_streamed_text_is_the_text(text: str) -> None:
    assert "".join(stream(TOKENIZER.encode(text))) == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=30))
def test_no_piece_of_a_valid_text_ends_inside_a_character(text: str) -> None:
    pieces = stream(TOKENIZER.encode(text))
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=60), st.booleans())
def test_any_tokens_stream_to_what_they_decode_to(tokens: list[int], special: bool) -> None:
    """Random bytes are mostly invalid UTF-8: pieces come late, but nothing is lost or changed."""
    assert "".join(stream(tokens, special=special)) == TOKENIZER.decode(tokens, special=special)


def test_a_character_appears_with_its_last_byte() -> None:
    tokens = TOKENIZER.encode("a€b")
    assert len(tokens) == 5
    assert stream(tokens) == ["a", "", "", "€", "b", ""]


def test_an_unfinished_character_appears_at_the_end_as_a_replacement() -> None:
    tokens = TOKENIZER.encode("€")[:2]
    assert stream(tokens) == ["", "", "\ufffd"]


def test_spaces_of_a_word_piece_tokenizer_are_kept() -> None:
    """Such decoders strip the space before a text's first token, so a token cannot be decoded alone."""
    backend = Backend(models.WordLevel({"▁once": 0, "▁upon": 1, "▁a": 2, "[unk]": 3}, unk_token="[unk]"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    out = TextStream(Tokenizer(backend))
    assert [out.push(token) for token in (0, 1, 2)] == ["once", " upon", " a"]


def test_special_tokens_are_hidden_unless_asked_for() -> None:
    tokens = TOKENIZER.encode("hi<|im_end|>")
    assert "".join(stream(tokens)) == "hi"
    assert "".join(stream(tokens, special=True)) == "hi<|im_end|>"


def test_a_token_beyond_the_tokenizer_has_no_text() -> None:
    """Qwen3.5 has more rows of logits than its tokenizer has tokens."""
    assert TOKENIZER.token_text(TOKENIZER.vocab_size + 2) is None
    assert stream([TOKENIZER.vocab_size + 2]) == ["", ""]


@given(st.lists(st.sampled_from("ab\nc"), max_size=30), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_ends_the_text_before_it(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    filter_ = StopStrings(stops)
    shown, stopped = "", False
    for piece in pieces:
        out, stopped = filter_.push(piece)
        shown += out
        assert not any(stop in shown for stop in stops)
        if stopped:
            break
    if not stopped:
        shown += filter_.flush()
    ends = [place for place in range(len(text) + 1) if any(text[:place].endswith(stop) for stop in stops)]
    if not ends:
        assert (shown, stopped) == (text, False)
        return
    first = text[: ends[0]]
    assert stopped
    assert shown == first[: min(first.find(stop) for stop in stops if stop in first)]


def test_text_that_only_starts_like_a_stop_string_is_shown_late_but_whole() -> None:
    filter_ = StopStrings(["</answer>"])
    assert filter_.push("a </ans") == ("a ", False)
    assert filter_.push("wers") == ("</answers", False)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    place = tmp_path / "tokenizer.json"
    place.write_text('{"version": "1.0"}')
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load_tokenizer(place)

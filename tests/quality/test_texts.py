"""What text quality is measured on."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.errors import QualityError
from export.quality.subjects import Reference
from export.quality.texts import (
    DOCSTRINGS,
    HELD_OUT,
    OVERLAP_TOKENS,
    SHORTEST_DOCSTRING,
    Text,
    cut,
    default_texts,
    docstrings,
    guessing_nll,
    overlap,
    read_text,
)


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_docstrings_are_the_same_each_time_and_a_longer_text_begins_like_a_shorter_one() -> None:
    short, long = docstrings(4_000), docstrings(12_000)
    assert len(short) >= 4_000
    assert long.startswith(short)
    assert docstrings(4_000) == short
    assert all(len(part) > 10 for part in short.split("\n\n")[:3])
    assert len(short) > SHORTEST_DOCSTRING


def test_a_checkpoint_with_its_own_held_out_text_is_read_on_that(reference: Reference, tmp_path: Path) -> None:
    assert [text.name for text in default_texts(reference.path, 256)] == [HELD_OUT]
    assert [text.name for text in default_texts(tmp_path, 256)] == [DOCSTRINGS]


def test_texts_are_cut_into_sequences_whose_last_token_predicts_nothing() -> None:
    found = cut([Text(name="a", content="x" * 1000), Text(name="b", content="y" * 5000)], letters, 4096, 4096)
    assert found.tokens.shape == (16, 256)
    assert found.scored.sum() == len(found.tokens) * 255
    assert not found.scored[:, -1].any()
    assert found.source == (0,) * 3 + (1,) * 13  # the first text's last 232 letters make no sequence
    assert set(found.tokens[0].tolist()) == {ord("x")}


def test_sequences_get_shorter_rather_than_fewer() -> None:
    lengths = {
        tokens: cut([Text(name="a", content="x" * 100_000)], letters, tokens, 4096).tokens.shape[1]
        for tokens in (1024, 2048, 4096, 8192, 50_000)
    }
    assert lengths == {1024: 64, 2048: 128, 4096: 256, 8192: 512, 50_000: 512}


def test_sequences_fit_the_context_of_an_artifact() -> None:
    found = cut([Text(name="a", content="x" * 100_000)], letters, 50_000, 200)
    assert found.tokens.shape[1] == 128


def test_a_text_that_is_too_short_is_an_error() -> None:
    with pytest.raises(QualityError, match="the text gives 100 of the 4096 tokens asked for"):
        cut([Text(name="a", content="x" * 100)], letters, 4096, 4096)


def test_other_scored_places_are_another_input() -> None:
    one = cut([Text(name="a", content="x" * 1000)], letters, 512, 4096)
    scored = one.scored.clone()
    scored[0, 0] = False
    assert one.sha256 == cut([Text(name="b", content="x" * 1000)], letters, 512, 4096).sha256
    assert one.sha256 != type(one)(tokens=one.tokens, scored=scored, source=one.source, names=one.names).sha256


def test_guessing_by_frequency_costs_the_entropy() -> None:
    assert guessing_nll(torch.tensor([[1, 2], [3, 4]])) == pytest.approx(math.log(4))
    assert guessing_nll(torch.tensor([[7, 7, 7]])) == 0.0


def test_a_text_overlaps_with_itself_and_not_with_another() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randint(0, 1000, (4, 100), generator=generator) for _ in range(2))
    assert overlap(ours, ours) == 1.0
    assert overlap(ours, theirs) == 0.0


def test_a_passage_that_was_calibrated_on_is_found_wherever_it_stands() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randint(0, 1000, (1, 100), generator=generator) for _ in range(2))
    theirs[0, 31 : 31 + 2 * OVERLAP_TOKENS] = ours[0, 50 : 50 + 2 * OVERLAP_TOKENS]
    assert overlap(ours, theirs) == pytest.approx((OVERLAP_TOKENS + 1) / (100 - OVERLAP_TOKENS + 1))


def test_text_and_conversations_are_read_from_json_lines(reference: Reference, tmp_path: Path) -> None:
    place = tmp_path / "mixed.jsonl"
    messages = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Good day."}]
    turn = {"prompt": "Who sings?", "response": "The birds."}
    place.write_text(
        "".join(json.dumps(one) + "\n" for one in ({"text": "a b c"}, {"messages": messages}, turn)) + "\n"
    )
    found = read_text(place, reference.text)
    assert found.content.startswith("a b c\n\n<|im_start|>user\nHello!")
    assert "Good day." in found.content
    assert found.content.index("Who sings?") < found.content.index("The birds.")


def written(content: bytes) -> Callable[[Path], None]:
    return lambda place: place.write_bytes(content) and None


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("gone.txt", lambda _: None, "no such file"),
        ("empty.txt", written(b"  \n"), "holds no text"),
        ("latin.txt", written(b"caf\xe9"), "not UTF-8 at byte 3"),
        ("torn.jsonl", written(b'{"text": "a"}\n{"te'), "line 2: not JSON"),
        ("other.jsonl", written(b'{"prompt": "a"}'), "line 1: holds 'prompt'; expected"),
        ("list.jsonl", written(b"[1]"), r"line 1: holds \[1\]; expected an object"),
        ("deep.jsonl", written(b"[" * 100_000), "line 1: not JSON"),
    ],
)
def test_a_file_that_is_no_text_is_a_named_error(
    reference: Reference, tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(QualityError, match=message):
        read_text(tmp_path / name, reference.text)

"""The generation loop ends for the right reason and says what happened when."""

import io
import itertools
import json

import pytest

from runtimes.artifact import Artifact
from runtimes.errors import ContextLimitError, SamplingError
from runtimes.events import Event, LoadEnd, LoadStart, PrefillEnd, PrefillStart, Stop, TokenChosen, json_lines
from runtimes.generate import Piece, Settings, generate
from runtimes.runner import Runner
from runtimes.sampling import Sampling
from runtimes.tokenizer import Tokenizer, load_tokenizer

PROMPT = [5, 6, 7]


@pytest.fixture
def tokenizer(artifact: Artifact) -> Tokenizer:
    return load_tokenizer(artifact.tokenizer_file)


def run(runner: Runner, tokenizer: Tokenizer, settings: Settings) -> tuple[list[Piece], list[Event]]:
    runner.reset()
    events: list[Event] = []
    return list(generate(runner, tokenizer, PROMPT, settings, events.append)), events


def tokens_of(pieces: list[Piece]) -> list[int]:
    return [piece.token for piece in pieces if piece.token is not None]


def test_the_text_is_that_of_the_greedy_tokens(runner: Runner, tokenizer: Tokenizer) -> None:
    pieces, _ = run(runner, tokenizer, Settings(eos_token_ids=(), max_tokens=20))
    tokens = tokens_of(pieces)
    runner.reset()
    logits = runner.forward(PROMPT)
    for token in tokens:
        assert token == int(logits.argmax())
        logits = runner.forward([token])
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(tokens)


def test_the_number_of_tokens_is_kept_and_the_last_is_not_fed(runner: Runner, tokenizer: Tokenizer) -> None:
    pieces, events = run(runner, tokenizer, Settings(eos_token_ids=(), max_tokens=5))
    assert len(tokens_of(pieces)) == 5
    assert pieces[-1].stop == "max_tokens"
    assert events[-1] == Stop(reason="max_tokens", tokens=5, at_ns=events[-1].at_ns)
    assert runner.position == len(PROMPT) + 4


def test_an_end_token_ends_without_text_and_is_not_fed(runner: Runner, tokenizer: Tokenizer) -> None:
    free, _ = run(runner, tokenizer, Settings(eos_token_ids=(), max_tokens=30))
    tokens = tokens_of(free)
    end = next(token for at, token in enumerate(tokens) if at > 2 and token not in tokens[:at])
    ended, events = run(runner, tokenizer, Settings(eos_token_ids=(end,), max_tokens=30))
    place = tokens.index(end)
    assert tokens_of(ended) == tokens[: place + 1]
    assert ended[-1].stop == "eos"
    assert "".join(piece.text for piece in ended) == tokenizer.decode(tokens[:place])
    assert runner.position == len(PROMPT) + place
    assert isinstance(events[-1], Stop)


def test_a_stop_string_ends_before_it_is_shown(runner: Runner, tokenizer: Tokenizer) -> None:
    free, _ = run(runner, tokenizer, Settings(eos_token_ids=(), max_tokens=30))
    text = "".join(piece.text for piece in free)
    stop = text[8:11]
    stopped, events = run(runner, tokenizer, Settings(eos_token_ids=(), max_tokens=30, stop_strings=(stop,)))
    assert "".join(piece.text for piece in stopped) == text[: text.index(stop)]
    assert stopped[-1].stop == "stop_string"
    assert events[-1] == Stop(reason="stop_string", tokens=len(tokens_of(stopped)), at_ns=events[-1].at_ns)


def test_a_full_context_ends_the_answer_without_an_error(runner: Runner, tokenizer: Tokenizer) -> None:
    pieces, _ = run(runner, tokenizer, Settings(eos_token_ids=()))
    assert pieces[-1].stop == "context"
    assert runner.position == runner.context_length
    assert len(tokens_of(pieces)) == runner.context_length - len(PROMPT) + 1


def test_a_prompt_longer_than_the_context_is_refused_before_it_runs(runner: Runner, tokenizer: Tokenizer) -> None:
    runner.reset()
    prompt = [1] * (runner.context_length + 1)
    with pytest.raises(ContextLimitError, match=f"the prompt has {len(prompt)} tokens, {len(prompt) - 1} of"):
        list(generate(runner, tokenizer, prompt, Settings(eos_token_ids=())))
    assert runner.position == 0


def test_a_reader_who_stops_reading_cancels(runner: Runner, tokenizer: Tokenizer) -> None:
    runner.reset()
    events: list[Event] = []
    pieces = generate(runner, tokenizer, PROMPT, Settings(eos_token_ids=()), events.append)
    list(itertools.islice(pieces, 3))
    pieces.close()  # type: ignore[attr-defined]
    assert events[-1] == Stop(reason="cancelled", tokens=3, at_ns=events[-1].at_ns)


def test_a_seed_repeats_an_answer(runner: Runner, tokenizer: Tokenizer) -> None:
    settings = Settings(eos_token_ids=(), sampling=Sampling(temperature=1.5, seed=11), max_tokens=20)
    assert run(runner, tokenizer, settings)[0] == run(runner, tokenizer, settings)[0]


def test_events_come_in_order_and_one_for_each_chunk(runner: Runner, tokenizer: Tokenizer) -> None:
    runner.reset()
    events: list[Event] = []
    prompt = [3] * (2 * runner.prefill_chunk + 1)
    list(generate(runner, tokenizer, prompt, Settings(eos_token_ids=(), max_tokens=2), events.append))
    kinds = [type(event) for event in events]
    assert kinds == [PrefillStart, PrefillEnd] * 3 + [TokenChosen, TokenChosen, Stop]
    chunks = [(event.position, event.tokens) for event in events if isinstance(event, PrefillStart)]
    size = runner.prefill_chunk
    assert chunks == [(0, size), (size, size), (2 * size, 1)]
    times = [event.at_ns for event in events]
    assert times == sorted(times)


def test_events_are_written_as_lines_of_json() -> None:
    file = io.StringIO()
    emit = json_lines(file)
    emit(LoadStart(at_ns=1))
    emit(LoadEnd(at_ns=2))
    emit(TokenChosen(index=0, token=9, at_ns=3))
    assert [json.loads(line) for line in file.getvalue().splitlines()] == [
        {"event": "load_start", "at_ns": 1},
        {"event": "load_end", "at_ns": 2},
        {"event": "token", "index": 0, "token": 9, "at_ns": 3},
    ]


def test_no_tokens_at_all_is_no_answer() -> None:
    with pytest.raises(SamplingError, match="max_tokens is 0; it must be 1 or more"):
        Settings(eos_token_ids=(), max_tokens=0)

"""A conversation answers as if it had read everything anew, but reads each token once."""

import itertools

import pytest

from runtimes.artifact import Artifact
from runtimes.chat import Conversation
from runtimes.errors import ChatTemplateError, ContextLimitError, ConversationError
from runtimes.events import Event, PrefillStart
from runtimes.generate import Piece, Settings
from runtimes.runner import Runner
from runtimes.sampling import Sampling
from runtimes.template import ChatTemplate, load_template
from runtimes.tokenizer import Tokenizer, load_tokenizer

SYSTEM = "the cat sat on the mat"


@pytest.fixture
def tokenizer(artifact: Artifact) -> Tokenizer:
    return load_tokenizer(artifact.tokenizer_file)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def chat(artifact: Artifact, runner: Runner, tokenizer: Tokenizer, events: list[Event]) -> Conversation:
    settings = Settings(eos_token_ids=(tokenizer.token_id("<|im_end|>") or 0,), max_tokens=6)
    template = load_template(artifact)
    return Conversation(
        runner=runner, tokenizer=tokenizer, template=template, settings=settings, system=SYSTEM, emit=events.append
    )


def text_of(pieces: object) -> str:
    return "".join(piece.text for piece in pieces)  # type: ignore[attr-defined]


def prefilled(events: list[Event]) -> int:
    """The tokens read since the events were last cleared."""
    count = sum(event.tokens for event in events if isinstance(event, PrefillStart))
    events.clear()
    return count


def fresh_answer(chat: Conversation, tokenizer: Tokenizer, count: int) -> str:
    """The answer to the messages so far by a runner that reads them from the start."""
    text = chat.template.render(chat.messages[: count or None])
    chat.runner.reset()
    logits = chat.runner.forward(tokenizer.encode(text))
    tokens = []
    while len(tokens) < 6 and (token := int(logits.argmax())) not in chat.settings.eos_token_ids:
        tokens.append(token)
        logits = chat.runner.forward([token])
    return tokenizer.decode(tokens)


def test_a_second_turn_reads_only_what_is_new(chat: Conversation, tokenizer: Tokenizer, events: list[Event]) -> None:
    text_of(chat.say("hello"))
    position = chat.runner.position
    prefilled(events)
    text_of(chat.say("the dog"))
    new = prefilled(events)
    whole = len(tokenizer.encode(chat.template.render(chat.messages[:-1])))
    assert new <= whole - position + 6  # an answer read back as text may have a few tokens more or less
    assert new < whole / 2


def test_a_second_turn_answers_as_a_fresh_reading_does(chat: Conversation, tokenizer: Tokenizer) -> None:
    text_of(chat.say("hello"))
    second = text_of(chat.say("the dog"))
    raw_tokens_are_canonical = tokenizer.encode(tokenizer.decode(chat._tokens, special=True)) == chat._tokens
    if raw_tokens_are_canonical:
        assert fresh_answer(chat, tokenizer, -1) == second
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_regenerating_reads_nothing_again(chat: Conversation, events: list[Event]) -> None:
    first = text_of(chat.say("hello"))
    prefilled(events)
    assert text_of(chat.regenerate()) == first
    assert prefilled(events) == 0
    other = text_of(
        chat.regenerate(Settings(eos_token_ids=(), sampling=Sampling(temperature=3.0, seed=5), max_tokens=6))
    )
    assert other != first
    assert [message["content"] for message in chat.messages] == [SYSTEM, "hello", other]


def test_an_edited_message_is_as_if_it_had_been_said_first(chat: Conversation, events: list[Event]) -> None:
    text_of(chat.say("hello"))
    text_of(chat.say("the lazy dog jumps over the cat"))
    prefilled(events)
    edited = text_of(chat.edit_last("fox"))
    read = prefilled(events)
    assert len(chat.messages) == 5
    chat.reset()
    text_of(chat.say("hello"))
    prefilled(events)
    assert text_of(chat.say("fox")) == edited
    assert prefilled(events) == read


def test_editing_the_first_message_keeps_the_system_part(chat: Conversation, events: list[Event]) -> None:
    text_of(chat.say("hello"))
    whole = prefilled(events)
    text_of(chat.edit_last("hello"))
    assert prefilled(events) == 0  # the same text: its prompt is still there
    text_of(chat.edit_last("world"))
    assert 0 < prefilled(events) < whole


def test_a_cancelled_answer_is_kept_as_far_as_it_was_read(chat: Conversation) -> None:
    pieces = chat.say("hello")
    said = text_of(itertools.islice(pieces, 2))
    pieces.close()  # type: ignore[attr-defined]
    assert chat.messages[-1] == {"role": "assistant", "content": said}
    assert text_of(chat.say("go on"))
    assert len(chat.messages) == 5


def test_after_a_failed_call_the_conversation_goes_on(chat: Conversation, tokenizer: Tokenizer) -> None:
    first = text_of(chat.say("hello"))

    def fail(_event: Event) -> None:
        raise KeyboardInterrupt

    chat.emit = fail
    with pytest.raises(KeyboardInterrupt):
        text_of(chat.say("the dog"))
    chat.emit = lambda _event: None
    expected_messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": first}]
    assert chat.messages[1:3] == expected_messages
    answer = text_of(chat.regenerate())
    assert answer == fresh_answer(chat, tokenizer, -1)


def test_a_reset_starts_over(chat: Conversation) -> None:
    first = text_of(chat.say("hello"))
    text_of(chat.say("the dog"))
    chat.reset()
    assert chat.messages == [{"role": "system", "content": SYSTEM}]
    assert text_of(chat.say("hello")) == first


def test_a_message_that_cannot_fit_changes_nothing(chat: Conversation) -> None:
    text_of(chat.say("hello"))
    before = list(chat.messages)
    with pytest.raises(ContextLimitError, match=r"the conversation has \d+ tokens, the context holds"):
        chat.say("the dog " * 300)
    with pytest.raises(ContextLimitError):
        chat.edit_last("the dog " * 300)
    assert chat.messages == before
    assert text_of(chat.say("the cat"))


@pytest.mark.parametrize("command", ["regenerate", "edit_last"])
def test_before_the_first_message_there_is_nothing_to_redo(chat: Conversation, command: str) -> None:
    with pytest.raises(ConversationError, match="no message was sent yet"):
        text_of(chat.regenerate() if command == "regenerate" else chat.edit_last("x"))


def test_a_template_that_refuses_a_message_leaves_the_conversation_alone(chat: Conversation) -> None:
    chat.template = ChatTemplate("{{ raise_exception('no thanks') }}")
    with pytest.raises(ChatTemplateError, match="refuses this conversation: no thanks"):
        chat.say("hello")
    assert chat.messages == [{"role": "system", "content": SYSTEM}]


def test_pieces_say_how_an_answer_ended(chat: Conversation) -> None:
    pieces: list[Piece] = list(chat.say("hello"))
    assert pieces[-1].stop in ("eos", "max_tokens")
    assert all(piece.stop is None for piece in pieces[:-1])

"""What methods learn from: files, good and bad, the model's own text, and what is recorded of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from export import calibration, user_cache
from export.calibration import Request, calibrate
from export.calibration.answers import Writing, write
from export.calibration.files import read_documents
from export.calibration.prompts import HELD_OUT, PROMPTS, calibration_prompts, held_out_prompts
from export.calibration.reading import losses
from export.calibration.sequences import DOCUMENT_TOKENS, SEQUENCE_TOKENS, as_rows, default_texts, sample
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.config import parse_config
from export.errors import CalibrationError, SpecError
from export.plan import make_plan
from export.progress import Silent
from export.spec import ExportSpec
from export.text_files import read_text_files
from tests.fixtures import TINY
from tests.subjects import chunked_logits, eager, quantized

Open = Callable[[str], Path]


class Noting(Silent):
    """A progress that keeps what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def request_of(directory: Path, path: Path | None = None, *, trained: bool = True) -> Request:
    checkpoint = Checkpoint.open(directory)
    config = parse_config(checkpoint.config)
    return Request(
        model=CheckpointModel(weights=FloatWeights(checkpoint=checkpoint, config=config)),
        text=read_text_files(directory, config.vocab_size),
        checkpoint_hash="x",
        trained=trained,
        path=path,
    )


@pytest.fixture(scope="module")
def tiny() -> Request:
    return request_of(TINY)


def held_out() -> str:
    return (TINY / "held_out.txt").read_text(encoding="utf-8")


def words(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_a_text_file_gives_whole_sequences_of_its_passages(tiny: Request, tmp_path: Path) -> None:
    file = words(tmp_path / "book.txt", held_out() * 2)
    progress = Noting()
    found = calibrate(replace(tiny, path=file), progress)
    assert found.kind == "file"
    assert found.tokens.shape[1] == SEQUENCE_TOKENS
    assert found.tokens.numel() >= 2048
    assert found.to_dict() == {"kind": "file", "sha256": found.sha256, "tokens": found.tokens.numel()}
    assert progress.notes == [f"calibration: {found.tokens.numel()} tokens from {file}, sha256 {found.sha256[:12]}"]
    assert torch.equal(calibrate(replace(tiny, path=file), Silent()).tokens, found.tokens)


def test_each_kind_of_line_is_read_and_conversations_go_through_the_chat_template(
    tiny: Request, tmp_path: Path
) -> None:
    turn = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Good day."}]
    file = words(
        tmp_path / "chat.jsonl",
        {"text": "In the beginning."},
        "",
        {"messages": turn},
        {"prompt": "Hello!", "response": "Good day."},
    )
    documents = read_documents(file)
    assert [document.line for document in documents] == [1, 3, 4]
    template = calibration.ChatTemplate(tiny.text.chat_template or "")
    rendered = [document.render(template, file) for document in documents]
    assert rendered[0] == "In the beginning."
    assert rendered[1] == rendered[2]
    assert rendered[1].startswith("<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n")
    assert "Good day.<|im_end|>" in rendered[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "no such file; name a text"),
        ("empty.txt", b"", "holds no text; give some pages"),
        ("blank.jsonl", b"\n\n", "holds no text; give some pages"),
        ("nothing.jsonl", b'{"text": ""}\n', "holds no text; give some pages"),
        ("latin.txt", b"good\nmorgen \xfc\n", "line 2: not UTF-8 at byte 12; convert the file"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ("list.jsonl", b'["a"]\n', "line 1: holds \\['a'\\]; expected an object with"),
        ("other.jsonl", b'{"body": "a"}\n', "line 1: holds 'body'; expected"),
        ("odd.jsonl", b'{"messages": [{"role": "user"}]}\n', "line 1: messages is .* expected a list"),
        ("short.txt", b"In the beginning.\n" * 5, "0 tokens in whole sequences of 512, fewer than the 2048"),
    ],
)
def test_a_file_that_teaches_nothing_is_a_named_error(
    name: str, content: bytes | None, message: str, tiny: Request, tmp_path: Path
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CalibrationError, match=f"^--calibration {file}.*{message}"):
        calibrate(replace(tiny, path=file), Silent())


def test_a_bad_file_is_found_while_planning_and_one_that_nothing_reads_too(tmp_path: Path) -> None:
    spec = ExportSpec(target="android", out=tmp_path, model="tiny", method="rtn", calibration=tmp_path / "none.txt")
    with pytest.raises(SpecError, match="changes nothing with --method rtn, which learns from no text"):
        make_plan(spec)
    with pytest.raises(CalibrationError, match="no such file"):
        make_plan(replace(spec, method="weighted"))


def test_text_that_the_model_cannot_read_is_refused_and_its_own_kind_is_not(tiny: Request, tmp_path: Path) -> None:
    model, table = losses(tiny.model, sample([held_out()], tiny.text.encoder()).tokens)
    assert model < 0.85 * table
    strange = "".join(chr(0x4E00 + (place * 7919) % 5000) for place in range(9000))
    with pytest.raises(CalibrationError, match=r"the model cannot read this text: its loss is \d+\.\d+ nats a token"):
        calibrate(replace(tiny, path=words(tmp_path / "strange.txt", strange)), Silent())
    random_weights = replace(tiny, trained=False, path=tmp_path / "strange.txt")
    assert calibrate(random_weights, Silent()).tokens.numel() >= 2048, "random weights read nothing anyhow"


def test_a_base_model_without_a_template_refuses_conversations(fixture_checkpoint: Open, tmp_path: Path) -> None:
    file = words(tmp_path / "chat.jsonl", {"prompt": "Hello!", "response": "Good day."})
    with pytest.raises(CalibrationError, match="line 1: holds a conversation, but the checkpoint has no chat template"):
        calibrate(request_of(fixture_checkpoint("base_fp32"), file), Silent())


def test_a_long_document_is_cut_so_that_it_cannot_fill_the_sample_alone(tiny: Request, tmp_path: Path) -> None:
    lines = [
        {"text": "word " * 5000},
        *({"text": f"{index} {held_out()[index * 999 : index * 999 + 999]}"} for index in range(12)),
    ]
    progress = Noting()
    found = calibrate(replace(tiny, path=words(tmp_path / "mixed.jsonl", *lines), trained=False), progress)
    assert progress.notes[0].startswith("calibration: 1 of 13 documents were cut to 512 tokens")
    whole = sum(len(tiny.text.encode(line["text"])) for line in lines[1:])
    assert found.tokens.numel() == (whole + DOCUMENT_TOKENS) // SEQUENCE_TOKENS * SEQUENCE_TOKENS


def test_one_domain_of_prompts_is_held_out() -> None:
    used, kept = calibration_prompts(), held_out_prompts()
    assert len(used) >= 50
    assert tuple(kept) == PROMPTS[HELD_OUT]
    assert not set(used) & set(kept)
    assert len(set(used)) == len(used)


def test_greedy_writing_is_what_the_decoder_prefers_at_each_step(tiny: Request, tmp_path: Path) -> None:
    encode = tiny.text.encoder()
    prompts = [encode("<|im_start|>user\nWhat colour is the sky?<|im_end|>\n<|im_start|>assistant\n"), encode("In the")]
    rows = write(tiny.model, prompts, Writing(limit=12, stops=tiny.text.eos_token_ids), lambda *_: None)
    decoder = eager(quantized(TINY, tmp_path, "float"))
    for prompt, row in zip(prompts, rows, strict=True):
        assert row[: len(prompt)] == prompt
        assert len(prompt) < len(row) <= len(prompt) + 12
        best = chunked_logits(decoder, torch.tensor([row]), len(row)).argmax(-1)
        assert row[len(prompt) :] == best[len(prompt) - 1 : -1].tolist()
        ends = [token in tiny.text.eos_token_ids for token in row[len(prompt) :]]
        assert not any(ends[:-1])


def test_drawn_text_depends_on_the_seed_alone(tiny: Request) -> None:
    def drawn(seed: int) -> list[list[int]]:
        return write(tiny.model, [[token] for token in (1, 2)], Writing(limit=8, seed=seed), lambda *_: None)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_as_much_of_a_file_is_read_as_is_asked_for(tiny: Request, tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(default_texts()), encoding="utf-8")
    tiny = replace(tiny, trained=False)  # it cannot read this text, which is refused otherwise
    asked = replace(tiny, path=file, wanted=20_480)
    found = calibrate(asked, Noting())
    assert found.tokens.shape == (20_480 // SEQUENCE_TOKENS, SEQUENCE_TOKENS)
    less = calibrate(replace(tiny, path=file), Noting())
    assert torch.equal(found.tokens[: len(less.tokens)], less.tokens)
    assert asked.identity() != replace(tiny, path=file).identity()


@pytest.mark.parametrize(
    ("count", "message"), [(100, "is out of range; use 2048 to"), (20_480, "add --calibration FILE")]
)
def test_a_number_of_tokens_that_can_mean_nothing_is_named(count: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"--calibration-tokens {count}.*{message}"):
        ExportSpec(target="android", out=tmp_path, calibration_tokens=count)


def test_a_model_writes_its_own_text_once_and_keeps_it(
    tiny: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "ANSWER_TOKENS", 2)
    monkeypatch.setattr(calibration, "calibration_prompts", lambda: calibration_prompts()[:8])
    asked = replace(tiny, wanted=3072)
    progress = Noting()
    first = calibrate(asked, progress)
    assert first.kind == "answers"
    assert first.tokens.shape == (6, SEQUENCE_TOKENS)
    assert "the model cannot read the prose" in progress.notes[0], "tiny has never seen such text"
    said = Tokenizer.from_file(str(TINY / "tokenizer.json")).decode(first.tokens[0].tolist(), skip_special_tokens=False)
    assert said.startswith(f"<|im_start|>user\n{calibration_prompts()[0]}<|im_end|>\n<|im_start|>assistant\n")
    (kept,) = user_cache.directory("calibration").glob("*.json")
    assert torch.equal(as_rows(json.loads(kept.read_text())), first.tokens)
    again = Noting()
    assert calibrate(asked, again).sha256 == first.sha256
    assert len(again.notes) == 1, "it was written again"


def test_random_weights_and_large_models_read_prose() -> None:
    request = request_of(TINY, trained=False)
    assert request.kind == "text"
    found = calibrate(request, Silent())
    assert found.tokens.shape == (32, SEQUENCE_TOKENS)
    assert request.identity() != replace(request, trained=True).identity()

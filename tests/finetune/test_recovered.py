"""What training leaves is a checkpoint of which the export makes the codes that training saw."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.checkpoint import Checkpoint, check_tensors
from export.errors import QuantizationError, SpecError
from export.finetune import FinetuneError
from export.finetune.pipeline import finetune
from export.finetune.qat import CodesStudent, QatStudent
from export.finetune.recovered import PROVENANCE, write_recovered
from export.finetune.spec import FinetuneSpec
from export.finetune.subject import load_subject, logits
from export.finetune.train import Recipe, SavedState, train
from export.plan import make_plan
from export.progress import Silent
from export.spec import RECOVERED_METHOD, ExportSpec
from export.tensors import text_tensors
from tests.finetune.conftest import Trainee, trainee
from tests.fixtures import TINY
from tests.subjects import quantized

PROSE = "In the beginning the river was small and slow, and the people who lived beside it gave it no name. "


@pytest.mark.parametrize(
    ("name", "student_of", "recipe"),
    [
        ("tied", QatStudent, Recipe(steps=5, learning_rate=0.3, batch=2)),
        ("untied", QatStudent, Recipe(steps=5, learning_rate=0.3, batch=2)),
        ("tied", CodesStudent, Recipe(steps=20, learning_rate=0.2, batch=2)),
    ],
)
def test_the_export_makes_exactly_the_codes_of_the_last_step(
    name: str,
    student_of: type[QatStudent] | type[CodesStudent],
    recipe: Recipe,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    one: Trainee = request.getfixturevalue(name)
    subject = one.subject()
    start = one.start(subject, "awq-gptq")
    student = student_of(subject, start)
    saved = SavedState(file=tmp_path / "state.pt", key="")
    train(subject, student, one.tokens, recipe, saved, Silent())
    out = tmp_path / "out"
    out.mkdir()
    write_recovered(out, one.checkpoint, one.tensors(student.weights(), start), {})
    store = quantized(out, tmp_path / "store", "int4", method="recovered")
    before = quantized(one.checkpoint.path, tmp_path / "before", "int4", method="awq-gptq")
    for unit, expected in student.codes().items():
        assert torch.equal(store.codes(unit), expected.codes), unit
        assert torch.equal(store.scales(unit), expected.scales), unit
        assert not torch.equal(store.codes(unit), before.codes(unit)), f"{unit} did not move, so this shows nothing"
    assert start.floats, "the method folded nothing, so this shows nothing of folds"
    with torch.no_grad():
        trained = logits(subject, one.tokens, student.replaced())
        exported = logits(load_subject(Checkpoint.open(out), one.config, subject.device), one.tokens)
    assert torch.equal(trained, exported)


def test_everything_that_was_not_trained_keeps_its_bytes(untied: Trainee, tmp_path: Path) -> None:
    base = untied.checkpoint
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    write_recovered(tmp_path, base, {name: torch.ones(base.shape(name))}, {"kind": "qat"})
    found = Checkpoint.open(tmp_path)
    check_tensors(found, text_tensors(untied.config))
    assert found.names() == base.names()
    assert [file.name for file in found.files()] == [file.name for file in base.files()]
    assert found.dtype(name) == "F32"
    for other in set(base.names()) - {name}:
        assert found.dtype(other) == base.dtype(other)
        assert torch.equal(found.read(other), base.read(other)), other
    for file in ("tokenizer.json", "config.json", "chat_template.jinja"):
        assert (tmp_path / file).read_bytes() == (base.path / file).read_bytes()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    grown = base.entries[name].size_bytes  # twice as wide
    assert index["metadata"]["total_size"] == sum(entry.size_bytes for entry in base.entries.values()) + grown


def test_an_export_reads_back_what_was_trained_and_refuses_coarser_groups(chat: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finetune(spec(trainee(TINY), chat, out, steps=1, scheme="int4", group_size=32), Silent())
    asked = ExportSpec(target="android", out=tmp_path / "bundle", checkpoint=str(out), scheme="int4", group_size=32)
    assert make_plan(asked).method.name == RECOVERED_METHOD
    assert make_plan(replace(asked, method="rtn")).method.name == "rtn"
    with pytest.raises(
        QuantizationError, match=r"layers\.0\..*groups lie on no int4_g64 grid.*--group-size of finetune"
    ):
        quantized(out, tmp_path / "store", "int4", 64, method=RECOVERED_METHOD)


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    file = tmp_path / "prose.txt"
    file.write_text("".join(f"{number}. {PROSE}" for number in range(100)))
    return file


def spec(trainee: Trainee, data: Path, out: Path, **changes: object) -> FinetuneSpec:
    places: dict[str, object] = {"checkpoint": str(trainee.checkpoint.path), "data": data, "out": out}
    return FinetuneSpec(**{"kind": "qat", "method": "rtn", "steps": 2, **places, **changes})  # type: ignore[arg-type]


def test_a_run_says_what_it_was_made_from_and_is_not_done_twice(chat: Path, tmp_path: Path) -> None:
    tiny = trainee(TINY)
    asked = spec(tiny, chat, tmp_path / "out", steps=1)
    first = finetune(asked, Silent())
    stamp = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert first.provenance["base_sha256"] == tiny.checkpoint.content_hash()
    assert first.provenance["scheme"] == asked.scheme
    assert first.provenance["steps"] == 1
    assert first.provenance["data"]["source"] == str(chat)
    assert json.loads((tmp_path / "out" / PROVENANCE).read_text()) == first.provenance
    assert finetune(asked, Silent()).provenance == first.provenance
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == stamp
    other = finetune(spec(tiny, chat, tmp_path / "out", steps=2), Silent())
    assert other.provenance["key"] != first.provenance["key"]
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns != stamp


def test_what_is_wrong_is_named_before_training(
    tied: Trainee, prose: Path, tmp_path: Path, fixture_checkpoint: Callable[[str], Path]
) -> None:
    short, empty, odd = tmp_path / "short.txt", tmp_path / "empty.txt", tmp_path / "odd.jsonl"
    short.write_text(PROSE)
    empty.write_text(" \n")
    odd.write_text('{"question": "why?"}\n')
    out = tmp_path / "out"
    wrong: list[tuple[FinetuneSpec, str]] = [
        (spec(tied, short, out), "short.txt.*tokens"),
        (spec(tied, empty, out), "empty.txt"),
        (spec(tied, odd, out), "odd.jsonl, line 1"),
        (spec(tied, tmp_path / "absent.txt", out), "absent.txt"),
        (spec(tied, prose, out), "prose.txt: the model cannot read this text"),
        (spec(tied, prose, out, scheme="float"), "leaves every matrix float"),
        (spec(tied, prose, out, scheme="auto"), "finds its formats by search"),
        (spec(tied, prose, out, scheme="int5"), "unknown scheme 'int5'"),
        (spec(tied, prose, out, group_size=48), "group_size 48"),
        (spec(tied, prose, tied.checkpoint.path), "is the checkpoint itself"),
        (spec(tied, prose, out, checkpoint=str(fixture_checkpoint("like_9b")), model="tiny"), "--model tiny has"),
    ]
    for asked, message in wrong:
        with pytest.raises(Exception, match=message) as found:
            finetune(asked, Silent())
        assert isinstance(found.value, FinetuneError | SpecError) or "Error" in type(found.value).__name__
    assert not (out / "config.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps 0 is out of range"),
        ({"learning_rate": float("nan")}, "--learning-rate nan is not a positive number"),
        ({"kind": "codes", "learning_rate": 2.0}, "--learning-rate 2.0 is the share of codes"),
        ({"nll_share": 1.5}, "--nll 1.5 is not a share"),
        ({"kind": "qlora", "rank": 0}, "--rank 0 is out of range"),
        ({"keep_adapters": True}, "--keep-adapters goes with --qlora"),
    ],
)
def test_a_setting_out_of_range_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        FinetuneSpec(**{"kind": "qat", "out": Path("out"), **changes})  # type: ignore[arg-type]

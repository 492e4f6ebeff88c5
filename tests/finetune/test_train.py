"""The training loop: it learns, it is the same whenever interrupted, it stops at what is no number."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from export.finetune import FinetuneError
from export.finetune.qat import CodesStudent, QatStudent
from export.finetune.subject import logits
from export.finetune.train import Batches, Recipe, SavedState, rate_factor, train
from export.progress import Silent
from tests.finetune.conftest import Trainee
from tests.fixtures import load_reference

SAVE_EVERY_STEPS = 4
STEPS = 11
RECIPE = Recipe(steps=STEPS, learning_rate=0.05, batch=2)


class InterruptAt(Silent):
    """Interrupts a run after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, name: str, count: int = 0) -> None:  # noqa: ARG002 (the protocol's)
        self.left -= count
        if self.left <= 0:
            raise KeyboardInterrupt


class Counting(Silent):
    """Keeps what is reported done: first what an earlier run did, then every step."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def step(self, name: str, count: int = 0) -> None:  # noqa: ARG002 (the protocol's)
        self.counts.append(count)


@pytest.fixture(autouse=True)
def _saves_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.finetune.train.SAVE_EVERY_STEPS", SAVE_EVERY_STEPS)


def trained(trainee: Trainee, file: Path, recipe: Recipe = RECIPE) -> tuple[QatStudent, list[float]]:
    subject = trainee.subject()
    student = QatStudent(subject, trainee.start(subject))
    saved = SavedState(file=file, key="one")
    return student, train(subject, student, trainee.tokens, recipe, saved, Silent())


def assert_equal(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_the_subject_computes_what_transformers_computes(name: str, request: pytest.FixtureRequest) -> None:
    trainee: Trainee = request.getfixturevalue(name)
    with torch.no_grad():
        expected = load_reference(trainee.checkpoint.path)(input_ids=trainee.tokens).logits
    found = logits(trainee.subject(), trainee.tokens)
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_training_brings_the_student_nearer_to_the_float_model(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    student, losses = trained(request.getfixturevalue(name), tmp_path / "state.pt")
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert len(losses) == STEPS
    assert all(parameter.grad is None for parameter in student.trainable()), "gradients are left over"


def test_codes_that_move_bring_the_student_nearer_and_are_the_same_whenever_interrupted(
    tied: Trainee, tmp_path: Path
) -> None:
    subject, recipe = tied.subject(), Recipe(steps=40, learning_rate=0.02, batch=2)

    def run(file: Path, steps: int) -> tuple[CodesStudent, list[float]]:
        student = CodesStudent(subject, tied.start(subject))
        saved = SavedState(file=file, key="one")
        return student, train(subject, student, tied.tokens, recipe, saved, InterruptAt(steps))

    expected, losses = run(tmp_path / "undisturbed.pt", 2 * recipe.steps)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "state.pt", recipe.steps - 3)
    again, found = run(tmp_path / "state.pt", 2 * recipe.steps)
    assert found == losses
    assert_equal(again, expected)


def test_a_student_of_codes_begins_at_the_methods_own(tied: Trainee) -> None:
    subject = tied.subject()
    start = tied.start(subject)
    found = CodesStudent(subject, start).codes()
    for unit, matrix in start.matrices.items():
        assert torch.equal(found[unit].codes, matrix.codes().codes), unit
        assert torch.equal(found[unit].scales, matrix.codes().scales), unit


def test_an_interrupted_run_ends_with_the_bits_of_an_undisturbed_one(tied: Trainee, tmp_path: Path) -> None:
    expected, losses = trained(tied, tmp_path / "undisturbed.pt")
    subject = tied.subject()
    saved = SavedState(file=tmp_path / "state.pt", key="one")
    with pytest.raises(KeyboardInterrupt):
        train(subject, QatStudent(subject, tied.start(subject)), tied.tokens, RECIPE, saved, InterruptAt(STEPS - 1))
    again = QatStudent(subject, tied.start(subject))
    assert train(subject, again, tied.tokens, RECIPE, saved, InterruptAt(STEPS + 1)) == losses
    assert_equal(again, expected)


@pytest.mark.slow
def test_a_run_killed_with_sigkill_ends_with_the_bits_of_an_undisturbed_one(tied: Trainee, tmp_path: Path) -> None:
    expected, losses = trained(tied, tmp_path / "undisturbed.pt")
    file = tmp_path / "state.pt"
    script = f"""
        import torch
        import export.finetune.train
        from pathlib import Path
        from tests.finetune.conftest import trainee
        from tests.finetune.test_train import trained
        export.finetune.train.SAVE_EVERY_STEPS = {SAVE_EVERY_STEPS}
        torch.set_num_threads({torch.get_num_threads()})
        trained(trainee(Path({str(tied.checkpoint.path)!r})), Path({str(file)!r}))
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)]) as process:
        deadline = time.monotonic() + 300
        while not file.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert file.exists(), "the run ended before it was killed"
    again, found = trained(tied, file)
    assert found == losses
    assert_equal(again, expected)


def test_the_state_of_another_run_is_not_gone_on_with(tied: Trainee, tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    subject = tied.subject()
    short = Recipe(steps=SAVE_EVERY_STEPS, learning_rate=0.05, batch=2)
    other, one = (SavedState(file=file, key=key) for key in ("other", "one"))
    train(subject, QatStudent(subject, tied.start(subject)), tied.tokens, short, other, Silent())
    seen = Counting()
    train(subject, QatStudent(subject, tied.start(subject)), tied.tokens, short, one, seen)
    assert seen.counts == [0] + [1] * SAVE_EVERY_STEPS


def test_a_damaged_state_is_named_with_what_to_do(tied: Trainee, tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    file.write_bytes(b"not a state")
    with pytest.raises(FinetuneError, match=r"state\.pt: damaged .*; delete it to start again"):
        trained(tied, file)


def test_a_loss_that_is_no_number_stops_the_run_and_writes_nothing(tied: Trainee, tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    with pytest.raises(FinetuneError, match="training step .* not finite .* lower --learning-rate"):
        trained(tied, file, Recipe(steps=STEPS, learning_rate=1e30, batch=2))
    assert not file.exists()


def test_batches_show_every_sequence_once_before_any_twice_and_depend_on_the_step_alone() -> None:
    batches = Batches(tokens=torch.arange(10).view(10, 1), size=4, seed=3)
    drawn = torch.cat([batches.of_step(step) for step in range(5)]).flatten().tolist()
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    assert torch.equal(batches.of_step(3), Batches(tokens=torch.arange(10).view(10, 1), size=4, seed=3).of_step(3))


def test_a_micro_batch_at_a_time_gives_the_gradients_of_the_whole(
    tied: Trainee, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short = Recipe(steps=2, learning_rate=0.05, batch=4, nll_share=0.3)
    whole, losses = trained(tied, tmp_path / "whole.pt", short)
    monkeypatch.setattr("export.finetune.train.LOGIT_ELEMENTS", 1)
    parts, found = trained(tied, tmp_path / "parts.pt", short)
    assert found == pytest.approx(losses, rel=1e-5)
    for name, value in whole.state_dict().items():
        assert torch.allclose(parts.state_dict()[name], value, rtol=1e-3, atol=0.02), name


def test_checkpointed_layers_give_the_same_loss_and_gradients(
    tied: Trainee, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short = Recipe(steps=3, learning_rate=0.05, batch=2)
    expected, losses = trained(tied, tmp_path / "kept.pt", short)
    monkeypatch.setattr("export.finetune.train.CHECKPOINTED_ELEMENTS", 0)
    again, found = trained(tied, tmp_path / "again.pt", short)
    assert found == losses
    assert_equal(again, expected)


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    factors = [rate_factor(step, 100) for step in range(100)]
    assert factors[0] < factors[4] > factors[50] > factors[99]
    assert factors[99] < 0.001

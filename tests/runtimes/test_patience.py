"""A patient runner runs what can end in time, and says how long the rest would take."""

from typing import Any

import numpy as np
import pytest

from runtimes.artifact import Artifact
from runtimes.patience import PatientRunner, TooSlowError
from runtimes.runner import Runner
from runtimes.verify import verify
from runtimes.vision.spec import PatchedImage


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Slow:
    """A runner behind which every call of the model takes some seconds of a clock."""

    def __init__(self, runner: Runner, clock: Clock) -> None:
        self.runner, self.clock = runner, clock
        self.seconds = 10.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def forward(self, tokens: Any) -> Any:
        self.clock.seconds += self.seconds * -(-len(tokens) // self.runner.prefill_chunk)
        return self.runner.forward(tokens)


def test_calls_run_until_the_next_would_end_too_late(runner: Runner) -> None:
    clock = Clock()
    patient = PatientRunner(Slow(runner, clock), 25.0, clock)
    patient.start()
    patient.forward([1])
    patient.forward([2])
    with pytest.raises(TooSlowError, match=r"more than 25 s of CPU time here, at 10\.0 s a call of the model"):
        patient.forward([3])
    assert patient.position == 2
    patient.start()
    np.testing.assert_array_equal(patient.forward([3]).shape, (runner.vocab_size,))
    with pytest.raises(TooSlowError):
        patient.forward([0] * (2 * runner.prefill_chunk))


def test_nothing_is_limited_before_the_first_check_begins(runner: Runner) -> None:
    clock = Clock()
    patient = PatientRunner(Slow(runner, clock), 1.0, clock)
    for token in range(3):
        assert patient.forward([token]).size == runner.vocab_size
    patient.start()
    with pytest.raises(TooSlowError, match=r"more than 1 s of CPU time here, at 10\.0 s a call"):
        patient.forward([3])


def test_a_slow_first_call_does_not_speak_for_those_that_follow(runner: Runner) -> None:
    clock = Clock()
    slow = Slow(runner, clock)
    patient = PatientRunner(slow, 25.0, clock)
    slow.seconds = 1000.0
    patient.forward([1])
    slow.seconds = 10.0
    patient.forward([2])
    patient.start()
    patient.forward([3])
    assert patient.position == 3


def test_a_tower_is_timed_by_the_tokens_of_an_image_and_says_nothing_of_the_text_model(runner: Runner) -> None:
    clock = Clock()

    class Seeing(Slow):
        def see(self, image: PatchedImage) -> int:
            clock.seconds += 2.0 * image.tokens
            return image.tokens

    def image(side: int) -> PatchedImage:
        patches, levels = np.zeros((side * side, 4), np.float32), np.zeros((side, side, 3), np.uint8)
        return PatchedImage(patches=patches, levels=levels, height=side, width=side, merge_size=2)

    patient = PatientRunner(Seeing(runner, clock), 25.0, clock)
    assert patient.see(image(8)) == 16
    patient.start()
    assert patient.see(image(6)) == 9
    with pytest.raises(TooSlowError, match=r"at 2\.0 s for each token of an image"):
        patient.see(image(4))
    patient.start()
    patient.forward([1])
    patient.forward([1])
    with pytest.raises(TooSlowError, match=r"at 10\.0 s a call of the model"):
        patient.forward([1])


def test_a_check_compares_what_there_is_time_for_and_says_so(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    class Timed(PatientRunner):
        def __init__(self, runner: Runner, seconds: float) -> None:
            super().__init__(Slow(runner, clock), seconds, clock)

    monkeypatch.setattr("runtimes.verify.PatientRunner", Timed)
    monkeypatch.setattr(f"runtimes.{artifact.manifest.runtime.name}.CHECK_SECONDS", 25.0, raising=False)
    checks = {check.name: check for check in verify(artifact.path, hashes=False, stock=False, threads=1).checks}
    assert checks["few_steps"].figures["positions"] == 4
    assert "stopped" not in checks["few_steps"].figures
    steps = checks["chunks_of_1"]
    assert (steps.outcome, steps.figures["positions"]) == ("passed", 2)
    assert steps.figures["stopped"] == "would take more than 25 s of CPU time here, at 10.0 s a call of the model"
    assert (checks["longest_context"].outcome, checks["longest_context"].figures) == ("skipped", {"too_slow": True})

"""A patient runner runs what can end in time, and says how long the rest would take."""

from typing import Any

import numpy as np
import pytest

from runtimes.patience import PatientRunner, TooSlowError
from runtimes.runner import Runner


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Slow:
    """A runner behind which every call of the model takes ten seconds of a clock."""

    def __init__(self, runner: Runner, clock: Clock) -> None:
        self.runner, self.clock = runner, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def forward(self, tokens: Any) -> Any:
        self.clock.seconds += 10.0 * -(-len(tokens) // self.runner.prefill_chunk)
        return self.runner.forward(tokens)


def test_calls_run_until_the_next_would_end_too_late(runner: Runner) -> None:
    clock = Clock()
    patient = PatientRunner(Slow(runner, clock), 25.0, clock)
    patient.forward([1])
    patient.forward([2])
    with pytest.raises(TooSlowError, match=r"more than 25 s of CPU time here, at 10\.0 s a call of the model"):
        patient.forward([3])
    assert patient.position == 2
    patient.start()
    np.testing.assert_array_equal(patient.forward([3]).shape, (runner.vocab_size,))
    with pytest.raises(TooSlowError):
        patient.forward([0] * (2 * runner.prefill_chunk))


def test_the_first_call_always_runs(runner: Runner) -> None:
    clock = Clock()
    assert PatientRunner(Slow(runner, clock), 1.0, clock).forward([1]).size == runner.vocab_size

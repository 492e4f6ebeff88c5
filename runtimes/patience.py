"""A runner that does not begin what would take too long: for engines that check a file well and slowly.

Apple's runtime for Linux decompresses every weight again in each call, in one thread and without the CPU's own float16
instructions: a minute a call for a model of a billion weights. A check that cannot end in its time is listed as
skipped, with the reason, like any other that cannot run here.
"""

import time
from collections.abc import Callable
from typing import Any

from runtimes.runner import Logits, Runner, Snapshot, Tokens


class TooSlowError(Exception):
    """A call that would end after the time of its check."""


class PatientRunner:
    """A runner whose calls, as long as the longest so far, must fit what is left of `seconds` since `start`.

    The clock is this process's CPU time, so that a busy machine changes nothing.
    """

    def __init__(self, runner: Runner, seconds: float, clock: Callable[[], float] = time.process_time) -> None:
        self._runner, self._seconds, self._clock = runner, seconds, clock
        self._per_call = 0.0
        self.start()

    def start(self) -> None:
        """Begin a check."""
        self._started = self._clock()

    @property
    def context_length(self) -> int:
        return self._runner.context_length

    @property
    def vocab_size(self) -> int:
        return self._runner.vocab_size

    @property
    def prefill_chunk(self) -> int:
        return self._runner.prefill_chunk

    @property
    def threads(self) -> int:
        return self._runner.threads

    @property
    def position(self) -> int:
        return self._runner.position

    def forward(self, tokens: Tokens) -> Logits:
        """`forward`, once it is known to end in time."""
        calls = max(1, -(-len(tokens) // self._runner.prefill_chunk))
        begun = self._clock()
        needed = begun - self._started + calls * self._per_call
        if self._per_call > 0 and needed > self._seconds:  # nothing is known before the first call
            raise TooSlowError(
                f"would take more than {self._seconds:.0f} s of CPU time here, "
                f"at {self._per_call:.1f} s a call of the model"
            )
        logits = self._runner.forward(tokens)
        self._per_call = max(self._per_call, (self._clock() - begun) / calls)
        return logits

    def reset(self) -> None:
        self._runner.reset()

    def snapshot(self) -> Snapshot:
        return self._runner.snapshot()

    def restore(self, snapshot: Any) -> None:
        self._runner.restore(snapshot)

    def close(self) -> None:
        self._runner.close()

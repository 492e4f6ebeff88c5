"""A runner that does not begin what would take too long: for engines that check a file well and slowly.

Apple's runtime for Linux decompresses every weight again in each call, in one thread and without the CPU's own float16
instructions: a minute a call for a model of a billion weights. The evaluator of Core ML programs takes a second a token
for one. A check that cannot end in its time ends with what it has compared until then, or is listed as skipped, with
the reason, like any other that cannot run here.
"""

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from runtimes.runner import Logits, Runner, Snapshot, Tokens
from runtimes.vision.spec import PatchedImage

ONE, SEVERAL, SEE = "one token", "several tokens", "see"
UNITS = {ONE: "a call of the model", SEVERAL: "a call of the model", SEE: "for each token of an image"}
Made = TypeVar("Made")


class TooSlowError(Exception):
    """A call that would end after the time of its check."""


class PatientRunner:
    """A runner whose calls, as long as the latest of their kind, must fit what is left of `seconds` since `start`.

    Until the first `start` nothing is limited: how long a call takes is learned there. Calls of one token, of several,
    and of the vision tower (by the tokens that an image takes) are three kinds. The clock is this process's CPU time,
    so that a busy machine changes nothing.
    """

    def __init__(self, runner: Runner, seconds: float, clock: Callable[[], float] = time.process_time) -> None:
        self._runner, self._seconds, self._clock = runner, seconds, clock
        self._latest: dict[str, float] = {}  # CPU seconds of a call, of the tower's by token
        self._end = math.inf

    def start(self) -> None:
        """Begin a check."""
        self._end = self._clock() + self._seconds

    def __getattr__(self, name: str) -> Any:
        """What a runner has beside the protocol's methods: its engine's name, or how it sees."""
        return getattr(self._runner, name)

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
        return self._timed_forward(len(tokens), lambda: self._runner.forward(tokens))

    def forward_prompt(self, prompt: Any) -> Logits:
        """`forward_prompt` of a runner that sees, once it is known to end in time."""
        seeing: Any = self._runner
        return self._timed_forward(prompt.tokens.size, lambda: seeing.forward_prompt(prompt))

    def see(self, image: PatchedImage) -> Any:
        """`see` of a runner that sees, once it is known to end in time."""
        seeing: Any = self._runner
        return self._timed(SEE, image.tokens, lambda: seeing.see(image), self._latest.get(SEE, 0.0))

    def _timed_forward(self, count: int, forward: Callable[[], Logits]) -> Logits:
        kind = SEVERAL if count > 1 else ONE
        of_model = [self._latest[known] for known in (ONE, SEVERAL) if known in self._latest]
        guess = self._latest.get(kind, max(of_model, default=0.0))
        return self._timed(kind, max(1, -(-count // self._runner.prefill_chunk)), forward, guess)

    def _timed(self, kind: str, calls: int, call: Callable[[], Made], per_call: float) -> Made:
        begun = self._clock()
        if begun + calls * per_call > self._end:
            raise TooSlowError(
                f"would take more than {self._seconds:.0f} s of CPU time here, at {per_call:.1f} s {UNITS[kind]}"
            )
        made = call()
        self._latest[kind] = (self._clock() - begun) / calls
        return made

    def reset(self) -> None:
        self._runner.reset()

    def snapshot(self) -> Snapshot:
        return self._runner.snapshot()

    def restore(self, snapshot: Any) -> None:
        self._runner.restore(snapshot)

    def close(self) -> None:
        self._runner.close()

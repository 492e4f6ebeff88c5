"""Log likelihoods of continuations from an artifact's runner, as benchmarks of multiple choice ask for them.

A question comes with several answers to score. Its tokens are run once; each answer then goes on from a snapshot.
"""

from collections.abc import Sequence

from export.errors import QualityError
from runtimes.reference import log_sum_exp
from runtimes.runner import Logits, Runner, Snapshot


class Scorer:
    """Scores continuations one after the other and remembers the last context."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._context: tuple[int, ...] | None = None
        self._logits: Logits | None = None
        self._snapshot: Snapshot | None = None

    def score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """Log likelihood of the continuation, and whether greedy choice would have written it."""
        room = self._runner.context_length + 1 - len(continuation)  # the last token is never fed
        if not continuation or not context or room < 1:
            raise QualityError(
                f"{len(context)} tokens with a continuation of {len(continuation)}: both need one, and the "
                f"continuation must fit the context of {self._runner.context_length}; export with a longer one"
            )
        logits = self._after(tuple(context[-room:]))
        total, greedy = 0.0, True
        for place, token in enumerate(continuation):
            if place > 0:
                logits = self._runner.forward([continuation[place - 1]])
            total += float(logits[token]) - log_sum_exp(logits)
            greedy = greedy and int(logits.argmax()) == token
        return total, greedy

    def _after(self, context: tuple[int, ...]) -> Logits:
        """The logits behind a context, the runner standing there."""
        if self._context == context and self._logits is not None:
            self._runner.restore(self._snapshot)  # type: ignore[arg-type]
            return self._logits
        self._context = None  # until the new one is complete
        self._runner.reset()
        self._logits = self._runner.forward(context)
        self._snapshot = self._runner.snapshot()
        self._context = context
        return self._logits

"""What runners share whose runtime keeps a sequence's state in buffers that can be reached."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from runtimes.artifact import Artifact
from runtimes.errors import RuntimeFailedError
from runtimes.runner import HALF_WRITTEN, Logits, Tokens, check_tokens
from runtimes.state import SequenceState, StateSnapshot


class StateRunner(ABC):
    """One sequence: its position, whether its state is whole, and snapshots of it. A subclass sets `_state`."""

    _state: SequenceState

    def __init__(self, artifact: Artifact, threads: int) -> None:
        manifest = artifact.manifest
        self.context_length = manifest.context_length
        self.vocab_size = manifest.vocab_size
        self.prefill_chunk = manifest.prefill_chunk
        self.threads = threads
        self._position = 0
        self._failed = False

    @property
    def position(self) -> int:
        return self._position

    def forward(self, tokens: Tokens) -> Logits:
        """Append tokens and return the logits after the last one."""
        ids = check_tokens(tokens, self)
        if self._failed:
            raise RuntimeFailedError(HALF_WRITTEN)
        self._state.before_write(self._position)
        for start in range(0, ids.size, self.prefill_chunk):
            chunk = ids[start : start + self.prefill_chunk]
            self._failed = True  # also when a signal interrupts between the call and the new position
            self._run(chunk)
            self._position += chunk.size
            self._failed = False
        return self._last_logits()

    def reset(self) -> None:
        """Forget the sequence; cached rows stay behind the position until they are overwritten."""
        self._position = 0
        self._failed = False

    def snapshot(self) -> StateSnapshot:
        """Remember the sequence so far."""
        if self._failed:
            raise RuntimeFailedError(HALF_WRITTEN)
        return self._state.snapshot(self._position)

    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot of this runner."""
        self._position = self._state.restore(snapshot)
        self._failed = False

    @abstractmethod
    def close(self) -> None:
        """Give the model's memory back; the runner is of no further use."""

    @abstractmethod
    def _run(self, ids: NDArray[np.int64]) -> None:
        """One call of the model on at most `prefill_chunk` tokens at the position."""

    @abstractmethod
    def _last_logits(self) -> Logits:
        """The logits of the last call, float32, (vocab_size,), the caller's own."""

"""The state of a sequence in memory, and snapshots of it that cost little.

A snapshot copies the fixed-size states (convolution, recurrent) at once, and rows of the KV caches only when they are
about to be overwritten: a cache only grows, so until somebody goes back, an old position's rows are still in place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from runtimes.artifact import StateTensor
from runtimes.errors import SnapshotError

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class StateBuffer:
    """One state tensor and where to find its memory now: a runtime may exchange two buffers from call to call."""

    tensor: StateTensor
    find: Callable[[], Array]

    @property
    def array(self) -> Array:
        """The memory, shared with the runtime."""
        return self.find()

    def rows(self, start: int, stop: int) -> Array:
        """The part of a cache that belongs to these positions, as a view."""
        assert self.tensor.token_axis is not None
        return self.array[(slice(None),) * self.tensor.token_axis + (slice(start, stop),)]


class StateSnapshot:
    """A position of one sequence: its fixed states, and the cache rows that were overwritten since."""

    def __init__(self, owner: "SequenceState", position: int, fixed: list[Array]) -> None:
        self.owner = owner
        self.position = position
        self.fixed = fixed
        self.kept_from = position  # rows below are still in the buffers, the rest is in `rows`
        self.rows: list[list[Array]] = []  # per cache, pieces in order of position


class SequenceState:
    """All state of one sequence."""

    def __init__(self, buffers: Sequence[StateBuffer]) -> None:
        self._fixed = [buffer for buffer in buffers if buffer.tensor.token_axis is None]
        self._caches = [buffer for buffer in buffers if buffer.tensor.token_axis is not None]
        self._snapshots: WeakSet[StateSnapshot] = WeakSet()

    def clear(self) -> None:
        """Zero the fixed states; cache rows stay, since nothing reads beyond the position."""
        for buffer in self._fixed:
            buffer.array.fill(0)

    def snapshot(self, position: int) -> StateSnapshot:
        """Remember the state at a position."""
        snapshot = StateSnapshot(self, position, [buffer.array.copy() for buffer in self._fixed])
        self._snapshots.add(snapshot)
        return snapshot

    def restore(self, snapshot: object) -> int:
        """Bring a snapshot's state back and return its position."""
        if not isinstance(snapshot, StateSnapshot) or snapshot.owner is not self:
            raise SnapshotError("this snapshot was taken from another runner; a snapshot can only return to its own")
        self.before_write(snapshot.kept_from, besides=snapshot)
        for buffer, saved in zip(self._fixed, snapshot.fixed, strict=True):
            np.copyto(buffer.array, saved)
        if snapshot.kept_from < snapshot.position:
            for buffer, pieces in zip(self._caches, snapshot.rows, strict=True):
                saved = np.concatenate(pieces, axis=buffer.tensor.token_axis)
                np.copyto(buffer.rows(snapshot.kept_from, snapshot.position), saved)
        snapshot.kept_from = snapshot.position
        snapshot.rows = []
        return snapshot.position

    def before_write(self, start: int, besides: StateSnapshot | None = None) -> None:
        """Before rows from `start` on are overwritten, give the snapshots that still count on them a copy."""
        for snapshot in self._snapshots:
            if snapshot is besides or snapshot.kept_from <= start:
                continue
            pieces = [buffer.rows(start, snapshot.kept_from).copy() for buffer in self._caches]
            older = snapshot.rows or [[] for _ in pieces]
            snapshot.rows = [[piece, *rest] for piece, rest in zip(pieces, older, strict=True)]
            snapshot.kept_from = start

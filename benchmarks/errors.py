"""What can go wrong in a benchmark, each with what, where and what to do.

BenchmarkError
  WorkerFailedError       a subprocess ended badly
  MissingPeerError        a peer asked for isn't installed
  ResultStoreError        the store of results can't be read
"""

from pathlib import Path

from runtimes.errors import ProjectError

__all__ = ["BenchmarkError", "MissingPeerError", "ResultStoreError", "WorkerFailedError"]


class BenchmarkError(ProjectError):
    """Root of this package's errors."""


class WorkerFailedError(BenchmarkError):
    """A worker process ended with a failure or without its JSON line."""

    def __init__(self, name: str, reason: str, log: Path) -> None:
        super().__init__(f"{name}: {reason}; its output is in {log}; rerun to resume from this step")


class MissingPeerError(BenchmarkError):
    """A peer was asked for that this machine can't run."""

    def __init__(self, peer: str, found: str, remedy: str) -> None:
        super().__init__(f"peer {peer!r} can't run: {found}; {remedy}")


class ResultStoreError(BenchmarkError):
    """The results file of a work directory is unreadable or of another version."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"{path}: {found}; delete it or choose another --work-dir")

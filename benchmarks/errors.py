"""What can go wrong in a benchmark, each with what, where and what to do.

BenchmarkError
├── MissingPackageError       a command needs a package that isn't installed
├── WorkerFailedError         a subprocess ended badly
├── MissingPeerError          a peer asked for isn't installed
├── ResultStoreError          the results file of a side-by-side run can't be read
├── StreamError               what a runner wrote isn't an event stream
│   ├── StreamSizeError       a line, the stream or a count is beyond its cap
│   ├── StreamFormatError     a line isn't one of the events
│   ├── StreamOrderError      the events are in an order that can't happen
│   ├── StreamClockError      the clock ran backwards
│   └── TruncatedStreamError  the end line is missing or disagrees with what came before
└── RecordError               what should be a record isn't one
    └── RecordVersionError    a record was written by a newer version of this program
"""

from pathlib import Path

from runtimes.errors import ProjectError

__all__ = [
    "BenchmarkError",
    "MissingPackageError",
    "MissingPeerError",
    "RecordError",
    "RecordVersionError",
    "ResultStoreError",
    "StreamClockError",
    "StreamError",
    "StreamFormatError",
    "StreamOrderError",
    "StreamSizeError",
    "TruncatedStreamError",
    "WorkerFailedError",
]


class BenchmarkError(ProjectError):
    """Root of this package's errors."""


class MissingPackageError(BenchmarkError):
    """A command needs a package that isn't installed."""

    def __init__(self, command: str, package: str) -> None:
        super().__init__(
            f"{command} needs the package {package!r}, which is not installed; "
            "run `make venv`, or `pip install 'qwen-edge[bench]'`"
        )


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


class StreamError(BenchmarkError):
    """What a runner wrote isn't an event stream; nothing in it is a result."""


class StreamSizeError(StreamError):
    """A line, the stream or a count is beyond its cap."""


class StreamFormatError(StreamError):
    """A line isn't UTF-8, isn't JSON, or isn't one of the events."""


class StreamOrderError(StreamError):
    """The events are in an order that can't happen."""


class StreamClockError(StreamError):
    """The clock ran backwards."""


class TruncatedStreamError(StreamError):
    """The end line is missing, or its count or hash disagrees with the lines before it."""


class RecordError(BenchmarkError):
    """What should be a record isn't one."""


class RecordVersionError(RecordError):
    """A record was written by a newer version of this program."""

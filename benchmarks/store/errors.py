"""What can go wrong with the store of records, each with what, where and what to do.

StoreError
├── StoreUnavailableError  the database can't be reached or written
├── StoreCorruptError      the database, or a row of it, is not what was written
├── StoreVersionError      the database was written by a newer version of this program, or by another one
├── RunExistsError         a run of that name is stored with other content
└── UnknownRunError        no run of that name is stored
"""

from benchmarks.errors import BenchmarkError

__all__ = [
    "RunExistsError",
    "StoreCorruptError",
    "StoreError",
    "StoreUnavailableError",
    "StoreVersionError",
    "UnknownRunError",
]


class StoreError(BenchmarkError):
    """Root of the store's errors."""


class StoreUnavailableError(StoreError):
    """The database can't be reached or written."""


class StoreCorruptError(StoreError):
    """The database, or a row of it, is not what was written."""


class StoreVersionError(StoreError):
    """The database was written by a newer version of this program, or by another program."""


class RunExistsError(StoreError):
    """A run or case of that name is stored with other content; nothing was overwritten."""


class UnknownRunError(StoreError):
    """No run of that name is stored."""

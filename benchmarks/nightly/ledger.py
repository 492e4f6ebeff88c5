"""What became of each job: one small file a job, replaced atomically, so that a night survives any crash."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.errors import BenchmarkError
from benchmarks.text import Name

__all__ = ["JobState", "Ledger", "NightRunningError"]

State = Literal["planned", "submitted", "done", "failed"]


class NightRunningError(BenchmarkError):
    """Another process runs this very night."""


class JobState(BaseModel):
    """How far a job is; `cases` counts its rows by status."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    job_id: Name
    state: State = "planned"
    handle: str | None = None
    run_id: Name | None = None
    cases: dict[str, int] = {}
    reason: str = ""


class Ledger:
    """The states of all jobs of one night."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, job_id: str) -> Path:
        """A job's own directory."""
        place = self._folder / job_id
        place.mkdir(parents=True, exist_ok=True)
        return place

    def read(self, job_id: str) -> JobState:
        """A job's state; one that can't be read is one that never was."""
        try:
            return JobState.model_validate_json((self.folder(job_id) / "state.json").read_bytes())
        except (OSError, ValidationError):
            return JobState(job_id=job_id)

    def write(self, state: JobState) -> JobState:
        """Replace a job's state; it is on disk when this returns."""
        place = self.folder(state.job_id) / "state.json"
        unfinished = place.with_suffix(".part")
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(state.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(place)
        return state

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes off this night; the system lets go when this process ends, however it does."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise NightRunningError(f"{self._folder}: another process runs this night; wait for it") from error
            yield

"""Who lends devices: one file a farm, found by its name.

`benchmarks/farms/NAME.py` is the farm NAME: its `open_farm(settings)` gives a `Farm`. Submitting the same job twice is
one submission, whatever crashed in between; what a farm hands back is untrusted and parsed like a phone's own output.
Credentials come from the environment or from the farm's own tools, never from a file of this repository.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

from pydantic import BaseModel, ValidationError

from benchmarks import record
from benchmarks.cases import CaseFile
from benchmarks.errors import BenchmarkError
from benchmarks.record import CaseStatus, RunRecord
from runtimes.artifact import Artifact

__all__ = ["Farm", "FarmError", "Poll", "Work", "known_farms", "open_farm", "parsed_settings"]

Settings = TypeVar("Settings", bound=BaseModel)


class FarmError(BenchmarkError):
    """A farm could not do what it was asked for; `status` is what the rows of the job say."""

    def __init__(self, what: str, status: CaseStatus = "failed") -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Work:
    """One job with everything a farm needs for it; `folder` is its own and outlives a crash."""

    job_id: str
    session_id: str
    artifact: Artifact
    protocol: record.Protocol
    cases: Sequence[CaseFile]
    settings: Mapping[str, Any]
    device: str
    folder: Path
    store_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Poll:
    """How far a submitted job is."""

    state: Literal["running", "done", "failed"]
    reason: str = ""
    status: CaseStatus = "failed"


class Farm(Protocol):
    """One lender of devices."""

    @property
    def poll_s(self) -> float:
        """How long to wait between two questions how far a job is."""

    def plan(self, work: Work) -> list[str]:
        """What would be done, a line a step; raises where this farm can't run the job."""

    def submit(self, work: Work) -> str:
        """Start the job, or find it started, and give the handle to ask for it by."""

    def poll(self, work: Work, handle: str) -> Poll:
        """How far it is."""

    def collect(self, work: Work, handle: str) -> RunRecord:
        """The record of a job that is done."""


def known_farms() -> tuple[str, ...]:
    """The farms: the files beside this one that define `open_farm`, found without importing them."""
    return tuple(place.stem for place in sorted(Path(__file__).parent.glob("*.py")) if _defines_open_farm(place))


def open_farm(name: str, settings: Mapping[str, Any]) -> Farm:
    """The farm of that name."""
    if name not in known_farms():
        raise FarmError(f"unknown farm {name!r}; known: {', '.join(known_farms())}", "not_run")
    try:
        module = importlib.import_module(f"benchmarks.farms.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "benchmarks":
            raise
        remedy = "run `make venv`, or `pip install 'qwen-edge[farms]'`"
        raise FarmError(f"farm {name!r} needs the package {error.name!r}; {remedy}", "not_run") from error
    return cast("Callable[[Mapping[str, Any]], Farm]", module.open_farm)(settings)


def parsed_settings(kind: type[Settings], found: Mapping[str, Any], where: str) -> Settings:
    """Settings as a farm's own model has them, or what is wrong with them."""
    try:
        return kind.model_validate(dict(found))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise FarmError(f"{where}: {key}: {first['msg']}; docs/nightly.md has every key", "not_run") from error


def _defines_open_farm(place: Path) -> bool:
    # not by `ast`, which CPython 3.11 can't run in two threads at once
    return place.name != "__init__.py" and "\ndef open_farm(" in place.read_text(encoding="utf-8")

"""What BASE and CANDIDATE stand for: files of records, or runs of a store chosen by what they are."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.record import RunRecord, read_record
from benchmarks.store import RunFilter, open_store

__all__ = ["SIDE_HELP", "EmptySideError", "SideError", "read_side"]

FIELDS = {
    "run": "run_ids",
    "session": "session_id",
    "device": "device_id",
    "series": "series",
    "artifact": "artifact_sha256",
    "model": "model",
    "backend": "backend",
    "scheme": "scheme",
    "commit": "git_commit",
    "since": "since",
}
SIDE_HELP = (
    "a file of records (JSON, or one a line), a folder of such files, or NAME=VALUE[,NAME=VALUE...] to choose from the "
    f"store, the names being {', '.join(FIELDS)}; hashes and commits by their first digits, several runs joined by +"
)


class SideError(BenchmarkError):
    """What was given for a side is neither a file that can be read nor a choice."""


class EmptySideError(BenchmarkError):
    """A side has no runs."""


def read_side(words: str, store: str | None) -> list[RunRecord]:
    """All runs of one side, oldest first."""
    place = Path(words)
    records = list(_from_files(place)) if place.exists() else _from_store(_chosen(words), store)
    if not records:
        raise EmptySideError(f"{words!r} has no runs; `python -m benchmarks store list` shows what the store has")
    return sorted(records, key=lambda record: (record.started_at, record.run_id))


def _from_files(place: Path) -> Iterator[RunRecord]:
    for file in sorted(place.glob("*.json*")) if place.is_dir() else [place]:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise SideError(f"{file} cannot be read: {error.strerror}") from error
        lines = data.splitlines() if file.suffix == ".jsonl" else [data]
        for number, line in enumerate(lines, start=1):
            yield read_record(line, source=f"{file}:{number}" if len(lines) > 1 else str(file))


def _from_store(wanted: RunFilter, store: str | None) -> list[RunRecord]:
    with open_store(store) as opened:
        return list(opened.runs(wanted))


def _chosen(words: str) -> RunFilter:
    fields: dict[str, object] = {}
    for word in words.split(","):
        name, equals, value = word.partition("=")
        if name not in FIELDS or not equals or not value:
            raise SideError(f"{words!r}: {word!r} is neither a file nor a choice; give {SIDE_HELP}")
        fields[FIELDS[name]] = _parsed(name, value)
    return RunFilter(**fields)  # type: ignore[arg-type]


def _parsed(name: str, value: str) -> object:
    if name == "run":
        return tuple(value.split("+"))
    if name != "since":
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise SideError(f"since={value!r} is no date; write it as 2026-11-22 or 2026-11-22T06:00:00+00:00") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

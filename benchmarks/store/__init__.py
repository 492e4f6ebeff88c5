"""The store of records: append-only, in SQLite by default and in PostgreSQL by URL, with every raw event kept.

A run is announced, its cases are begun and done one by one, each in a transaction of its own, and the run is finished:
whatever happens to the program, the case in flight is all that can be lost, and it is not lost silently. Read back, it
is a case with status `killed` in a run that is not valid. Nothing is ever overwritten; storing the same thing again
does nothing, storing another thing under the same name is an error.
"""

import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import Connection, Engine, func, insert, select
from sqlalchemy.exc import IntegrityError

from benchmarks.errors import RecordError, RecordVersionError
from benchmarks.record import CaseRecord, RunRecord, Validity, read_record
from benchmarks.store.database import default_url, open_engine, reading, writing
from benchmarks.store.errors import RunExistsError, StoreCorruptError, StoreVersionError, UnknownRunError
from benchmarks.store.models import CaseBegin, CaseRow, Run, RunEnd
from benchmarks.stream import MAX_STREAM_BYTES
from benchmarks.stream_events import CaseKind

__all__ = ["RecordStore", "RunFilter", "default_url", "open_store"]

BATCH = 100
LOST_CASE = "the program ended while this case ran"
UNFINISHED = "the run was not finished"


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """Which runs; what is None doesn't matter. Hashes and commits may be given by their first digits."""

    run_ids: tuple[str, ...] | None = None
    session_id: str | None = None
    device_id: str | None = None
    device_kind: str | None = None
    series: str | None = None
    artifact_sha256: str | None = None
    model: str | None = None
    backend: str | None = None
    scheme: str | None = None
    git_commit: str | None = None
    since: datetime | None = None


def open_store(place: str | None = None) -> "RecordStore":
    """Open a database URL or the path of a SQLite file; the user's own store by default."""
    return RecordStore(open_engine(place or default_url()))


class RecordStore:
    """An open store; threads may share it, processes open their own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def append(self, record: RunRecord) -> bool:
        """Store a whole run at once; False where exactly this run is stored already."""
        with writing(self._engine) as connection:
            if _stored(connection, record.run_id):
                self._same_or_refuse(connection, record)
                return False
            _insert_run(connection, record)
            for position, case in enumerate(record.cases):
                _insert_begin(connection, record.run_id, case.case_id, case.kind, position)
                _insert_case(connection, record.run_id, case, position)
            _insert_end(connection, record)
        return True

    def begin_run(self, record: RunRecord) -> None:
        """Announce a run by its record without cases."""
        with writing(self._engine) as connection:
            if _stored(connection, record.run_id):
                raise RunExistsError(f"run {record.run_id!r} is stored already; a rerun takes a new run_id")
            _insert_run(connection, record)

    def case_begin(self, run_id: str, case_id: str, kind: CaseKind) -> None:
        """Note that a case runs now."""
        with writing(self._engine) as connection:
            _must_be_stored(connection, run_id)
            try:
                _insert_begin(connection, run_id, case_id, kind, _next_position(connection, run_id))
            except IntegrityError as error:
                raise RunExistsError(f"run {run_id!r}: case {case_id!r} was begun already") from error

    def case_done(self, run_id: str, case: CaseRecord) -> None:
        """Store a case that ended, well or badly; it is on disk when this returns."""
        with writing(self._engine) as connection:
            _must_be_stored(connection, run_id)
            query = select(CaseBegin.position).where(CaseBegin.run_id == run_id, CaseBegin.case_id == case.case_id)
            position = connection.execute(query).scalar_one_or_none()
            if position is None:
                position = _next_position(connection, run_id)
                _insert_begin(connection, run_id, case.case_id, case.kind, position)
            try:
                _insert_case(connection, run_id, case, position)
            except IntegrityError as error:
                raise RunExistsError(f"run {run_id!r}: case {case.case_id!r} is stored already") from error

    def finish_run(self, record: RunRecord) -> None:
        """Close an announced run by its whole record, whose cases must be those that were stored."""
        with writing(self._engine) as connection:
            _must_be_stored(connection, record.run_id)
            if _ended(connection, [record.run_id]):
                self._same_or_refuse(connection, record)
                return
            stored = next(_assemble(connection, [record.run_id]))
            if stored.cases != record.cases or _fixed(stored) != _fixed(record):
                raise RunExistsError(
                    f"run {record.run_id!r}: what is stored of it differs from the record that should finish it"
                )
            _insert_end(connection, record)

    def get(self, run_id: str) -> RunRecord:
        """One run, as far as it came."""
        with reading(self._engine) as connection:
            _must_be_stored(connection, run_id)
            return next(_assemble(connection, [run_id]))

    def run_ids(self, wanted: RunFilter | None = None) -> list[str]:
        """The names of some runs, oldest first."""
        query = select(Run.run_id).order_by(Run.started_at, Run.run_id).where(*_conditions(wanted or RunFilter()))
        with reading(self._engine) as connection:
            found = list(connection.execute(query).scalars())
        if wanted is not None and wanted.run_ids is not None:
            chosen = set(wanted.run_ids)
            found = [name for name in found if name in chosen]
        return found

    def runs(self, wanted: RunFilter | None = None) -> Iterator[RunRecord]:
        """Some runs, oldest first; those that are added meanwhile may be missing."""
        names = self.run_ids(wanted)
        for start in range(0, len(names), BATCH):
            with reading(self._engine) as connection:
                batch = list(_assemble(connection, names[start : start + BATCH]))
            yield from batch

    def check(self) -> list[str]:
        """Read everything back and say what is wrong: an empty list where nothing is."""
        problems = []
        if self._engine.dialect.name == "sqlite":
            with reading(self._engine) as connection:
                rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
                problems += [f"the database: {row}" for row in rows if row != "ok"]
        for name in self.run_ids():
            try:
                self.get(name)
            except (StoreCorruptError, StoreVersionError) as error:
                problems.append(str(error))
        return problems

    def _same_or_refuse(self, connection: Connection, record: RunRecord) -> None:
        if next(_assemble(connection, [record.run_id])) != record:
            raise RunExistsError(
                f"run {record.run_id!r} is stored with other content; nothing was overwritten, "
                "a rerun takes a new run_id"
            )


def _insert_run(connection: Connection, record: RunRecord) -> None:
    body = _header(record)
    connection.execute(
        insert(Run).values(
            run_id=record.run_id,
            session_id=record.session_id,
            started_at=_utc(record.started_at),
            device_id=record.device.id,
            device_kind=record.device.kind,
            series=record.series,
            artifact_sha256=record.artifact.sha256,
            model=record.artifact.model,
            backend=record.artifact.backend,
            scheme=record.artifact.scheme,
            git_commit=None if record.git is None else record.git.commit,
            body=body,
            body_sha256=_sha256(body.encode()),
        )
    )


def _insert_begin(connection: Connection, run_id: str, case_id: str, kind: str, position: int) -> None:
    connection.execute(insert(CaseBegin).values(run_id=run_id, case_id=case_id, kind=kind, position=position))


def _insert_case(connection: Connection, run_id: str, case: CaseRecord, position: int) -> None:
    body, events = case.model_dump_json(exclude={"events"}), case.stream_bytes
    connection.execute(
        insert(CaseRow).values(
            run_id=run_id,
            case_id=case.case_id,
            position=position,
            status=case.status,
            body=body,
            events=zlib.compress(events),
            sha256=_case_hash(body, events),
        )
    )


def _insert_end(connection: Connection, record: RunRecord) -> None:
    body = _header(record)
    connection.execute(
        insert(RunEnd).values(
            run_id=record.run_id, cases=len(record.cases), body=body, body_sha256=_sha256(body.encode())
        )
    )


def _next_position(connection: Connection, run_id: str) -> int:
    query = select(func.count()).select_from(CaseBegin).where(CaseBegin.run_id == run_id)
    return int(connection.execute(query).scalar_one())


def _stored(connection: Connection, run_id: str) -> bool:
    return connection.execute(select(Run.run_id).where(Run.run_id == run_id)).first() is not None


def _must_be_stored(connection: Connection, run_id: str) -> None:
    if not _stored(connection, run_id):
        name = connection.engine.url.render_as_string(hide_password=True)
        raise UnknownRunError(f"{name} has no run {run_id!r}; `python -m benchmarks store list` shows what it has")


def _ended(connection: Connection, run_ids: Sequence[str]) -> dict[str, Any]:
    rows = connection.execute(select(RunEnd.__table__).where(RunEnd.run_id.in_(run_ids)))
    return {row.run_id: row for row in rows}


def _assemble(connection: Connection, run_ids: Sequence[str]) -> Iterator[RunRecord]:
    """Records from rows, in the order asked for; every hash is checked."""
    runs = {row.run_id: row for row in connection.execute(select(Run.__table__).where(Run.run_id.in_(run_ids)))}
    ends = _ended(connection, run_ids)
    begun = _by_run(connection.execute(select(CaseBegin.__table__).where(CaseBegin.run_id.in_(run_ids))))
    cases = _by_run(connection.execute(select(CaseRow.__table__).where(CaseRow.run_id.in_(run_ids))))
    for run_id in run_ids:
        yield _record(runs[run_id], ends.get(run_id), begun[run_id], cases[run_id])


def _by_run(rows: Iterable[Any]) -> defaultdict[str, list[Any]]:
    grouped = defaultdict(list)
    for row in rows:
        grouped[row.run_id].append(row)
    return grouped


def _record(run: Any, end: Any, begun: list[Any], cases: list[Any]) -> RunRecord:
    rows = [(row.position, _case(row)) for row in cases]
    done = {case.case_id for _, case in rows}
    in_flight = [row for row in begun if row.case_id not in done]
    if end is not None and (in_flight or len(rows) != end.cases):
        raise StoreCorruptError(
            f"run {run.run_id!r}: {len(rows)} of {end.cases} cases are left; restore the store from a backup"
        )
    rows += [
        (row.position, CaseRecord(case_id=row.case_id, kind=row.kind, status="killed", reason=LOST_CASE))
        for row in in_flight
    ]
    record = _read_header(run if end is None else end)
    cases_in_order = tuple(case for _, case in sorted(rows, key=lambda row: row[0]))
    if end is not None:
        return record.model_copy(update={"cases": cases_in_order})
    validity = Validity(valid=False, violations=(*record.validity.violations, UNFINISHED))
    return record.model_copy(update={"cases": cases_in_order, "validity": validity})


def _case(row: Any) -> CaseRecord:
    where = f"run {row.run_id!r}, case {row.case_id!r}"
    try:
        unpacker = zlib.decompressobj()
        events = unpacker.decompress(row.events, MAX_STREAM_BYTES + 1)
        if _case_hash(row.body, events) != row.sha256 or unpacker.unconsumed_tail:
            raise StoreCorruptError(f"{where}: the row is not what was written; restore the store from a backup")
        lines = events.decode().split("\n")[:-1]
        return CaseRecord.model_validate({**json.loads(row.body), "events": lines})
    except (zlib.error, ValueError) as error:
        raise StoreCorruptError(f"{where}: {type(error).__name__}; restore the store from a backup") from error


def _read_header(row: Any) -> RunRecord:
    if _sha256(row.body.encode()) != row.body_sha256:
        raise StoreCorruptError(f"run {row.run_id!r} is not what was written; restore the store from a backup")
    try:
        return read_record(row.body, source=f"run {row.run_id!r}")
    except RecordVersionError as error:
        raise StoreVersionError(str(error)) from error
    except RecordError as error:
        raise StoreCorruptError(str(error)) from error


def _header(record: RunRecord) -> str:
    return record.model_copy(update={"cases": ()}).model_dump_json()


def _fixed(record: RunRecord) -> tuple[object, ...]:
    """What a run can't change between its announcement and its end."""
    return record.run_id, record.session_id, record.started_at, record.artifact, record.device, record.series


def _conditions(wanted: RunFilter) -> list[Any]:
    exact = {
        Run.session_id: wanted.session_id,
        Run.device_id: wanted.device_id,
        Run.device_kind: wanted.device_kind,
        Run.series: wanted.series,
        Run.model: wanted.model,
        Run.backend: wanted.backend,
        Run.scheme: wanted.scheme,
    }
    prefixes = {Run.artifact_sha256: wanted.artifact_sha256, Run.git_commit: wanted.git_commit}
    conditions: list[Any] = [column == value for column, value in exact.items() if value is not None]
    conditions += [column.startswith(value, autoescape=True) for column, value in prefixes.items() if value is not None]
    if wanted.since is not None:
        conditions.append(Run.started_at >= _utc(wanted.since))
    return conditions


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _case_hash(body: str, events: bytes) -> str:
    return _sha256(body.encode() + b"\n" + events)

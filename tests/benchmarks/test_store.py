"""The store loses nothing silently: killed writers, two writers, damaged files, other versions, both databases."""

import os
import random
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from benchmarks.record import CaseRecord, RunRecord, Validity
from benchmarks.store import RecordStore, RunFilter, open_store
from benchmarks.store.database import open_engine, reading
from benchmarks.store.errors import (
    RunExistsError,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
    UnknownRunError,
)
from benchmarks.store.models import Base
from tests.benchmarks import postgres
from tests.benchmarks.records import run_record, warm_case

SEED = 20261122
NUMBERS = count()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.cluster() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/results.sqlite"
    server = request.getfixturevalue("server")
    name = f"results{next(NUMBERS)}"
    with psycopg.connect(server.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(server.format(name=name))


def header(number: int = 0) -> RunRecord:
    return run_record(number).model_copy(update={"cases": ()})


def in_child(work: Callable[[], None]) -> int:
    """Run something in a process of its own; gives its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:  # noqa: BLE001 a child of pytest must never return into it
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)


def test_a_run_comes_back_as_it_was(url: str) -> None:
    record = run_record(1, warm_case(), CaseRecord(case_id="cold-1", kind="cold", status="oom", reason="lmkd"))
    with open_store(url) as store:
        assert store.append(record)
        assert store.get(record.run_id) == record
    with open_store(url) as store:
        assert store.get(record.run_id) == record
        assert store.check() == []


def test_storing_the_same_again_does_nothing_and_another_is_refused(url: str) -> None:
    with open_store(url) as store:
        assert store.append(run_record(1))
        assert not store.append(run_record(1))
        with pytest.raises(RunExistsError, match="nothing was overwritten"):
            store.append(run_record(1, warm_case(step_ms=30)))
        with pytest.raises(RunExistsError, match="a rerun takes a new run_id"):
            store.begin_run(header(1))
        assert store.get("run-0001") == run_record(1)


def test_a_run_is_written_case_by_case(url: str) -> None:
    cases = (warm_case("b"), warm_case("a", step_ms=30))
    record = run_record(1, *cases)
    with open_store(url) as store:
        store.begin_run(header(1))
        for case in cases:
            store.case_begin("run-0001", case.case_id, case.kind)
            store.case_done("run-0001", case)
        unfinished = store.get("run-0001")
        assert unfinished.cases == cases
        assert unfinished.validity == Validity(valid=False, violations=("the run was not finished",))
        store.finish_run(record)
        store.finish_run(record)
        assert store.get("run-0001") == record
        assert store.check() == []


def test_a_case_in_flight_is_a_row_with_a_reason(url: str) -> None:
    with open_store(url) as store:
        store.begin_run(header(1))
        store.case_begin("run-0001", "cold-1", "cold")
        store.case_done("run-0001", warm_case())
        found = store.get("run-0001")
    assert [(case.case_id, case.status) for case in found.cases] == [("cold-1", "killed"), ("warm-p8", "ok")]
    assert found.cases[0].reason == "the program ended while this case ran"
    assert not found.validity.valid


def test_what_does_not_fit_is_refused(url: str) -> None:
    with open_store(url) as store:
        with pytest.raises(UnknownRunError, match="has no run 'nobody'"):
            store.get("nobody")
        with pytest.raises(UnknownRunError):
            store.case_done("nobody", warm_case())
        store.begin_run(header(1))
        store.case_begin("run-0001", "warm-p8", "warm")
        with pytest.raises(RunExistsError, match="was begun already"):
            store.case_begin("run-0001", "warm-p8", "warm")
        store.case_done("run-0001", warm_case())
        with pytest.raises(RunExistsError, match="is stored already"):
            store.case_done("run-0001", warm_case())
        with pytest.raises(RunExistsError, match="differs from the record"):
            store.finish_run(run_record(1, warm_case(step_ms=30)))
        with pytest.raises(RunExistsError, match="differs from the record"):
            store.finish_run(run_record(1, session_id="another"))


def test_runs_are_found_by_what_they_are(url: str) -> None:
    with open_store(url) as store:
        for number in (3, 1, 2):
            store.append(run_record(number))
        other = run_record(4, series="app", session_id="session-0001")
        store.append(other)
        assert store.run_ids() == ["run-0001", "run-0002", "run-0003", "run-0004"]
        assert store.run_ids(RunFilter(series="app")) == ["run-0004"]
        assert store.run_ids(RunFilter(session_id="session-0001")) == ["run-0001", "run-0004"]
        assert store.run_ids(RunFilter(since=run_record(3).started_at)) == ["run-0003", "run-0004"]
        assert store.run_ids(RunFilter(git_commit="cc", artifact_sha256="aaa", model="tiny")) == store.run_ids()
        assert store.run_ids(RunFilter(git_commit="c%")) == []
        assert store.run_ids(RunFilter(run_ids=("run-0002", "x"))) == ["run-0002"]
        assert store.run_ids(RunFilter(backend="onnx", scheme="int4", device_kind="vm")) == []
        assert list(store.runs(RunFilter(device_id=other.device.id))) == [*map(run_record, (1, 2, 3)), other]


def test_rows_cannot_be_changed_or_deleted(url: str) -> None:
    with open_store(url) as store:
        store.append(run_record(1))
    engine = open_engine(url)
    for table in Base.metadata.tables:
        for change in (f"UPDATE {table} SET run_id = 'x'", f"DELETE FROM {table}"):
            with engine.connect() as connection, pytest.raises(DBAPIError, match="records are never changed"):
                connection.execute(text(change))
    engine.dispose()


def test_the_migrations_make_what_the_models_say(url: str) -> None:
    engine = open_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def write_until_killed(url: str, pipe: int, names: Iterator[int]) -> None:
    """Runs of five cases without end; every commit is acknowledged by a line."""
    store = open_store(url)
    os.write(pipe, b"ready\n")
    for number in names:
        name = f"run-{number:04}"
        store.begin_run(header(number))
        for case in range(5):
            store.case_begin(name, f"case-{case}", "warm")
            os.write(pipe, f"{name} begun {case}\n".encode())
            store.case_done(name, warm_case(f"case-{case}", step_ms=20 + case))
            os.write(pipe, f"{name} done {case}\n".encode())
        store.finish_run(run_record(number, *(warm_case(f"case-{case}", step_ms=20 + case) for case in range(5))))
        os.write(pipe, f"{name} finished 0\n".encode())


def kill_writers(url: str, times: int) -> tuple[int, int]:
    """Kill a writer again and again; gives how many cases were acknowledged and how many stood begun but not done."""
    chance = random.Random(SEED)
    acknowledged: dict[str, set[tuple[str, int]]] = {}
    for attempt in range(times):
        reader, writer = os.pipe()
        names = count(1000 * attempt)
        child = in_child(lambda writer=writer, names=names: write_until_killed(url, writer, names))  # type: ignore[misc]
        os.close(writer)
        with os.fdopen(reader) as lines:
            assert lines.readline() == "ready\n"
            # by what was done, half of them at once, half at a moment that is nobody's: a busy machine, or one with a
            # slow disk, must not change how much is tried
            said = [lines.readline() for _ in range(chance.randrange(16))]
            time.sleep(chance.choice([0, chance.uniform(0, 0.01)]))
            os.kill(child, signal.SIGKILL)
            for line in [*said, *lines]:
                run, what, case = line.split()
                acknowledged.setdefault(run, set()).add((what, int(case)))
        os.waitpid(child, 0)
    return check_survivors(url, acknowledged)


def check_survivors(url: str, acknowledged: dict[str, set[tuple[str, int]]]) -> tuple[int, int]:
    with open_store(url) as store:
        assert store.check() == []
        stored = {record.run_id: record for record in store.runs()}
    in_flight = 0
    for name, said in acknowledged.items():
        cases = {case.case_id: case for case in stored[name].cases}
        assert {f"case-{number}" for what, number in said if what == "begun"} <= cases.keys()
        for number in (number for what, number in said if what == "done"):
            assert cases[f"case-{number}"] == warm_case(f"case-{number}", step_ms=20 + number)
        assert stored[name].validity.valid or ("finished", 0) not in said
        lost = [case for case in cases.values() if case.status == "killed"]
        assert len(lost) <= 1
        in_flight += len(lost)
    return sum(what == "done" for said in acknowledged.values() for what, _ in said), in_flight


def test_a_killed_writer_loses_the_case_in_flight_at_most(url: str) -> None:
    kill_writers(url, 12)


@pytest.mark.slow
def test_two_hundred_killed_writers_lose_the_cases_in_flight_at_most(url: str) -> None:
    cases, in_flight = kill_writers(url, 200)
    assert cases > 200
    assert in_flight > 0, "no kill met a case in flight: the test kills at the wrong moments"


def append_some(url: str, start: int) -> None:
    with open_store(url) as store:
        for number in range(start, start + 25):
            store.append(run_record(number))


def test_two_writers_at_once_both_succeed(url: str) -> None:
    """They open the empty database at the same moment, so they also race to make its tables."""
    children = [in_child(lambda start=start: append_some(url, start)) for start in (0, 100)]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    with open_store(url) as store:
        assert store.run_ids() == [f"run-{number:04}" for number in [*range(25), *range(100, 125)]]
        assert store.check() == []


def test_a_reader_sees_one_state_while_another_writes(url: str) -> None:
    stored = text("SELECT count(*) FROM runs")
    with open_store(url) as store:
        store.append(run_record(1))
        engine = open_engine(url)
        with reading(engine) as connection:
            assert connection.execute(stored).scalar_one() == 1
            store.append(run_record(2))
            assert connection.execute(stored).scalar_one() == 1
        engine.dispose()


def test_a_schema_of_the_future_is_refused_untouched(url: str) -> None:
    with open_store(url) as store:
        store.append(run_record(1))
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9001'"))
    with pytest.raises(StoreVersionError, match="its schema is 9001, newer than 0001"):
        open_store(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    with open_store(url) as store:
        assert store.get("run-0001") == run_record(1)


def test_tables_of_another_program_are_refused(url: str) -> None:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE runs (distance INTEGER)"))
    engine.dispose()
    with pytest.raises(StoreVersionError, match="tables runs that this program did not make"):
        open_store(url)


def filled(path: Path) -> list[RunRecord]:
    records = [run_record(number) for number in range(12)]
    with open_store(str(path)) as store:
        for record in records:
            store.append(record)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return records


def test_a_record_of_the_future_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    filled(path)
    change_body(path, '"schema_version":1', '"schema_version":2')
    with open_store(str(path)) as store, pytest.raises(StoreVersionError, match="schema_version 2 is newer than 1"):
        store.get("run-0003")


def change_body(path: Path, old: str, new: str) -> None:
    """As someone with the database's own tools would, hash and all."""
    connection = sqlite3.connect(path)
    connection.create_function("sha256", 1, lambda body: __import__("hashlib").sha256(body.encode()).hexdigest())
    for table in ("runs", "run_ends"):
        connection.execute(f"DROP TRIGGER {table}_no_update")
        connection.execute(f"UPDATE {table} SET body = replace(body, ?, ?)", (old, new))
        connection.execute(f"UPDATE {table} SET body_sha256 = sha256(body)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("table", ["runs", "cases", "run_ends"])
def test_a_row_that_was_changed_behind_our_back_is_noticed(table: str, tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute(f"DROP TRIGGER {table}_no_update")
    connection.execute(f"UPDATE {table} SET body = replace(body, ':', ': ')")
    connection.commit()
    connection.close()
    with open_store(str(path)) as store:
        assert store.check() or table == "runs"  # a finished run is read from its end
        if table != "runs":
            with pytest.raises(StoreCorruptError, match="restore the store from a backup"):
                store.get("run-0003")


def test_a_case_that_was_removed_behind_our_back_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER cases_no_delete")
    connection.execute("DELETE FROM cases WHERE run_id = 'run-0003'")
    connection.commit()
    connection.close()
    with open_store(str(path)) as store, pytest.raises(StoreCorruptError, match="0 of 1 cases are left"):
        store.get("run-0003")


@pytest.mark.parametrize(
    "damage",
    [
        lambda _data: b"not a database at all, but long enough" * 200,
        lambda data: b"\x00" * 100 + data[100:],
        lambda data: data[: len(data) // 2],
        lambda data: data[:50],
    ],
    ids=["text", "no header", "half", "a piece"],
)
def test_a_damaged_file_is_refused_by_name(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    filled(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreCorruptError, match=r"results\.sqlite: .*; restore it from a backup"):
        everything(path)


def everything(path: Path) -> list[RunRecord]:
    with open_store(str(path)) as store:
        if problems := store.check():
            raise StoreCorruptError(f"results.sqlite: {problems[0]}; restore it from a backup")
        return list(store.runs())


def test_no_scribble_in_the_file_changes_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    records = filled(path)
    data = path.read_bytes()
    chance = random.Random(SEED)
    refused = 0
    for _ in range(80):
        start, length = chance.randrange(len(data)), chance.choice((1, 16, 512, 5000))
        path.write_bytes(data[:start] + chance.randbytes(length) + data[start + length :])
        for other in path.parent.glob("*-wal"), path.parent.glob("*-shm"):
            for file in other:
                file.unlink()
        try:
            assert everything(path) == records
        except StoreError:
            refused += 1
    assert refused > 20


def _append_without_end(store: RecordStore) -> None:
    for number in count(100):
        store.append(run_record(number))


def test_a_full_disk_is_an_error_and_leaves_whole_runs(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    stored = filled(path)

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40_000,) * 2)
        with open_store(str(path)) as store, pytest.raises(StoreUnavailableError, match="writable and not full"):
            _append_without_end(store)

    assert os.waitpid(in_child(fill), 0)[1] == 0
    found = everything(path)
    assert found[: len(stored)] == stored
    assert found == [run_record(int(record.run_id[-4:])) for record in found]


def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(StoreUnavailableError) as raised:
        open_store("postgresql://lab:hunter2@127.0.0.1:1/results?connect_timeout=3")
    assert "127.0.0.1:1/results" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("place", ["mysql://x/y", "nonsense://", "sqlite:////proc/no/such/place"])
def test_a_place_that_cannot_be_a_store_is_refused(place: str) -> None:
    with pytest.raises(StoreError, match="--store"):
        open_store(place)


def test_a_path_is_a_sqlite_file_whose_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.sqlite"
    with open_store(str(path)) as store:
        assert isinstance(store, RecordStore)
        assert store.run_ids() == []
    assert path.exists()

"""A connection to SQLite or PostgreSQL, brought to the schema of this program when it is opened.

SQLite writes ahead and waits for the disk (WAL, `synchronous=FULL`), so that a commit survives `kill -9` and a power
cut, and every writing transaction takes the lock at its start: two writers wait for each other instead of failing
half-way. A database that a newer program migrated, or that is none of ours, is refused before anything is written.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from benchmarks.store.errors import StoreCorruptError, StoreError, StoreUnavailableError, StoreVersionError
from benchmarks.store.models import Base

__all__ = ["default_url", "guarded", "open_engine", "reading", "writing"]

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_MS = 60_000
WRITES = "qwen_edge_writes"
# any number; holders of this PostgreSQL lock migrate one after the other
MIGRATION_LOCK = 3_515_354_104


def default_url() -> str:
    """The store of this user on this machine."""
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return f"sqlite:///{data}/qwen-edge/results.sqlite"


def open_engine(place: str) -> Engine:
    """Open a database URL, or the path of a SQLite file; create or migrate what is there."""
    engine = _engine(place if "://" in place else f"sqlite:///{place}")
    try:
        with guarded(engine):
            _migrate(engine)
    except StoreError:
        engine.dispose()
        raise
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that writes: all of it is kept, or nothing."""
    with guarded(engine), engine.connect() as connection:
        marked = connection.execution_options(**{WRITES: True})
        with marked.begin():
            yield marked


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view: PostgreSQL would show each statement what others wrote since the last."""
    with guarded(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def guarded(engine: Engine) -> Iterator[None]:
    """Turn the database's complaints into ours."""
    name = engine.url.render_as_string(hide_password=True)
    try:
        yield
    except (DatabaseError, InterfaceError, sqlite3.DatabaseError) as error:
        raise _named(name, error) from error


def _named(name: str, error: Exception) -> StoreError:
    cause = error.orig if isinstance(error, DBAPIError) else error
    what = str(cause).strip().partition("\n")[0]
    code = getattr(cause, "sqlite_errorname", "")
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")) or _sqlstate(cause).startswith("XX00"):
        return StoreCorruptError(f"{name}: {what}; restore it from a backup, or open another store with --store")
    if isinstance(error, OperationalError | InterfaceError) or isinstance(cause, sqlite3.OperationalError):
        return StoreUnavailableError(f"{name}: {what}; check that it is there, writable and not full")
    return StoreError(f"{name}: {what}")


def _sqlstate(cause: object) -> str:
    return str(getattr(cause, "sqlstate", "") or "")


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise StoreError(
                f"--store {url!r}: {parsed.get_backend_name()!r} is no database of this program; "
                "use sqlite:///PATH or postgresql://USER@HOST/NAME"
            )
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed)
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise StoreError(f"--store {url!r}: {error}; use sqlite:///PATH or postgresql://USER@HOST/NAME") from error
    except ModuleNotFoundError as error:
        raise StoreUnavailableError(
            f"--store {url!r} needs the package {error.name!r}; run `pip install 'qwen-edge[bench]'`"
        ) from error
    except OSError as error:
        raise StoreUnavailableError(f"--store {url!r}: {error.strerror}; choose a place that can be written") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say
    for setting in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with reading(engine) as connection:
        if _check_version(connection, script):
            return
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        if not _check_version(connection, script):
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _check_version(connection: Connection, script: ScriptDirectory) -> bool:
    """Whether the schema is this program's own; raises where it is of the future or of somebody else."""
    name = connection.engine.url.render_as_string(hide_password=True)
    heads = set(MigrationContext.configure(connection).get_current_heads())
    known = {revision.revision for revision in script.walk_revisions()}
    if unknown := heads - known:
        raise StoreVersionError(
            f"{name}: its schema is {', '.join(sorted(unknown))}, newer than {script.get_current_head()}, all this "
            "program knows; update qwen-edge, or open another store with --store"
        )
    if not heads and (foreign := set(inspect(connection).get_table_names()) & set(Base.metadata.tables)):
        raise StoreVersionError(
            f"{name}: it has tables {', '.join(sorted(foreign))} that this program did not make; open another store"
        )
    return heads == {script.get_current_head()}

"""Finished steps of a benchmark, kept in one SQLite file so that a killed run goes on where it stopped.

A step is found by its key, a hash of everything that could change its result; a changed setting is a new step. Each
result is committed before the next step starts.
"""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.errors import ResultStoreError

__all__ = ["ResultStore", "step_key"]

SCHEMA_VERSION = 1
KEY_DIGITS = 16


def step_key(*parts: object) -> str:
    """A short hash of what a step depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:KEY_DIGITS]


class ResultStore:
    """Results by step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(self._open()) as database, database:
                version = database.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, SCHEMA_VERSION):
                    raise ResultStoreError(path, f"written by version {version}, this is version {SCHEMA_VERSION}")
                database.execute(
                    "CREATE TABLE IF NOT EXISTS steps (key TEXT PRIMARY KEY, name TEXT NOT NULL, payload TEXT NOT NULL,"
                    " recorded_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
                )
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.DatabaseError as error:
            raise ResultStoreError(path, f"not a readable SQLite file ({error})") from error

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of a step, or None when it isn't done."""
        with closing(self._open()) as database:
            row = database.execute("SELECT payload FROM steps WHERE key = ?", (key,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def put(self, key: str, name: str, payload: Mapping[str, Any]) -> None:
        """Keep the result of a step; a second result of the same step replaces the first."""
        with closing(self._open()) as database, database:
            database.execute(
                "INSERT OR REPLACE INTO steps (key, name, payload) VALUES (?, ?, ?)", (key, name, json.dumps(payload))
            )

    def forget(self, name_prefix: str) -> int:
        """Drop the results of the steps whose name starts so; how many there were."""
        with closing(self._open()) as database, database:
            return database.execute(
                "DELETE FROM steps WHERE substr(name, 1, ?) = ?", (len(name_prefix), name_prefix)
            ).rowcount

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path)

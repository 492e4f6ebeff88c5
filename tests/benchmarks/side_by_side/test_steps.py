"""The results file: what makes a killed benchmark resume."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.errors import ResultStoreError
from benchmarks.side_by_side.steps import ResultStore, step_key


def test_a_result_outlives_the_process_that_measured_it(tmp_path: Path) -> None:
    ResultStore(tmp_path / "results.sqlite").put("key", "round 0 ours", {"decode_s": 1.5})
    assert ResultStore(tmp_path / "results.sqlite").get("key") == {"decode_s": 1.5}


def test_a_step_not_done_is_none(tmp_path: Path) -> None:
    assert ResultStore(tmp_path / "results.sqlite").get("key") is None


def test_a_second_result_of_a_step_replaces_the_first(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results.sqlite")
    store.put("key", "step", {"value": 1})
    store.put("key", "step", {"value": 2})
    assert store.get("key") == {"value": 2}


def test_runs_can_be_forgotten_while_exports_are_kept(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results.sqlite")
    for name in ("build ours", "round 0 ours", "round 1 ours"):
        store.put(name, name, {})
    assert store.forget("round") == 2
    assert store.get("build ours") == {}
    assert store.get("round 0 ours") is None


def test_the_key_changes_with_anything_the_step_depends_on() -> None:
    keys = {step_key("run", ["a"], 0), step_key("run", ["a"], 1), step_key("run", ["b"], 0), step_key("go", ["a"], 0)}
    assert len(keys) == 4


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    path.write_text("something else entirely, longer than a header of SQLite" * 20)
    with pytest.raises(ResultStoreError, match="not a readable SQLite file .*choose another --work-dir"):
        ResultStore(path)


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ResultStoreError, match="written by version 99, this is version 1"):
        ResultStore(path)

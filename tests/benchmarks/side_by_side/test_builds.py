"""Builds: made once, found again, made anew when a run was cut off."""

import sys
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError, WorkerFailedError
from benchmarks.side_by_side.builds import (
    build_key,
    checkpoint_hash,
    given_build,
    make_build,
    model_bytes,
    verification_s,
)
from benchmarks.side_by_side.steps import ResultStore
from benchmarks.side_by_side.subjects import OUT, Build, source_hash

WEIGHTS = (sys.executable, "-c", "print('{\"weight_bytes\": 7}')")


def build(program: str) -> Build:
    return Build(
        name="peer", label="a peer", commands=((sys.executable, "-c", program, OUT),), weight_bytes=WEIGHTS, made_by=()
    )


def appending(tmp_path: Path) -> Build:
    """A build that leaves a mark each time it is made."""
    program = (
        f"import sys, pathlib; pathlib.Path(sys.argv[1], 'model.onnx').write_bytes(b'12345');"
        f" open({str(tmp_path / 'marks')!r}, 'a').write('x')"
    )
    return build(program)


def test_a_build_is_made_once_and_then_found(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results.sqlite")
    first = make_build(appending(tmp_path), "key", tmp_path, store, {})
    second = make_build(appending(tmp_path), "key", tmp_path, store, {})
    assert first.record == second.record
    assert (first.record["file_bytes"], first.record["weight_bytes"]) == (5, 7)
    assert first.record["wall_s"] > 0
    assert (tmp_path / "marks").read_text() == "x"


def test_the_rest_of_a_killed_build_is_thrown_away(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results.sqlite")
    rest = tmp_path / "builds" / "peer-key" / "half.onnx"
    rest.parent.mkdir(parents=True)
    rest.write_bytes(b"half")
    made = make_build(appending(tmp_path), "key", tmp_path, store, {})
    assert sorted(path.name for path in made.directory.iterdir()) == ["model.onnx"]


def test_a_failed_build_leaves_no_record(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results.sqlite")
    with pytest.raises(WorkerFailedError, match="build peer: exit status 1"):
        make_build(build("raise SystemExit('boom')"), "key", tmp_path, store, {})
    assert store.get("key") is None


def test_a_build_without_a_model_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BenchmarkError, match="no model file in it"):
        model_bytes(tmp_path)


def test_only_model_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"123")
    (tmp_path / "model.onnx.data").write_bytes(b"12345")
    (tmp_path / "tokenizer.json").write_bytes(b"1234567")
    assert model_bytes(tmp_path) == 8


def test_a_given_artifact_that_is_not_there_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="--artifact peer=.*no such directory"):
        given_build(build(""), tmp_path / "nowhere", {})


def test_the_key_follows_the_checkpoint_and_the_exporter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"a")
    before = checkpoint_hash(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"b")
    assert checkpoint_hash(tmp_path) != before
    assert build_key(build(""), before, 0) != build_key(build("pass"), before, 0)
    assert build_key(build(""), before, 0) != build_key(build(""), before, 1)


def test_our_own_source_is_part_of_what_makes_our_builds() -> None:
    assert source_hash("benchmarks") == source_hash("benchmarks")
    assert source_hash("benchmarks").partition("@")[2] != source_hash("runtimes").partition("@")[2]


def test_the_stages_that_verify_are_told_from_those_that_export() -> None:
    log = "checkpoint: 21.0 s\nonnx: quantize (int4, rtn): 33.7 s\nonnx: lower: 11.9 s\n"
    log += "onnx: record reference: 241.4 s\nonnx: verify in onnxruntime: 196.3 s\n"
    assert verification_s(log) == pytest.approx(437.7)
    assert verification_s("a peer's log, verify me: not\n") == 0.0


def test_a_build_finds_the_caches_empty_each_time(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib; cache = pathlib.Path(os.environ['XDG_CACHE_HOME']); assert not cache.exists();"
        " cache.mkdir(); pathlib.Path(sys.argv[1], 'model.onnx').touch()"
    )
    store = ResultStore(tmp_path / "results.sqlite")
    for key in ("first", "second"):
        make_build(build(program), key, tmp_path, store, {})
    assert not list(tmp_path.rglob("*.cache"))

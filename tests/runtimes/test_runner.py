"""Both runners keep a sequence right, whatever is done to it."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.artifact import Artifact, StateTensor
from runtimes.errors import (
    ContextLimitError,
    RuntimeFailedError,
    RuntimeUnavailableError,
    SnapshotError,
    TokenRangeError,
)
from runtimes.onnxruntime import lazy_zeros
from runtimes.reference import load_reference
from runtimes.runner import Runner, check_version, known_runtimes, open_runner, runtime_module
from tests.runtimes.conftest import Change
from tests.runtimes.tiny_onnx import state_entries

TOLERANCE = 1e-4


def close(ours: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(ours - wanted).max() <= TOLERANCE * np.abs(wanted).max())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 32, 33, 64, 70])
def test_every_way_to_split_a_prompt_gives_the_same_logits(artifact: Artifact, runner: Runner, size: int) -> None:
    case = load_reference(artifact).cases["prompt"]
    for start in range(0, case.tokens.size, size):
        logits = runner.forward(case.tokens[start : start + size])
    expected = case.expected[case.tokens.size - 1]
    assert close(logits[expected.ids], expected.logits)


def test_a_reset_forgets_everything(runner: Runner) -> None:
    first = runner.forward([1, 2, 3])
    runner.forward([9] * 40)
    runner.reset()
    assert runner.position == 0
    np.testing.assert_array_equal(runner.forward([1, 2, 3]), first)


def test_logits_belong_to_the_caller(runner: Runner) -> None:
    first = runner.forward([1])
    copy = first.copy()
    runner.forward([2])
    np.testing.assert_array_equal(first, copy)


def test_the_context_limit_is_an_error_that_touches_nothing(runner: Runner) -> None:
    runner.forward([5] * (runner.context_length - 1))
    saved = runner.snapshot()
    with pytest.raises(ContextLimitError, match=f"2 tokens after {runner.context_length - 1} do not fit"):
        runner.forward([1, 2])
    assert runner.position == runner.context_length - 1
    last = runner.forward([7])
    with pytest.raises(ContextLimitError):
        runner.forward([1])
    runner.restore(saved)
    np.testing.assert_array_equal(runner.forward([7]), last)


@pytest.mark.parametrize("tokens", [[], [-1], [1, 10**6], [10**12]], ids=str)
def test_tokens_outside_the_vocabulary_never_reach_the_runtime(runner: Runner, tokens: list[int]) -> None:
    with pytest.raises(TokenRangeError):
        runner.forward(tokens)
    assert runner.position == 0


def test_a_snapshot_of_another_runner_is_refused(artifact: Artifact, runner: Runner) -> None:
    other = open_runner(artifact, threads=1)
    with pytest.raises(SnapshotError, match="another runner"):
        runner.restore(other.snapshot())


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.lists(st.integers(0, 90), min_size=1, max_size=20)),
        st.tuples(st.just("snapshot"), st.just([])),
        st.tuples(st.just("restore"), st.lists(st.integers(0, 10), min_size=1, max_size=1)),
        st.tuples(st.just("drop"), st.lists(st.integers(0, 10), min_size=1, max_size=1)),
        st.tuples(st.just("reset"), st.just([])),
    ),
    min_size=4,
    max_size=14,
)


@given(actions=ACTIONS)
def test_snapshots_hold_through_any_order_of_actions(
    shared_runner: Runner, actions: list[tuple[str, list[int]]]
) -> None:
    """The runner after many jumps answers as one that read the same tokens in one go."""
    runner = shared_runner
    runner.reset()
    tokens: list[int] = []
    saved: list[tuple[object, list[int]]] = []
    for name, values in actions:
        if name == "feed" and len(tokens) + len(values) < runner.context_length - 1:
            runner.forward(values)
            tokens = tokens + values
        elif name == "snapshot":
            saved.append((runner.snapshot(), tokens))
        elif name == "reset":
            runner.reset()
            tokens = []
        elif saved and name == "restore":
            snapshot, tokens = saved[values[0] % len(saved)]
            runner.restore(snapshot)  # type: ignore[arg-type]
        elif saved and name == "drop":
            del saved[values[0] % len(saved)]
    answers = []
    for snapshot, known in [(runner.snapshot(), tokens), *saved]:
        runner.restore(snapshot)  # type: ignore[arg-type]
        assert runner.position == len(known)
        answers.append((runner.forward([3]), [*known, 3]))
    for answer, known in answers:
        runner.reset()
        assert close(answer, runner.forward(known))


def test_an_unknown_runtime_lists_the_known_ones() -> None:
    assert {"onnxruntime", "executorch"} <= set(known_runtimes())
    with pytest.raises(RuntimeUnavailableError, match=r"unknown runtime 'cli'; known: .*onnxruntime"):
        runtime_module("cli")


def test_an_older_runtime_is_refused(onnx_artifact: Path) -> None:
    artifact = Artifact.open(onnx_artifact)
    with pytest.raises(RuntimeUnavailableError, match=r"needs onnxruntime 1\.31 or newer, not 1\.9\.0"):
        check_version(artifact, "1.9.0")
    check_version(artifact, "1.31.0")
    check_version(artifact, "2.0.0rc1+cpu")


def test_a_model_that_disagrees_with_its_manifest_is_refused(changed: Callable[[Change], Path]) -> None:
    directory = changed(lambda manifest: manifest["state"][0].update(input_name="past.7.conv"))
    with pytest.raises(RuntimeFailedError, match=r"input 'past\.0\.conv' is in only one of model and manifest"):
        open_runner(Artifact.open(directory))


@pytest.mark.parametrize("vocab_size", [290, 400])
def test_logits_of_another_size_are_refused(changed: Callable[[Change], Path], vocab_size: int) -> None:
    directory = changed(lambda m: m.update(vocab_size=vocab_size, eos_token_ids=[1], pad_token_id=None))
    runner = open_runner(Artifact.open(directory), threads=1)
    with pytest.raises(RuntimeFailedError, match="could not run 1 tokens after 0"):
        runner.forward([1])


def test_state_larger_than_any_memory_is_a_named_error() -> None:
    shape = (1, 16_777_216, 16_777_216, 16_777_216)
    entry = {**state_entries()[2], "shape": shape, "bytes": 4 * math.prod(shape)}
    with pytest.raises(RuntimeFailedError, match=r"no memory for state 'layers\.1\.key'"):
        lazy_zeros(StateTensor(**entry))


def test_a_broken_model_file_is_a_named_error(changed: Callable[[Change], Path]) -> None:
    def truncate(manifest: dict[str, object]) -> None:
        entry = next(entry for entry in manifest["files"] if entry["path"] == "model.onnx")  # type: ignore[attr-defined]
        entry["bytes"] = 100

    directory = changed(truncate)
    (directory / "model.onnx").write_bytes((directory / "model.onnx").read_bytes()[:100])
    with pytest.raises(RuntimeFailedError, match="onnxruntime could not open"):
        open_runner(Artifact.open(directory))


def test_a_failing_call_asks_for_a_reset(changed: Callable[[Change], Path]) -> None:
    """The rotary table is cut: positions beyond it fail inside the runtime, after state was written."""
    directory = changed(lambda _manifest: None)
    model = onnx.load(directory / "model.onnx")
    for weight in model.graph.initializer:
        if weight.name in ("cos", "sin"):
            table = onnx.numpy_helper.to_array(weight)[:8]
            weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(table), weight.name))
    onnx.save_model(model, directory / "model.onnx")
    manifest = json.loads((directory / "manifest.json").read_text())
    for entry in manifest["files"]:
        entry["bytes"] = (directory / entry["path"]).stat().st_size
    (directory / "manifest.json").write_text(json.dumps(manifest))
    runner = open_runner(Artifact.open(directory), threads=1)
    first = runner.forward([1, 2])
    with pytest.raises(RuntimeFailedError, match="could not run 20 tokens after 2"):
        runner.forward([1] * 20)
    with pytest.raises(RuntimeFailedError, match="reset or restore first"):
        runner.forward([1])
    with pytest.raises(RuntimeFailedError, match="reset or restore first"):
        runner.snapshot()
    runner.reset()
    np.testing.assert_array_equal(runner.forward([1, 2]), first)


def test_an_executorch_artifact_with_wrong_state_is_refused(executorch_artifact: Path, tmp_path: Path) -> None:
    directory = tmp_path / "wrong"
    shutil.copytree(executorch_artifact, directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["state"][0]["name"] = "total"
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RuntimeFailedError, match="could not find state 'total'"):
        open_runner(Artifact.open(directory), threads=1)


def test_a_closed_runner_refuses_to_run(artifact: Artifact) -> None:
    runner = open_runner(artifact, threads=1)
    runner.forward([1])
    runner.close()
    with pytest.raises(RuntimeFailedError):
        runner.forward([1])


def test_a_cache_takes_memory_only_where_it_was_touched() -> None:
    shape = (1, 1, 1024 * 1024, 256)
    entry = {**state_entries()[2], "shape": shape, "dtype": "int8", "bytes": math.prod(shape)}
    before = resident_bytes()
    array = lazy_zeros(StateTensor(**entry))
    array[:, :, :1000] = 1
    assert resident_bytes() - before < array.nbytes // 8
    assert array[0, 0, -1, -1] == 0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_nothing_but_the_executorch_runner_imports_torch() -> None:
    code = (
        "import sys, runtimes.cli, runtimes.verify, runtimes.onnxruntime, runtimes.stock.onnxruntime;"
        "bad = {'torch', 'transformers', 'executorch', 'onnx'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

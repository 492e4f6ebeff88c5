"""The runner of Core AI artifacts keeps a sequence right over padded chunks, single steps and snapshots."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("coreai", reason="needs the package coreai-core, of this project's extra 'coreai'")
pytest.importorskip("coreai_torch", reason="needs the package coreai-torch, of this project's extra 'coreai'")

from runtimes import cli
from runtimes.artifact import Artifact
from runtimes.coreai import CoreaiRunner, load_runner
from runtimes.errors import ContextLimitError, RuntimeFailedError, RuntimeUnavailableError, SnapshotError
from runtimes.reference import load_reference
from runtimes.runner import known_runtimes, open_runner
from runtimes.verify import verify
from tests.runtimes.tiny_coreai import CHUNK, CONTEXT_LENGTH, TOLERANCE, write_artifact

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Core AI artifact, converted by Apple's converter."""
    return write_artifact(tmp_path_factory.mktemp("coreai"))


@pytest.fixture(scope="module")
def artifact(directory: Path) -> Artifact:
    return Artifact.open(directory)


@pytest.fixture(scope="module")
def shared_runner(artifact: Artifact) -> Iterator[CoreaiRunner]:
    """Take `runner`, which is reset."""
    found = load_runner(artifact, threads=1)
    assert isinstance(found, CoreaiRunner)
    yield found
    found.close()


@pytest.fixture
def runner(shared_runner: CoreaiRunner) -> CoreaiRunner:
    shared_runner.reset()
    return shared_runner


@pytest.fixture
def copied(directory: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(directory, tmp_path / "copied"))


def rewritten(directory: Path, change: Change) -> Path:
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def close(ours: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(ours - wanted).max() <= TOLERANCE * np.abs(wanted).max())


@pytest.mark.parametrize("size", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 33, 70])
def test_every_way_to_split_a_prompt_gives_the_same_logits(artifact: Artifact, runner: CoreaiRunner, size: int) -> None:
    case = load_reference(artifact).cases["prompt"]
    for start in range(0, case.tokens.size, size):
        logits = runner.forward(case.tokens[start : start + size])
    expected = case.expected[case.tokens.size - 1]
    assert close(logits[expected.ids], expected.logits)


def test_the_last_places_of_the_context_are_taken_one_by_one(artifact: Artifact, runner: CoreaiRunner) -> None:
    case = load_reference(artifact).cases["long"]
    assert CONTEXT_LENGTH % CHUNK
    logits = runner.forward(case.tokens)
    expected = case.expected[CONTEXT_LENGTH - 1]
    assert close(logits[expected.ids], expected.logits)
    with pytest.raises(ContextLimitError):
        runner.forward([1])
    assert runner.position == CONTEXT_LENGTH


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.lists(st.integers(0, 90), min_size=1, max_size=12)),
        st.tuples(st.sampled_from(["snapshot", "reset"]), st.just([])),
        st.tuples(st.just("restore"), st.lists(st.integers(0, 10), min_size=1, max_size=1)),
    ),
    min_size=3,
    max_size=8,
)


@settings(max_examples=12)
@given(actions=ACTIONS)
def test_snapshots_hold_through_any_order_of_actions(
    shared_runner: CoreaiRunner, actions: list[tuple[str, list[int]]]
) -> None:
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
        elif name == "restore" and saved:
            snapshot, tokens = saved[values[0] % len(saved)]
            runner.restore(snapshot)
    for snapshot, known in [(runner.snapshot(), tokens), *saved]:
        runner.restore(snapshot)
        assert runner.position == len(known)
        found = runner.forward([3])
        runner.reset()
        assert close(found, runner.forward([*known, 3]))


def test_a_snapshot_of_another_runner_is_refused(artifact: Artifact, runner: CoreaiRunner) -> None:
    other = load_runner(artifact, threads=1)
    with pytest.raises(SnapshotError, match="another runner"):
        runner.restore(other.snapshot())
    other.close()


def test_a_closed_runner_refuses_to_run_and_closes_again(artifact: Artifact) -> None:
    runner = load_runner(artifact, threads=1)
    runner.forward([1])
    runner.close()
    runner.close()
    with pytest.raises(RuntimeFailedError):
        runner.forward([1])


def test_a_sealed_artifact_is_verified_by_apples_runtime(directory: Path) -> None:
    report = verify(directory, threads=1)
    assert report.passed, [check for check in report.checks if check.outcome == "failed"]
    assert "Apple's Core AI runtime" in report.engine
    assert [check.name for check in report.checks if check.outcome == "skipped"] == ["stock_runner"]


def test_where_there_is_no_time_a_few_steps_are_compared(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimes.coreai.CHECK_SECONDS", 1e-9)
    few, *others = verify(directory, hashes=False, stock=False, threads=1).checks
    assert (few.name, few.outcome) == ("few_steps", "passed")
    assert few.figures["positions"] == 4  # after a prefill, two steps, and a prefill behind a reset
    for check in others:
        assert (check.outcome, check.figures) == ("skipped", {"too_slow": True})
        assert "would take more than 0 s of CPU time here" in str(check.reason)


def test_the_command_line_generates(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", str(directory), "--prompt", "the quick", "--raw", "--max-tokens", "4", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["tokens"]) <= 4


def test_the_runtime_is_known_by_its_file(artifact: Artifact) -> None:
    assert "coreai" in known_runtimes()
    assert isinstance(open_runner(artifact, threads=1), CoreaiRunner)


@pytest.mark.parametrize("damage", ["cut short", "emptied", "another hash", "no hash"])
def test_a_damaged_program_is_a_named_error_before_it_is_parsed(copied: Path, damage: str) -> None:
    program, digest = copied / "model.aimodel/main.mlirb", copied / "model.aimodel/main.hash"
    if damage == "cut short":
        program.write_bytes(program.read_bytes()[:-100])
    elif damage == "emptied":
        program.write_bytes(b"")
    elif damage == "another hash":
        digest.write_bytes(bytes(32))
    else:
        digest.unlink()

    def resized(manifest: dict[str, Any]) -> None:
        for entry in manifest["files"]:
            entry["bytes"] = (copied / entry["path"]).stat().st_size if (copied / entry["path"]).exists() else 0
        manifest["files"] = [entry for entry in manifest["files"] if (copied / entry["path"]).exists()]

    with pytest.raises(RuntimeFailedError, match=r"main\.hash; copy the artifact or export it again"):
        load_runner(Artifact.open(rewritten(copied, resized)))


MISFITS: dict[str, tuple[Change, str]] = {
    "state shape": (
        lambda data: data["state"][0].update(shape=[1, 2, 16]),
        r"state 'total' is float32 \(1, 1, 32\), the manifest says float32 \(1, 2, 16\)",
    ),
    "state name": (
        lambda data: data["state"][0].update(name="sum"),
        "state 'sum' is in only one of model and manifest",
    ),
    "chunk": (
        lambda data: data.update(prefill_chunk=16),
        r"takes token ids \(1, 8\), by the manifest they are \(1, 16\)",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_manifest_that_does_not_fit_the_asset_is_a_named_error(copied: Path, name: str) -> None:
    change, message = MISFITS[name]
    with pytest.raises(RuntimeFailedError, match=message):
        load_runner(Artifact.open(rewritten(copied, change)))


def test_an_asset_newer_than_the_runtime_is_refused(copied: Path) -> None:
    place = rewritten(copied, lambda data: data["runtime"].update(oldest_version="2.0"))
    with pytest.raises(RuntimeUnavailableError, match=r"needs coreai 2\.0 or newer, not 1\.0"):
        load_runner(Artifact.open(place))


def test_a_missing_package_is_named(directory: Path) -> None:
    code = (
        "import sys; sys.modules['coreai'] = None; from runtimes import cli;"
        f"sys.exit(cli.main(['verify', {str(directory)!r}, '--no-hashes']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "needs the Python package 'coreai" in done.stderr
    assert "Traceback" not in done.stderr


def test_running_an_asset_needs_no_torch(directory: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from runtimes import cli;"
        f"sys.exit(cli.main(['generate', {str(directory)!r}, '--prompt', 'the', '--raw', '--max-tokens', '2']))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)

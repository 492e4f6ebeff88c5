"""The runner of Core ML artifacts keeps a sequence right over packages, layouts, padded chunks and snapshots."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes import cli
from runtimes.artifact import Artifact
from runtimes.coreml import CoremlRunner, Way, load_runner, open_way, ways
from runtimes.coreml_engines.description import read_description
from runtimes.errors import ContextLimitError, ManifestError, RuntimeFailedError, RuntimeUnavailableError, SnapshotError
from runtimes.reference import load_reference
from runtimes.runner import engine_name, known_runtimes, open_runner
from runtimes.verify import verify
from tests.runtimes.tiny_coreml import CHUNK, CONTEXT_LENGTH, HIDDEN, TOLERANCE, write_artifact

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Core ML artifact made by hand."""
    return write_artifact(tmp_path_factory.mktemp("coreml"))


@pytest.fixture(scope="module")
def artifact(directory: Path) -> Artifact:
    return Artifact.open(directory)


@pytest.fixture(scope="module", params=["inside", "outside"])
def shared_runner(request: pytest.FixtureRequest, artifact: Artifact) -> CoremlRunner:
    """A runner of each layout; take `runner`, which is reset."""
    found = open_way(artifact, Way(layout=request.param, engine="evaluator"), threads=1)
    assert isinstance(found, CoremlRunner)
    return found


@pytest.fixture
def runner(shared_runner: CoremlRunner) -> CoremlRunner:
    shared_runner.reset()
    return shared_runner


@pytest.fixture
def changed(directory: Path, tmp_path: Path) -> Callable[[str, Change], Path]:
    """Return a function that copies the artifact and lets a change edit one of its JSON files."""

    def copy(name: str, change: Change) -> Path:
        place = tmp_path / "changed"
        shutil.copytree(directory, place)
        data = json.loads((place / name).read_text())
        change(data)
        (place / name).write_text(json.dumps(data))
        manifest = json.loads((place / "manifest.json").read_text())
        for entry in manifest["files"]:
            entry["bytes"] = (place / entry["path"]).stat().st_size
        (place / "manifest.json").write_text(json.dumps(manifest))
        return place

    return copy


def close(ours: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(ours - wanted).max() <= TOLERANCE * np.abs(wanted).max())


@pytest.mark.parametrize("size", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 33, 70])
def test_every_way_to_split_a_prompt_gives_the_same_logits(artifact: Artifact, runner: CoremlRunner, size: int) -> None:
    case = load_reference(artifact).cases["prompt"]
    for start in range(0, case.tokens.size, size):
        logits = runner.forward(case.tokens[start : start + size])
    expected = case.expected[case.tokens.size - 1]
    assert close(logits[expected.ids], expected.logits)


def test_the_context_is_filled_to_its_last_place_without_a_chunk_beyond_it(
    artifact: Artifact, runner: CoremlRunner
) -> None:
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
    shared_runner: CoremlRunner, actions: list[tuple[str, list[int]]]
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


def test_a_reset_forgets_everything(runner: CoremlRunner) -> None:
    first = runner.forward([1, 2, 3])
    runner.forward([9] * 40)
    runner.reset()
    np.testing.assert_array_equal(runner.forward([1, 2, 3]), first)


def test_a_snapshot_of_another_runner_is_refused(artifact: Artifact, runner: CoremlRunner) -> None:
    with pytest.raises(SnapshotError, match="another runner"):
        runner.restore(load_runner(artifact, threads=1).snapshot())


def test_a_closed_runner_refuses_to_run(artifact: Artifact) -> None:
    runner = load_runner(artifact, threads=1)
    runner.forward([1])
    runner.close()
    with pytest.raises(RuntimeFailedError):
        runner.forward([1])


def test_the_report_says_what_computed_and_checks_the_other_layout(directory: Path) -> None:
    report = verify(directory, threads=1)
    outcomes = {check.name: check.outcome for check in report.checks}
    assert report.passed, [check for check in report.checks if check.outcome == "failed"]
    assert report.engine.endswith("Core ML itself did not run")
    assert outcomes["evaluator_outside"] == "passed"
    assert outcomes["longest_context"] == "passed"
    assert [name for name, outcome in outcomes.items() if outcome == "skipped"] == ["stock_runner"]


def test_wrong_weights_fail_verification(changed: Callable[[str, Change], Path]) -> None:
    place = changed("coreml.json", lambda _description: None)
    weights = place / "second.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(weights.read_bytes())
    first = slice(128, 128 + 2 * HIDDEN * HIDDEN)  # behind the header and its entry
    content[first] = np.frombuffer(bytes(content[first]), np.uint16)[::-1].tobytes()
    weights.write_bytes(bytes(content))
    report = verify(place, hashes=False, threads=1)
    assert not report.passed


def test_the_command_line_generates_and_verifies(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", str(directory), "--prompt", "the quick", "--raw", "--max-tokens", "4", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["tokens"]) <= 4
    assert cli.main(["verify", str(directory), "--no-stock", "--threads", "1"]) == 0
    assert "verified on evaluator of the written program" in capsys.readouterr().out


def test_the_runtime_is_known_by_its_file(artifact: Artifact) -> None:
    assert "coreml" in known_runtimes()
    runner = open_runner(artifact, threads=1)
    assert "Core ML itself did not run" in engine_name(artifact, runner)
    assert [way.name for way in ways(artifact)] == ["evaluator_outside"]


DAMAGES: dict[str, tuple[str, Change, str]] = {
    "another format": ("coreml.json", lambda data: data.update(format=2), "format 2; this version reads 1"),
    "format with a point": ("coreml.json", lambda data: data.update(format=1.0), "format: 1.0 is not of type"),
    "no such layout": ("coreml.json", lambda data: data.update(default_layout="between"), "'between' is none of"),
    "a package outside": ("coreml.json", lambda data: data["packages"].append("../x"), "packages.2: '../x' does not"),
    "a package that is not listed": (
        "coreml.json", lambda data: data["packages"].append("third.mlpackage"), "'third.mlpackage' is not among"
    ),
    "a state twice": (
        "coreml.json", lambda data: data["layouts"]["inside"]["states"].append(data["layouts"]["inside"]["states"][0]),
        "a state is listed twice",
    ),
    "half a name": (
        "coreml.json", lambda data: data["layouts"]["outside"]["states"][0].update(output_name=None),
        "state 'total' needs input_name and output_name, or neither",
    ),
    "no functions": ("coreml.json", lambda data: data["layouts"]["inside"].pop("functions"), "layouts.inside"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_broken_description_is_a_named_error(changed: Callable[[str, Change], Path], name: str) -> None:
    file, change, message = DAMAGES[name]
    with pytest.raises(ManifestError, match=message):
        read_description(Artifact.open(changed(file, change)))


def test_a_state_of_another_shape_is_refused(changed: Callable[[str, Change], Path]) -> None:
    def widen(data: dict[str, Any]) -> None:
        data["layouts"]["inside"]["states"][0]["shape"] = [1, 1, 64]

    with pytest.raises(RuntimeFailedError, match=r"state 'total' is \(1, 1, 64\), in the manifest it is \(1, 1, 32\)"):
        load_runner(Artifact.open(changed("coreml.json", widen)), threads=1)


def test_a_function_that_is_missing_is_named(changed: Callable[[str, Change], Path]) -> None:
    def rename(data: dict[str, Any]) -> None:
        data["layouts"]["inside"]["functions"]["decode"] = "step"

    with pytest.raises(RuntimeFailedError, match="no function 'step'; it has decode, decode_outside, prefill"):
        load_runner(Artifact.open(changed("coreml.json", rename)), threads=1)


def test_a_package_newer_than_the_evaluator_is_refused(changed: Callable[[str, Change], Path]) -> None:
    place = changed("manifest.json", lambda data: data["runtime"].update(oldest_version="11"))
    with pytest.raises(RuntimeUnavailableError, match="needs coreml 11 or newer, not 10"):
        load_runner(Artifact.open(place), threads=1)


@pytest.mark.parametrize("package", ["torch", "coremltools"])
def test_what_is_not_installed_is_named(directory: Path, package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; from runtimes import cli;"
        f"sys.exit(cli.main(['verify', {str(directory)!r}, '--no-hashes']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert f"needs the Python package '{package}', which is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_describing_an_artifact_imports_neither_torch_nor_coremltools() -> None:
    code = (
        "import sys, runtimes.coreml, runtimes.verify, runtimes.cli;"
        "bad = {'torch', 'coremltools'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_reading_packages_does_not_import_coremltools() -> None:
    code = "import sys, runtimes.mil; assert 'coremltools' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)

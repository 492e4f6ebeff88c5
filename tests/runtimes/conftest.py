"""Small real artifacts for both runtimes, made once a session."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from runtimes.artifact import Artifact
from runtimes.runner import Runner, open_runner

hypothesis.settings.register_profile("runtimes", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("runtimes")

RUNTIMES = ("onnxruntime", "executorch")
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="session")
def onnx_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX artifact made by hand."""
    from tests.runtimes.tiny_onnx import write_artifact

    return write_artifact(tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="session")
def executorch_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ExecuTorch artifact made by hand."""
    from tests.runtimes.tiny_executorch import write_artifact  # torch: only for tests that ask

    return write_artifact(tmp_path_factory.mktemp("executorch"))


@pytest.fixture(scope="session", params=RUNTIMES)
def artifact(request: pytest.FixtureRequest) -> Artifact:
    """An artifact of each runtime in turn."""
    fixture = {"onnxruntime": "onnx_artifact", "executorch": "executorch_artifact"}[request.param]
    return Artifact.open(request.getfixturevalue(fixture))


@pytest.fixture(scope="session")
def shared_runner(artifact: Artifact) -> Runner:
    """A runner of each runtime in turn; take `runner`, which is reset."""
    return open_runner(artifact, threads=1)


@pytest.fixture
def runner(shared_runner: Runner) -> Runner:
    """A runner of each runtime in turn, at the start of a sequence."""
    shared_runner.reset()
    return shared_runner


@pytest.fixture
def changed(onnx_artifact: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """Return a function that copies the ONNX artifact and lets a change edit its manifest."""

    def copy(change: Change) -> Path:
        directory = tmp_path / "changed"
        shutil.copytree(onnx_artifact, directory)
        manifest = json.loads((directory / "manifest.json").read_text())
        change(manifest)
        (directory / "manifest.json").write_text(json.dumps(manifest))
        return directory

    return copy

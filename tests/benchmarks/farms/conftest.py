"""A job with a small real artifact, and the events that the parcel's own script makes of it on this machine."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.farms import Work
from benchmarks.farms.parcel import EVENTS, write_parcel
from runtimes.artifact import Artifact
from tests.benchmarks.device_runs import protocol, warm_case
from tests.runtimes.tiny_onnx import write_artifact

REPOSITORY = Path(__file__).parents[3]
MakeWork = Callable[..., Work]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A hand-made ONNX artifact."""
    return Artifact.open(write_artifact(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def host_runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runner for this machine, called as the phone's: our Python runner, in the series of a shell."""
    place = tmp_path_factory.mktemp("runner") / "runner"
    place.write_text(
        f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m benchmarks.host_runner --series adb-shell "$@"\n'
    )
    place.chmod(0o755)
    return place


@pytest.fixture
def make_work(tiny: Artifact, tmp_path: Path) -> MakeWork:
    """A function from a device's settings to a job of two cases."""

    def make(**settings: Any) -> Work:
        return work_of(tiny, tmp_path, settings)

    return make


def work_of(artifact: Artifact, folder: Path, settings: dict[str, Any]) -> Work:
    return Work(
        job_id="2026-11-22-a-phone-tiny-onnx-int4-0123456789",
        session_id="2026-11-22-a-phone",
        artifact=artifact,
        protocol=protocol(settle_s=30),
        cases=[warm_case("warm-1"), warm_case("warm-2", repeats=1)],
        settings=settings,
        device="a-phone",
        folder=folder,
    )


@pytest.fixture(scope="session")
def events(tiny: Artifact, host_runner: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the parcel's script leaves: it is run here as a phone would run it, by a POSIX shell."""
    folder = tmp_path_factory.mktemp("parcel")
    parcel, script = write_parcel(work_of(tiny, folder, {}), host_runner)
    root = tmp_path_factory.mktemp("phone")
    parcel.rename(root / parcel.name)
    done = subprocess.run(
        ["sh", str(script)], env={"QWEN_EDGE_ROOT": str(root), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["case 000-warm-1: status 0", "case 001-warm-2: status 0"], done.stderr
    assert [place.name for place in root.iterdir()] == [EVENTS]
    return (root / EVENTS).read_bytes()

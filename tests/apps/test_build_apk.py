"""`make apk`: what is missing is named with its remedy, and Gradle is asked for what the workflow asks it for."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apps.sources import ROOT
from tools import build_apk

# YAML 1.1 reads the key `on` as a truth value
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "apps.yml").read_text(encoding="utf-8"))
GRADLE = '#!/bin/sh\nprintf "%s\\n" "$ANDROID_HOME" "$*" > "$GRADLE_LOG"\nexit "$GRADLE_STATUS"\n'


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with an SDK and a Gradle that notes what it is asked for."""
    (tmp_path / "sdk" / "platforms").mkdir(parents=True)
    tool = tmp_path / "bin" / "gradle"
    tool.parent.mkdir()
    tool.write_text(GRADLE)
    tool.chmod(0o755)
    path = f"{tool.parent}:/usr/bin:/bin"
    log = str(tmp_path / "log")
    return {"PATH": path, "ANDROID_HOME": str(tmp_path / "sdk"), "GRADLE_LOG": log, "GRADLE_STATUS": "0"}


def test_gradle_builds_a_signed_package_and_its_place_is_told(
    machine: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_apk.main(machine) == 0
    home, words = Path(machine["GRADLE_LOG"]).read_text().splitlines()
    assert home == machine["ANDROID_HOME"]
    assert words.split()[2:] == list(build_apk.TASKS)
    assert "android_demo/app/build/outputs/apk/debug/app-debug.apk" in capsys.readouterr().out
    assert build_apk.main({**machine, "GRADLE_STATUS": "3"}) == 3


@pytest.mark.parametrize(("without", "remedy"), [("ANDROID_HOME", "sdkmanager"), ("PATH", "gradle.org/install")])
def test_a_missing_tool_is_named_with_its_remedy(
    machine: dict[str, str], capsys: pytest.CaptureFixture[str], without: str, remedy: str
) -> None:
    assert build_apk.main({**machine, without: "/nowhere"}) == 1
    assert remedy in capsys.readouterr().err


def test_the_workflow_builds_the_same() -> None:
    commands = [step.get("run", "") for step in WORKFLOW["jobs"]["android"]["steps"]]
    [build] = [command for command in commands if command.startswith("gradle ")]
    assert set(build_apk.TASKS) <= set(build.split())
    assert any(str(build_apk.APK.relative_to(ROOT)) in command for command in commands)
    [setup] = [
        step["with"] for step in WORKFLOW["jobs"]["android"]["steps"] if "gradle-version" in step.get("with", {})
    ]
    catalog = tomllib.loads((ROOT / "android_demo" / "gradle" / "libs.versions.toml").read_text(encoding="utf-8"))
    assert setup["gradle-version"] == catalog["versions"]["gradle"]


def test_the_workflow_starts_for_files_that_exist() -> None:
    for patterns in (WORKFLOW[True]["push"]["paths"], WORKFLOW[True]["pull_request"]["paths"]):
        assert not [pattern for pattern in patterns if not (ROOT / pattern.removesuffix("/**")).exists()]
    swift = [step["run"] for step in WORKFLOW["jobs"]["ios"]["steps"] if "run" in step]
    [spec] = [line for line in swift if line.startswith("xcodegen")]
    assert (ROOT / spec.split()[-1]).is_file()

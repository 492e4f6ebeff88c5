"""The workflows are YAML that GitHub reads, and every command of ours that they name is there."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
# lanes for parts of the project that come later, each behind a variable of its own
LATER = {"core-ml": "vars.CORE_ML == 'true'", "android-emulator": "vars.ANDROID_DEMO == 'true'"}
SECRET = re.compile(r"secrets\.(\w+)")


def loaded(place: Path) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as a truth value
    found: dict[Any, Any] = yaml.safe_load(place.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


def steps(place: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(name, step) for name, job in loaded(place)["jobs"].items() for step in job["steps"]]


def lines(place: Path) -> list[tuple[str, str]]:
    return [(job, line.strip()) for job, step in steps(place) for line in step.get("run", "").splitlines() if line]


@pytest.mark.parametrize("place", WORKFLOWS, ids=lambda place: place.stem)
def test_every_job_has_a_machine_a_limit_and_pinned_actions(place: Path) -> None:
    whole = loaded(place)
    assert whole["on"]
    assert whole["permissions"] == {"contents": "read"}
    for job in whole["jobs"].values():
        assert job["runs-on"]
        assert job["timeout-minutes"]
    for _, step in steps(place):
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w/-]+@v\d+", step["uses"]), step["uses"]


@pytest.mark.parametrize("place", WORKFLOWS, ids=lambda place: place.stem)
def test_every_target_of_make_exists(place: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    wanted = {word for _, line in lines(place) if line.startswith("make ") for word in line.split()[1:]}
    assert wanted <= targets


@pytest.mark.parametrize("place", WORKFLOWS, ids=lambda place: place.stem)
def test_every_command_of_ours_exists_with_its_options(place: Path) -> None:
    for job, line in lines(place):
        if " -m " not in line:
            continue
        words = shlex.split(line.partition(" -m ")[2])
        package, rest = words[0], words[1:]
        command = [rest[0]] if package != "export" and rest else []
        options = {word for word in rest if word.startswith("--")}
        assert not [option for option in options if option not in help_of(package, *command)], (job, line)


@cache
def help_of(*words: str) -> str:
    said = subprocess.run([sys.executable, "-m", *words, "--help"], capture_output=True, text=True, cwd=REPOSITORY)
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_a_lane_for_what_comes_later_waits_for_its_variable() -> None:
    jobs = loaded(REPOSITORY / ".github" / "workflows" / "nightly.yml")["jobs"]
    assert {name: jobs[name]["if"] for name in LATER} == LATER


def test_the_night_can_be_started_by_hand_and_by_the_clock() -> None:
    whole = loaded(REPOSITORY / ".github" / "workflows" / "nightly.yml")
    assert len(whole["on"]["schedule"][0]["cron"].split()) == 5
    assert set(whole["on"]["workflow_dispatch"]["inputs"]) == {"night", "config"}
    config = whole["on"]["workflow_dispatch"]["inputs"]["config"]["default"]
    assert (REPOSITORY / config).is_file()


def test_clouds_are_trusted_by_oidc_and_no_key_of_theirs_is_a_secret() -> None:
    place = REPOSITORY / ".github" / "workflows" / "nightly.yml"
    assert loaded(place)["jobs"]["phones"]["permissions"]["id-token"] == "write"
    secrets = set(SECRET.findall(place.read_text(encoding="utf-8")))
    assert secrets == {"STORE_URL", "BROWSERSTACK_USERNAME", "BROWSERSTACK_ACCESS_KEY", "PIXEL_8_SERIAL"}


def test_every_secret_and_variable_is_explained() -> None:
    text = (REPOSITORY / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8")
    guide = (REPOSITORY / "docs" / "nightly.md").read_text(encoding="utf-8")
    names = set(SECRET.findall(text)) | set(re.findall(r"vars\.(\w+)", text))
    assert not [name for name in names if f"`{name}`" not in guide]

"""Owned devices: the real command, on this machine."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.farms import FarmError, Work, open_farm
from benchmarks.store import open_store
from tests.benchmarks.farms.conftest import MakeWork
from tests.benchmarks.test_tethered import PATIENCE_S, REPOSITORY, ended
from tests.waiting import patient

# a night that has one job, which takes ten minutes
NIGHT = """
import sys
from pathlib import Path
from benchmarks.farms import open_farm
from runtimes.artifact import Artifact
from tests.benchmarks.farms.conftest import work_of
from tests.benchmarks.farms.test_local import asked
folder = Path(sys.argv[1])
work = asked(work_of(Artifact.open(sys.argv[2]), folder, {"device": "host", "threads": 1}), sustained_s=600)
open_farm("local", {}).submit(work)
"""


def asked(work: Work, **protocol: float | str) -> Work:
    """The job with the store in its folder, and changes to what it is asked for."""
    settings: dict[str, float | str] = {"settle_s": 0, **protocol}
    return replace(work, protocol=work.protocol.model_copy(update=settings), store_url=str(work.folder / "s.sqlite"))


def test_a_job_is_a_run_whose_record_is_the_result(make_work: MakeWork) -> None:
    work = asked(make_work(device="host", threads=1), name="nightly")
    farm = open_farm("local", {})
    handle = farm.submit(work)
    assert farm.poll(work, handle).state == "done"
    made = farm.collect(work, handle)
    assert {case.status for case in made.cases} == {"ok"}
    assert made.session_id == work.session_id
    assert made.protocol.name == "nightly"
    with open_store(work.store_url) as store:
        assert list(store.runs()) == [made], "the run stored itself"
    assert farm.submit(work) == handle, "its record is there: nothing runs again"


def test_a_run_that_makes_no_record_says_why(make_work: MakeWork) -> None:
    work = make_work(device="host")
    work = replace(asked(work), artifact=replace(work.artifact, path=work.folder / "none-such"))
    farm = open_farm("local", {})
    poll = farm.poll(work, farm.submit(work))
    assert (poll.state, poll.status) == ("failed", "not_run")
    assert "none-such" in poll.reason, poll.reason


@pytest.mark.parametrize("settings", [{}, {"device": "toaster"}, {"device": "host", "surprise": 1}])
def test_settings_that_mean_nothing_are_refused(make_work: MakeWork, settings: dict[str, Any]) -> None:
    with pytest.raises(FarmError, match="a-phone"):
        open_farm("local", {}).submit(make_work(**settings))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_night_that_is_killed_leaves_nothing_running_and_every_finished_case(make_work: MakeWork) -> None:
    work = make_work(device="host")
    night = subprocess.Popen([sys.executable, "-c", NIGHT, str(work.folder), str(work.artifact.path)], cwd=REPOSITORY)
    try:
        runner, run = sustained_runner(night.pid)
    finally:
        os.kill(night.pid, signal.SIGKILL)
        night.wait()
    assert ended(run)
    assert ended(runner)
    with open_store(str(work.folder / "s.sqlite")) as store:
        (made,) = store.runs()
    statuses = {case.case_id: case.status for case in made.cases}
    assert statuses.pop("sustained-p8") == "killed"
    assert set(statuses.values()) == {"ok"}


def sustained_runner(night: int) -> tuple[int, int]:
    """Ids of the runner of the last case, and of the run that started it, once both are there."""
    deadline = time.monotonic() + patient(PATIENCE_S)
    while time.monotonic() < deadline:
        for run in children(night):
            for runner in children(run):
                cases = command(runner).partition("--cases\0")[2].partition("\0")[0]
                if cases and '"sustained' in Path(cases).read_text():
                    return runner, run
        time.sleep(0.05)
    raise AssertionError("the last case never began")


def children(pid: int) -> list[int]:
    found = [place.read_text().split() for place in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(number) for numbers in found for number in numbers]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""

"""The driver of the app's benchmark mode against the genuine adbd; `am`, `pm` and `logcat` are played by scripts.

What they start in the app's place is the host's Python runner, under the app's name and in its folder, so that
transfers, polling, ends and the stream are real. What Android itself does is not.
"""

import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from sysconfig import get_path

import pytest

from benchmarks.android import app
from benchmarks.android.adb import Adb, bundled_adb
from benchmarks.devices import DeviceOptions
from benchmarks.devices.android_app import AndroidAppDevice
from benchmarks.oracle import Oracle, answer_cases
from benchmarks.record import CaseRecord, RunRecord
from runtimes.artifact import Artifact
from tests.benchmarks.device_runs import run_on, warm_case
from tests.devices_lane.adbd import REPOSITORY, Adbd
from tests.runtimes.tiny_onnx import write_artifact
from tests.waiting import patient

pytestmark = pytest.mark.devices

PACKAGE = app.DEFAULT_PACKAGE
FILES = app.files_folder(PACKAGE)
RUNNER = (
    f"env PYTHONPATH={REPOSITORY}:{get_path('purelib')} ORT_DISABLE_TELEMETRY=1 "
    f"bash -c 'exec -a {PACKAGE} {sys.executable} "
    "-m benchmarks.host_runner --series app --artifact bundles/$artifact --cases $cases --out $out'"
)
# `am start ... --es artifact A --es cases C --es out O`, `am force-stop PACKAGE`
AM = """#!/bin/sh
if [ "$1" = force-stop ]; then kill -9 $(pidof {package}) 2>/dev/null; exit 0; fi
while [ $# -gt 0 ]; do [ "$1" = --es ] && export "$2=$3"; shift; done
cd {files} || exit 1
setsid sh -c {behaviour} >/dev/null 2>&1 </dev/null &
"""
SLEEPING = f"bash -c 'exec -a {PACKAGE} sleep 300'"


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Artifact.open(write_artifact(tmp_path_factory.mktemp("app-artifact")))


@pytest.fixture(scope="session")
def oracle(artifact: Artifact) -> Oracle:
    return answer_cases(artifact, warm_case().cases)


@pytest.fixture
def programs(adbd: Adbd) -> Iterator[Callable[[str, str], None]]:
    """Return a function that puts a script of Android's name onto the device; what it left there is looked at."""
    put: list[Path] = []

    def put_one(name: str, script: str) -> None:
        place = adbd.root / "usr/local/bin" / name
        place.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
        place.chmod(0o755)
        put.append(place)

    put_one("pm", f"echo package:/data/app/{PACKAGE}.apk")
    yield put_one
    for place in put:
        place.unlink(missing_ok=True)
    left = [str(file) for file in (adbd.root / FILES.lstrip("/")).rglob("*") if file.is_file()]
    shutil.rmtree(adbd.root / "sdcard", ignore_errors=True)
    assert not left, "files of a run are left"
    assert not adbd.processes(PACKAGE), "the app was left running"


@pytest.fixture
def run(adbd: Adbd, programs: Callable[[str, str], None], artifact: Artifact, oracle: Oracle, tmp_path: Path) -> object:
    """Return a function that runs one case with an app that behaves so, and gives the record."""

    def measured(behaviour: str, timeout_s: float = 60) -> RunRecord:
        programs("am", AM.format(package=PACKAGE, files=FILES, behaviour=shlex.quote(behaviour)))
        device = AndroidAppDevice(Adb(program=bundled_adb(), serial=adbd.serial), DeviceOptions(reconnect_s=30))
        made, warnings = run_on(device, artifact, tmp_path / "store", oracle=oracle, timeout_s=timeout_s)
        assert not warnings
        return made

    return measured


Measured = Callable[..., RunRecord]


def only(made: RunRecord) -> CaseRecord:
    (row,) = made.cases
    return row


def the_app(adbd: Adbd) -> list[int]:
    """The app's process, by its name: those that ask for it have that among their words, too."""
    return [pid for pid in adbd.processes(PACKAGE) if Path(f"/proc/{pid}/cmdline").read_text().startswith(PACKAGE)]


def test_a_whole_run_in_the_app_is_a_series_of_its_own_with_the_oracles_tokens(run: Measured) -> None:
    made = run(RUNNER, timeout_s=patient(60))
    row = only(made)
    assert row.status == "ok", row.reason
    assert made.series == "app"
    assert row.parity is not None
    assert (row.parity.compared_tokens, row.parity.first_difference) == (24, None)


def test_a_runner_of_the_shell_is_no_app(run: Measured) -> None:
    row = only(run(RUNNER.replace("--series app", "--series adb-shell"), timeout_s=patient(60)))
    assert row.status == "corrupt"
    assert "never mixed" in str(row.reason)


def test_a_phone_without_the_app_is_not_run(run: Measured, programs: Callable[[str, str], None]) -> None:
    programs("pm", "exit 1")
    row = only(run(RUNNER))
    assert row.status == "not_run"
    assert PACKAGE in str(row.reason)


def test_what_the_app_complains_of_is_the_reason(run: Measured, programs: Callable[[str, str], None]) -> None:
    programs("logcat", "echo 'E/qwen-edge( 77): model.onnx: its SHA-256 differs'")
    row = only(run(SLEEPING))
    assert row.status == "failed"
    assert "its SHA-256 differs" in str(row.reason)


def test_an_app_that_is_gone_without_a_word_is_killed(run: Measured) -> None:
    assert only(run(f"bash -c 'exec -a {PACKAGE} sleep 2'")).status == "killed"


def test_an_app_that_the_system_killed_for_memory_is_oom(
    run: Measured, programs: Callable[[str, str], None], adbd: Adbd
) -> None:
    programs("logcat", 'case "$*" in *-t*) cat /data/local/tmp/killed;; esac')

    def kill_for_memory() -> None:
        deadline = time.monotonic() + patient(60)
        while not (found := the_app(adbd)) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)
        inside = Path(f"/proc/{found[0]}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()[-1]
        (adbd.root / "data/local/tmp/killed").write_text(f"I/lowmemorykiller: Kill '{PACKAGE}' ({inside}), adj 0\n")
        adb = Adb(program=bundled_adb(), serial=adbd.serial)
        adb.shell(f"kill -9 {inside}")

    thread = threading.Thread(target=kill_for_memory)
    thread.start()
    row = only(run(SLEEPING))
    thread.join()
    (adbd.root / "data/local/tmp/killed").unlink()
    assert row.status == "oom", row.reason


def test_an_app_that_stands_still_is_timed_out(run: Measured) -> None:
    assert only(run(SLEEPING, timeout_s=4)).status == "timeout"

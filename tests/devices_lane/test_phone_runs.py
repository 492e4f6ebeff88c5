"""Whole runs on the virtual phone over real adb, by the C++ runner, and what faults of a phone become in the record.

Each fault must give its row, with the status and reason that name it, in bounded time, and the phone must be as before.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from adbutils._utils import adb_path

from benchmarks.android.adb import Adb, bundled_adb
from benchmarks.cases import CaseFile
from benchmarks.devices import DeviceOptions
from benchmarks.devices.android import ROOT, AndroidDevice
from benchmarks.oracle import Oracle, answer_cases
from benchmarks.record import CaseRecord, RunRecord
from runtimes.artifact import Artifact
from tests.benchmarks.device_runs import run_on, warm_case
from tests.devices_lane.conftest import CACHE, await_device
from tests.devices_lane.debian import UnavailableError
from tests.devices_lane.network import PrivateNetwork
from tests.devices_lane.phone import Phone
from tests.devices_lane.runner import built
from tests.runtimes.tiny_onnx import write_artifact

pytestmark = pytest.mark.devices

NO_HANG_S = 200.0
FILLER = "/data/local/tmp/filler"


@pytest.fixture(scope="session")
def runner(network: PrivateNetwork) -> Path:
    """The C++ runner for ONNX Runtime on the phone."""
    try:
        with network.outside():
            return built("onnxruntime", "aarch64", CACHE)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Artifact.open(write_artifact(tmp_path_factory.mktemp("artifact")))


def long_case(name: str = "long", seconds: float = 8, **changes: object) -> CaseFile:
    """Generations for some seconds, with the battery looked at meanwhile."""
    settings = {"kind": "sustained", "duration_ms": round(seconds * 1000), "sample_interval_ms": 100}
    return warm_case(name, warm_ups=0, samples=["battery", "thermal"], **{**settings, **changes})


@pytest.fixture(scope="session")
def oracle(artifact: Artifact) -> Oracle:
    cases = [warm_case(), warm_case("second"), long_case(), long_case("again")]
    return answer_cases(artifact, [case for file in cases for case in file.cases])


@pytest.fixture
def device(phone: Phone, runner: Path) -> Iterator[AndroidDevice]:
    """The driver of the phone; afterwards nothing of a run is left."""
    yield device_on(phone, runner)
    await_device(phone.serial, 60)
    shell(phone, f"rm -f {FILLER}")
    # artifact and runner are kept from test to test: an emulated phone takes half a minute to receive them
    assert "run-" not in shell(phone, f"ls {ROOT} 2>/dev/null"), "files of a run are left"
    assert shell(phone, "pidof runner") == "", "a runner is left"


def device_on(phone: Phone, runner: Path, reconnect_s: float = 40.0) -> AndroidDevice:
    return AndroidDevice(
        Adb(program=bundled_adb(), serial=phone.serial), DeviceOptions(runner=runner, reconnect_s=reconnect_s)
    )


def shell(phone: Phone, script: str) -> str:
    """What a script on the phone prints, by an adb of its own."""
    command = [adb_path(), "-s", phone.serial, "shell", script]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=90).stdout.strip()


@contextmanager
def meanwhile(phone: Phone, act: Callable[[], object], after_s: float = 3.0) -> Iterator[None]:
    """Do something once the runner has run for a while; what goes wrong there fails the test."""
    failures: list[BaseException] = []

    def wait_and_act() -> None:
        try:
            deadline = time.monotonic() + NO_HANG_S
            while not shell(phone, "pidof runner"):
                assert time.monotonic() < deadline, "the runner never started"
                time.sleep(0.2)
            time.sleep(after_s)
            act()
        except BaseException as error:  # noqa: BLE001 (handed to the test's thread)
            failures.append(error)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    try:
        yield
    finally:
        thread.join(NO_HANG_S)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


Rows = Callable[..., RunRecord]


@pytest.fixture
def run(device: AndroidDevice, artifact: Artifact, oracle: Oracle, tmp_path: Path) -> Rows:
    """Return a function that runs cases and gives the record, in bounded time."""

    def measured(cases: list[CaseFile] | None = None, on: AndroidDevice | None = None, **changes: float) -> RunRecord:
        began = time.monotonic()
        made, _ = run_on(on or device, artifact, tmp_path / "store", cases, keep=True, oracle=oracle, **changes)
        assert time.monotonic() - began < NO_HANG_S
        return made

    return measured


def only(made: RunRecord) -> CaseRecord:
    (row,) = made.cases
    return row


def test_a_whole_run_has_the_hosts_tokens_and_never_counts_as_a_phone(run: Rows) -> None:
    made = run([warm_case(), warm_case("second", kind="cold", warm_ups=0, repeats=1, drop_page_cache=True)], repeats=2)
    first = made.cases[0]
    assert first.status == "ok", first.reason
    assert first.parity is not None
    assert (first.parity.compared_tokens, first.parity.first_difference) == (24, None)
    assert made.device.kind == "vm"
    assert any("pretended" in violation for violation in made.validity.violations)
    assert (made.series, first.effective_backend) == ("adb-shell", "onnx")
    assert made.tools["runtime"].startswith("onnxruntime 1.")
    assert made.environment.plugged is False
    assert made.environment.temperature_c == pytest.approx(30.0)


def test_plugging_in_during_a_run_takes_the_energy_away(phone: Phone, run: Rows) -> None:
    with meanwhile(phone, lambda: phone.set_power(usb_online="on", battery_current=900_000), after_s=7):
        row = only(run([long_case(idle_ms=5000, seconds=10)], timeout_s=150))
    assert row.status == "ok", row.reason
    assert row.energy is None
    assert "plugged in during the run" in str(row.energy_reason)


def test_on_battery_the_same_run_has_an_energy(phone: Phone, run: Rows) -> None:
    with meanwhile(phone, lambda: phone.set_power(battery_current=-900_000), after_s=5.2):
        row = only(run([long_case(idle_ms=5000, seconds=8)], timeout_s=150))
    assert row.status == "ok", row.reason
    assert row.energy is not None, row.energy_reason
    assert row.energy.plugged is False
    assert row.energy.joules > 0


def test_a_hot_phone_starts_no_case(phone: Phone, run: Rows) -> None:
    phone.set_power(battery_temp=460)
    row = only(run(max_start_temperature_c=37.0, cool_down_s=2))
    assert row.status == "too_hot"
    assert "46.0 C" in str(row.reason)


def test_a_phone_that_overheats_in_one_case_does_not_start_the_next(phone: Phone, run: Rows) -> None:
    with meanwhile(phone, lambda: phone.set_power(battery_temp=480), after_s=1):
        made = run([long_case(seconds=5), long_case("again", seconds=5)], max_start_temperature_c=37.0, cool_down_s=2)
    assert [row.status for row in made.cases] == ["ok", "too_hot"], [row.reason for row in made.cases]


def test_a_phone_that_cools_down_in_time_goes_on(phone: Phone, run: Rows) -> None:
    phone.set_power(battery_temp=460)
    timer = threading.Timer(8.0, lambda: phone.set_power(battery_temp=310))
    timer.start()
    row = only(run(max_start_temperature_c=37.0, cool_down_s=60))
    timer.join()
    assert row.status == "ok", row.reason


def test_a_full_phone_takes_no_artifact(phone: Phone, run: Rows) -> None:
    shell(phone, f"rm -rf {ROOT}; dd if=/dev/zero of={FILLER} bs=1M count=380")
    row = only(run())
    assert row.status == "disk_full"


def test_a_phone_that_fills_up_during_a_run_is_full(phone: Phone, run: Rows) -> None:
    with meanwhile(phone, lambda: shell(phone, f"cat /dev/zero > {FILLER}"), after_s=1):
        row = only(run([long_case(seconds=20)]))
    assert row.status == "disk_full", row.reason


def test_a_runner_killed_during_a_run_is_killed(phone: Phone, run: Rows) -> None:
    with meanwhile(phone, lambda: shell(phone, "kill -9 $(pidof runner)"), after_s=6):
        made = run([long_case(seconds=20), long_case("again", seconds=1)])
    assert [row.status for row in made.cases] == ["killed", "ok"], [row.reason for row in made.cases]


def test_a_runner_that_stands_still_is_timed_out(phone: Phone, run: Rows) -> None:
    with meanwhile(phone, lambda: shell(phone, "kill -STOP $(pidof runner)"), after_s=1):
        row = only(run([long_case(seconds=2)], timeout_s=10))
    assert row.status == "timeout"


def test_the_daemon_killed_during_a_run_costs_nothing(phone: Phone, run: Rows) -> None:
    with meanwhile(phone, lambda: shell(phone, "kill -9 $(pidof adbd)"), after_s=1):
        row = only(run([long_case(seconds=10)]))
    assert row.status == "ok", row.reason


def test_a_phone_that_is_silent_for_a_while_goes_on(phone: Phone, run: Rows) -> None:
    def hold() -> None:
        os.kill(phone.pid, signal.SIGSTOP)
        time.sleep(8)
        os.kill(phone.pid, signal.SIGCONT)

    with meanwhile(phone, hold, after_s=1):
        row = only(run([long_case(seconds=10)]))
    assert row.status == "ok", row.reason


def test_an_artifact_altered_on_the_phone_fails_and_is_no_result(
    phone: Phone, run: Rows, device: AndroidDevice
) -> None:
    push = device.push

    def push_and_alter(*arguments: object) -> None:
        push(*arguments)  # type: ignore[arg-type]
        shell(
            phone, f"for file in {ROOT}/artifact-*/model.onnx; do echo spoilt > $file; done"
        )  # the next push heals it

    device.push = push_and_alter  # type: ignore[method-assign,assignment]
    row = only(run())
    assert row.status == "failed"
    assert "could not open" in str(row.reason)


def test_no_memory_for_the_model_is_oom(phone: Phone, runner: Path, run: Rows, tmp_path: Path) -> None:
    row = only(run(on=device_on(phone, wrapped(runner, tmp_path, "ulimit -v 34000"))))
    assert row.status == "oom", row.reason


def test_the_kernel_s_killer_is_told_from_other_kills(phone: Phone, tmp_path: Path, run: Rows) -> None:
    folder = tmp_path / "greedy"
    folder.mkdir()
    (folder / "runner").write_text("#!/bin/sh\necho 1000 > /proc/self/oom_score_adj\nexec tail -n 1 /dev/zero\n")
    (folder / "runner").chmod(0o755)
    row = only(run(on=device_on(phone, folder), timeout_s=120))
    assert row.status == "oom", row.reason


def test_a_phone_without_the_libraries_says_which(phone: Phone, runner: Path, run: Rows, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "runner").write_bytes((runner / "runner").read_bytes())
    (bare / "runner").chmod(0o755)
    row = only(run(on=device_on(phone, bare)))
    assert row.status == "failed"
    assert "libonnxruntime.so.1" in str(row.reason)


def wrapped(runner: Path, tmp_path: Path, before: str) -> Path:
    """The runner behind a line of shell."""
    folder = tmp_path / "wrapped"
    folder.mkdir()
    for file in runner.iterdir():
        target = folder / ("real" if file.name == "runner" else file.name)
        target.write_bytes(file.read_bytes())
        target.chmod(0o755)
    (folder / "runner").write_text(f'#!/bin/sh\n{before}\nexec "$LD_LIBRARY_PATH/real" "$@"\n')
    (folder / "runner").chmod(0o755)
    return folder

"""Whole runs on the virtual phone over real adb, by the C++ runner, and what faults of a phone become in the record.

Each fault must give its row, with the status and reason that name it, in bounded time, and the phone must be as before.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.cases import CaseFile
from benchmarks.devices.android import ROOT, AndroidDevice
from benchmarks.oracle import Oracle, answer_cases
from benchmarks.record import RunRecord
from export.bundle import Bundle
from runtimes.artifact import Artifact
from tests.benchmarks.device_runs import run_on, warm_case
from tests.devices_lane.conftest import CACHE, await_device
from tests.devices_lane.debian import UnavailableError
from tests.devices_lane.network import PrivateNetwork
from tests.devices_lane.phone import BOOT_SECONDS, Phone
from tests.devices_lane.phone_runs import NO_HANG_S, WROTE, device_on, long_case, meanwhile, only, shell
from tests.devices_lane.runner import built
from tests.waiting import patient

pytestmark = pytest.mark.devices

FILLER = "/data/local/tmp/filler"
# one buffer of nearly all memory there is, of which some is taken: the kernel grants it and regrets it
GREEDY = """#!/bin/sh
echo 1000 > /proc/self/oom_score_adj
while read name kilobytes unit; do [ $name = MemTotal: ] && total=$kilobytes; done < /proc/meminfo
exec dd if=/dev/zero of=/dev/null bs=$((total - 4096))k
"""
LONG_PROMPT = [(7 * index) % 2000 for index in range(100)]  # more than one chunk of the prefill


@pytest.fixture(scope="session")
def runner(network: PrivateNetwork) -> Path:
    """The C++ runner for ONNX Runtime on the phone."""
    try:
        with network.outside():
            return built("onnxruntime", "aarch64", CACHE)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def artifact(bundle: Bundle) -> Artifact:
    """The tiny trained model as ONNX Runtime gets it."""
    return bundle.artifacts["onnx"]


@pytest.fixture(scope="session")
def oracle(artifact: Artifact) -> Oracle:
    """This machine's answers to the cases below."""
    cases = [warm_case(), warm_case("second"), warm_case("chunks", prompt=LONG_PROMPT), long_case(), long_case("again")]
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


Rows = Callable[..., RunRecord]


@pytest.fixture
def run(device: AndroidDevice, artifact: Artifact, oracle: Oracle, tmp_path: Path) -> Rows:
    """Return a function that runs cases and gives the record, in bounded time."""

    def measured(
        cases: list[CaseFile] | None = None,
        on: AndroidDevice | None = None,
        timeout_s: float = 60,
        **changes: float,
    ) -> RunRecord:
        began = time.monotonic()
        limits = {"timeout_s": patient(timeout_s), **changes}
        made, _ = run_on(on or device, artifact, tmp_path / "store", cases, keep=True, oracle=oracle, **limits)
        assert time.monotonic() - began < patient(NO_HANG_S)
        return made

    return measured


def test_a_whole_run_has_the_hosts_tokens_and_never_counts_as_a_phone(run: Rows) -> None:
    cold = warm_case("second", kind="cold", warm_ups=0, repeats=1, drop_page_cache=True)
    made = run([warm_case(), cold, warm_case("chunks", prompt=LONG_PROMPT)])
    assert [row.status for row in made.cases] == ["ok"] * 3, [row.reason for row in made.cases]
    compared = [(row.parity.compared_tokens, row.parity.first_difference) for row in made.cases if row.parity]
    assert compared == [(24, None), (12, None), (24, None)]
    first = made.cases[0]
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
    for _ in range(3):
        phone.rest()
        with meanwhile(phone, lambda: phone.set_power(battery_current=-900_000), after_s=5.2):
            row = only(run([long_case(idle_ms=5000, seconds=8)], timeout_s=150))
        # on a busy machine the emulated phone may stand still for seconds, in which nobody looks: that is refused
        if not re.search("is not known|no sample for|samples in a window", str(row.energy_reason)):
            break
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
    shell(phone, f"dd if=/dev/zero of={FILLER} bs=1M count=250")  # most of it before: an emulated phone writes slowly
    with meanwhile(phone, lambda: shell(phone, f"dd if=/dev/zero bs=64k >> {FILLER}"), once=WROTE):
        row = only(run([long_case(seconds=40)]))
    assert row.status == "disk_full", row.reason


def test_a_runner_killed_during_a_run_is_killed(phone: Phone, run: Rows) -> None:
    with meanwhile(phone, lambda: shell(phone, "kill -9 $(pidof runner)"), once=WROTE):
        made = run([long_case(seconds=30), long_case("again", seconds=1)])
    assert [row.status for row in made.cases] == ["killed", "ok"], [row.reason for row in made.cases]
    killed = made.cases[0]
    assert "signal 9" in str(killed.reason)
    assert any('"stop"' in line for line in killed.events), "what the runner had written is evidence"
    assert not killed.metrics


def test_a_phone_that_starts_anew_during_a_run_is_lost(phone: Phone, runner: Path, run: Rows) -> None:
    restart = "setsid sh -c 'sleep 1; echo b > /proc/sysrq-trigger' >/dev/null 2>&1 </dev/null &"
    with meanwhile(phone, lambda: shell(phone, restart), once=WROTE):
        row = only(
            run([long_case(seconds=20)], on=device_on(phone, runner, reconnect_s=BOOT_SECONDS), timeout_s=BOOT_SECONDS)
        )
    assert row.status == "lost_device"
    assert "started anew" in str(row.reason)


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
    (folder / "runner").write_text(GREEDY)
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

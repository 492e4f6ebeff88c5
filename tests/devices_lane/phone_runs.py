"""What tests of runs on the virtual phone share: the driver, long cases, and something that happens meanwhile."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adbutils._utils import adb_path

from benchmarks.android.adb import Adb, bundled_adb
from benchmarks.cases import CaseFile
from benchmarks.devices import DeviceOptions
from benchmarks.devices.android import ROOT, AndroidDevice
from benchmarks.record import CaseRecord, RunRecord
from tests.benchmarks.device_runs import warm_case
from tests.devices_lane.phone import Phone
from tests.waiting import patient

NO_HANG_S = 200.0
STARTED = "pidof runner"
WROTE = f"cat {ROOT}/run-*/events.jsonl 2>/dev/null | grep stop"  # a whole generation is in the file


def device_on(phone: Phone, runner: Path, reconnect_s: float = 40.0) -> AndroidDevice:
    """The driver of the phone, with a runner."""
    return AndroidDevice(
        Adb(program=bundled_adb(), serial=phone.serial), DeviceOptions(runner=runner, reconnect_s=patient(reconnect_s))
    )


def long_case(name: str = "long", seconds: float = 8, **changes: object) -> CaseFile:
    """Generations for some seconds, with the battery looked at meanwhile."""
    settings = {"kind": "sustained", "duration_ms": round(seconds * 1000), "sample_interval_ms": 100}
    return warm_case(name, warm_ups=0, samples=["battery", "thermal"], **{**settings, **changes})


def only(made: RunRecord) -> CaseRecord:
    """The one row of a run."""
    (row,) = made.cases
    return row


def shell(phone: Phone, script: str) -> str:
    """What a script on the phone prints, by an adb of its own."""
    command = [adb_path(), "-s", phone.serial, "shell", script]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=patient(90)).stdout.strip()


@contextmanager
def meanwhile(
    phone: Phone, act: Callable[[], object], *, after_s: float = 0.0, once: str = STARTED, seconds: float = NO_HANG_S
) -> Iterator[None]:
    """Do something some time after a script on the phone first prints anything; what goes wrong fails the test."""
    failures: list[BaseException] = []

    def wait_and_act() -> None:
        try:
            deadline = time.monotonic() + patient(seconds)
            while not shell(phone, once):
                assert time.monotonic() < deadline, f"the phone never answered {once!r}"
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
        thread.join(patient(seconds))
    assert not thread.is_alive()
    if failures:
        raise failures[0]

"""The lane's device behaves as a device: what later tests inject is injected, and what they rely on is there."""

import os
import signal
import sys
from pathlib import Path

import adbutils
import pytest

from tests.devices_lane.adbd import Adbd
from tests.devices_lane.conftest import await_device
from tests.waiting import wait_until

pytestmark = pytest.mark.devices


@pytest.fixture
def device(adbd: Adbd) -> adbutils.AdbDevice:
    return adbutils.adb.device(serial=adbd.serial)


def test_a_command_answers_with_both_streams_and_its_status(device: adbutils.AdbDevice) -> None:
    answer = device.shell2("echo out; echo err >&2; exit 7", v2=True)
    assert (answer.stdout, answer.stderr, answer.returncode) == ("out\n", "err\n", 7)


def test_what_is_pushed_lies_on_the_device_and_not_on_the_host(
    adbd: Adbd, device: adbutils.AdbDevice, tmp_path: Path
) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(bytes(range(256)) * 4096)
    device.sync.push(sent, "/data/local/tmp/sent")
    assert (adbd.root / "data/local/tmp/sent").read_bytes() == sent.read_bytes()
    assert not Path("/data").exists()


def test_the_device_can_run_this_python(device: adbutils.AdbDevice) -> None:
    answer = device.shell2([sys.executable, "-c", "import numpy; print(numpy.arange(3).sum())"], v2=True)
    assert (answer.stdout, answer.returncode) == ("3\n", 0)


def test_the_data_partition_can_be_full(device: adbutils.AdbDevice) -> None:
    filled = device.shell2("cat /dev/zero > /data/local/tmp/filler", v2=True)
    device.shell2("rm /data/local/tmp/filler", v2=True)
    assert filled.returncode != 0
    assert "No space left" in filled.stderr


def test_a_killed_daemon_ends_the_connection_and_what_hangs_on_its_terminal(
    adbd: Adbd, device: adbutils.AdbDevice
) -> None:
    with device.shell("echo begun; sleep 31; echo done", stream=True) as stream:
        assert stream.read_string(5) == "begun"
        assert adbd.processes("sleep\0" + "31")
        adbd.kill()
        try:
            assert stream.read_until_close().strip() == ""
            wait_until(lambda: not adbd.processes("sleep\0" + "31"), "the command outlives its terminal")
        finally:
            adbd.start()
            await_device(adbd.serial)
    assert device.shell("echo again") == "again"


def test_a_detached_command_outlives_the_daemon(adbd: Adbd, device: adbutils.AdbDevice) -> None:
    device.shell("trap '' HUP; setsid sleep 32 </dev/null >/dev/null 2>&1 &")
    try:
        adbd.restart()
        await_device(adbd.serial)
        assert adbd.processes("sleep\0" + "32")
    finally:
        for pid in adbd.processes("sleep\0" + "32"):
            os.kill(pid, signal.SIGKILL)

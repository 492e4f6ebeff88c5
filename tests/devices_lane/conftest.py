"""The devices of the lane, each started once: all of them in a network that holds nothing else.

A part that cannot be had here (not root, a suite of Debian not reachable, no QEMU) skips what needs it and says why.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from adbutils._utils import adb_path

from export.bundle import Bundle
from export.spec import ExportSpec
from tests.devices_lane import adbd as adbd_device
from tests.devices_lane.adbd import Adbd
from tests.devices_lane.debian import UnavailableError, unpacked
from tests.devices_lane.network import PrivateNetwork, private_network
from tests.devices_lane.phone import Phone, booted, make_image
from tests.exports import exported
from tests.waiting import patient, wait_until

# read before tests/conftest.py moves the caches away: this one is worth keeping
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen-edge" / "devices"
SERVER_PORT = 5037  # adb's own: nobody else is in this network


@pytest.fixture(scope="session")
def network() -> Iterator[PrivateNetwork]:
    """A network of the test session's own."""
    try:
        with private_network() as network:
            yield network
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def adb_server(network: PrivateNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an adb server for this session alone; adbutils and adb find it by the environment."""
    home = tmp_path_factory.mktemp("adb-home")
    settings = {"ANDROID_USER_HOME": str(home), "HOME": str(home)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.delenv("ANDROID_SERIAL", raising=False)
        adb = adb_path()
        subprocess.run([adb, "start-server"], check=True, capture_output=True, timeout=patient(30))
        yield SERVER_PORT
        subprocess.run([adb, "kill-server"], check=False, capture_output=True, timeout=patient(30))


@pytest.fixture(scope="session")
def adbd(network: PrivateNetwork, adb_server: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adbd]:
    """A device of this machine's processor: the genuine daemon on a throw-away file system.

    `serial` is known to the adb server, `root` is its file system, `kill`, `start` and `restart` act on the daemon.
    """
    try:
        with network.outside():
            packages = unpacked("adbd-amd64", CACHE)
        with adbd_device.running(packages, tmp_path_factory.mktemp("adbd")) as device:
            connect(device.serial)
            yield device
    except UnavailableError as error:
        pytest.skip(str(error))


def connect(serial: str, seconds: float = 60.0) -> None:
    """Make the adb server know a device; one that has just started may not listen yet."""
    deadline = time.monotonic() + patient(seconds)
    while True:
        command = [adb_path(), "connect", serial]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=patient(60))
        if "connected to" in done.stdout and "failed" not in done.stdout:
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"adb cannot connect to {serial}: {done.stdout} {done.stderr}")
        time.sleep(0.5)
    await_device(serial)


def await_device(serial: str, seconds: float = 20.0) -> None:
    """Wait until adb says that the device answers; the adb server connects again by itself, a `connect` then hangs."""

    def answers() -> bool:
        listed = subprocess.run(
            [adb_path(), "devices"], check=True, capture_output=True, text=True, timeout=patient(30)
        )
        return f"{serial}\tdevice" in listed.stdout

    wait_until(answers, f"{serial} does not answer adb", seconds)


@pytest.fixture(scope="session")
def booted_phone(network: PrivateNetwork, adb_server: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    """The virtual phone, booted once a session."""
    try:
        with network.outside():
            image = make_image(CACHE)
        with booted(image, tmp_path_factory.mktemp("phone")) as phone:
            connect(phone.serial)
            yield phone
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def phone(booted_phone: Phone) -> Phone:
    """The virtual phone: on battery, cool, drawing little; `set_power` changes that."""
    booted_phone.rest()
    return booted_phone


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny trained model, exported for both runtimes of Android phones."""
    out = tmp_path_factory.mktemp("export") / "bundle"
    spec = ExportSpec(target="android", model="tiny", out=out, scheme="int4", method="rtn", context_length=256)
    return exported(spec)[0]

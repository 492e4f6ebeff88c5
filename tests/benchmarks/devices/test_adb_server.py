"""The real adb server, on a port of its own: started where none runs, and ended by the last of ours that needs it."""

import multiprocessing
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.android.adb import bundled_adb
from benchmarks.android.server import hold_server
from benchmarks.devices import DeviceError, DeviceOptions, open_device

ENDS_WITHIN_S = 30.0


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port on which no server runs yet; adb and this program find it by the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
    for name in ("ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_SERIAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(found))
    for name in ("HOME", "ANDROID_USER_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    yield found
    adb("kill-server")


def adb(word: str) -> None:
    subprocess.run([str(bundled_adb()), word], check=False, capture_output=True, timeout=60)


def runs(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def has_ended(port: int) -> bool:
    deadline = time.monotonic() + ENDS_WITHIN_S
    while runs(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not runs(port)


def test_a_server_that_was_started_ends_with_the_last_who_needs_it(port: int) -> None:
    assert not runs(port)
    first, second = hold_server(bundled_adb()), hold_server(bundled_adb())
    assert runs(port)
    first.end()
    first.end()
    assert runs(port), "another run still needs it"
    second.end()
    assert has_ended(port)


def test_a_server_that_was_there_stays(port: int) -> None:
    adb("start-server")
    hold_server(bundled_adb()).end()
    assert runs(port)


def test_a_server_that_the_last_one_ended_is_started_again(port: int) -> None:
    for _ in range(2):
        lease = hold_server(bundled_adb())
        assert runs(port)
        lease.end()
        assert has_ended(port)


def take_and_end(rounds: int) -> None:
    for _ in range(rounds):
        lease = hold_server(bundled_adb())
        done = subprocess.run([str(bundled_adb()), "devices"], check=True, capture_output=True, timeout=60)
        assert b"daemon" not in done.stderr, "the server had gone while it was held"
        lease.end()


def test_many_at_once_never_lose_the_server_they_hold(port: int) -> None:
    spawning = multiprocessing.get_context("spawn")
    workers = [spawning.Process(target=take_and_end, args=(3,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    # two that let go at the same moment may both leave it
    hold_server(bundled_adb()).end()


def test_looking_for_a_phone_that_is_not_there_leaves_no_server(port: int) -> None:
    with pytest.raises(DeviceError, match="adb sees 0 devices|not among the devices"):
        open_device("android", DeviceOptions(serial="nobody"))
    assert has_ended(port)

"""The demo app on an Android phone: the series of figures that users of the app get.

An app has another cpuset, another priority and another limit of memory than a process of adb's shell, so these results
are a series of their own. The app finds artifact and cases in its folder on shared storage and writes its stream there;
it checks every hash itself before it opens a model. Nobody has run this against the app on a phone yet: the tests play
the app, behind the real adb (tests/devices_lane/test_android_app.py).
"""

import shlex
import tempfile
import time
from pathlib import Path

from benchmarks.android import app, processes
from benchmarks.android.adb import Adb
from benchmarks.android.files import push_files
from benchmarks.android.server import ServerLease
from benchmarks.cases import CaseFile, write_cases
from benchmarks.devices import (
    DeviceError,
    DeviceOptions,
    DeviceTimeoutError,
    KilledError,
    LostDeviceError,
    NotRunError,
    OutOfMemoryError,
    Report,
)
from benchmarks.devices.android import AndroidDevice, artifact_files, connected
from benchmarks.phone_runner import local_file
from benchmarks.runner_end import is_sealed, named_failure
from benchmarks.stream import MAX_STREAM_BYTES
from benchmarks.stream_events import Series
from runtimes.artifact import Artifact

__all__ = ["AndroidAppDevice", "open_device"]

POLL_S = 5.0  # each look takes some milliseconds of one core
FIRST_POLL_S = 1.0
CASES, STREAM = "cases.json", "events.jsonl"


class AndroidAppDevice(AndroidDevice):
    """One phone with the app on it; describing, preparing and settings are those of the phone."""

    series: Series = "app"

    def __init__(self, adb: Adb, options: DeviceOptions, server: ServerLease | None = None) -> None:
        super().__init__(adb, options, server)
        self._package = options.app or app.DEFAULT_PACKAGE
        self._files = app.files_folder(self._package)
        self._bundle = ""

    def prepare(self) -> list[str]:
        """The phone's own preparations, where the app is there."""
        if not app.is_installed(self._adb, self._package):
            raise NotRunError(f"{self._adb.serial} has no app {self._package!r}; install it, or name --app")
        return super().prepare()

    def push(self, artifact: Artifact, report: Report) -> None:
        """The artifact goes into a folder named after what it holds."""
        artifact.check_hashes()
        self._bundle = f"lab-{artifact.manifest.artifact_hash()[:16]}"
        folder = f"{self._files}/bundles/{self._bundle}"
        self._pushed.append(folder)
        push_files(self._adb, artifact_files(artifact), folder, report)

    def run(self, cases: CaseFile, timeout_s: float) -> bytes:
        """Start the app with some cases in a fresh process, and fetch its stream when that is whole."""
        self._send_cases(cases)
        app.start(self._adb, self._package, artifact=self._bundle, cases=CASES, out=STREAM)
        try:
            return self._await(time.monotonic() + timeout_s, timeout_s)
        finally:
            app.end(self._adb, self._package)

    def partial(self) -> bytes:
        """What the app wrote so far."""
        return self._adb.read(f"{self._files}/{STREAM}", MAX_STREAM_BYTES)

    def _tidy_phone(self, *, keep: bool) -> list[str]:
        app.end(self._adb, self._package)
        self._adb.shell(f"rm -f {shlex.quote(f'{self._files}/{CASES}')} {shlex.quote(f'{self._files}/{STREAM}')}")
        return super()._tidy_phone(keep=keep)

    def _send_cases(self, cases: CaseFile) -> None:
        self._adb.check(f"mkdir -p {shlex.quote(self._files)} && rm -f {shlex.quote(f'{self._files}/{STREAM}')}")
        with tempfile.TemporaryDirectory(prefix="qwen-edge-android-") as work:
            place = Path(work) / CASES
            write_cases(cases, place)
            push_files(self._adb, [local_file(place, CASES)], self._files, lambda *_: None)

    def _await(self, deadline: float, timeout_s: float) -> bytes:
        heard = time.monotonic()
        pid: int | None = None
        time.sleep(FIRST_POLL_S)
        while True:
            try:
                seen = app.look(self._adb, self._package, STREAM, pid)
                heard = time.monotonic()
            except (LostDeviceError, DeviceTimeoutError) as error:
                if time.monotonic() - heard > self._options.reconnect_s:
                    raise LostDeviceError(f"{error}; it was waited for {self._options.reconnect_s:g} s") from error
                self._adb.reconnect()
                continue
            if seen.ended and is_sealed(data := self.partial()):
                return data
            if seen.complaint:
                raise named_failure(f"the app says: {seen.complaint}")
            if seen.pid is None:
                raise self._why_it_ended(pid)
            pid = seen.pid
            if time.monotonic() > deadline:
                raise DeviceTimeoutError(f"the case was not over after {timeout_s:g} s; the app was ended")
            time.sleep(min(POLL_S, max(0.1, deadline - time.monotonic())))

    def _why_it_ended(self, pid: int | None) -> DeviceError:
        if pid is not None and processes.killed_for_memory(self._adb, pid):
            return OutOfMemoryError("the system killed the app for its memory")
        return KilledError("the app ended without its stream's last line, and without a complaint in the log")


def open_device(options: DeviceOptions) -> AndroidAppDevice:
    """The phone that adb sees, or the one of several that is named, with the app on it."""
    adb, server = connected(options)
    return AndroidAppDevice(adb, options, server)

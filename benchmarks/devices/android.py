"""An Android phone over adb: the runner is a program in /data/local/tmp, started from adb's shell.

What a user's app would get is another series: adb's shell has its own cpuset, priority and memory limits, so results of
the two are never mixed. Nothing needs root. The phone is woken, kept awake and kept from dozing while it is measured,
and everything is as it was afterwards; governors and limits are recorded as found.
"""

import secrets
import shlex
import tempfile
from contextlib import suppress
from pathlib import Path

from benchmarks import record
from benchmarks.android import identity, processes
from benchmarks.android.adb import Adb, adb_version, bundled_adb, choose_serial
from benchmarks.android.files import LocalFile, free_bytes, push_files
from benchmarks.android.server import ServerLease, hold_server
from benchmarks.android.settings import Changed, make_ready, put_back
from benchmarks.android.state import environment
from benchmarks.cases import CaseFile, write_cases
from benchmarks.devices import DeviceError, DeviceOptions, DiskFullError, NotRunError, Report
from benchmarks.phone_runner import local_file, runner_files
from benchmarks.runner_end import check_end, is_sealed
from benchmarks.stream import MAX_STREAM_BYTES
from benchmarks.stream_events import Series
from runtimes.artifact import MANIFEST_NAME, Artifact

__all__ = ["AndroidDevice", "artifact_files", "connected", "open_device"]

ROOT = "/data/local/tmp/qwen-edge"
KILLED = 137  # a shell's word for SIGKILL
REMOVE_S = 120.0
MIN_BATTERY_PERCENT = 15
MIN_ROOM_BYTES = 1024 * 1024


class AndroidDevice:
    """One phone."""

    series: Series = "adb-shell"

    def __init__(self, adb: Adb, options: DeviceOptions, server: ServerLease | None = None) -> None:
        self._adb = adb
        self._server = server
        self._options = options
        self._folder = f"{ROOT}/run-{secrets.token_hex(6)}"
        self._artifact = ""
        self._runner = ""
        self._pushed: list[str] = []
        self._started: processes.Started | None = None
        self._changed: list[Changed] = []

    def describe(self) -> record.Device:
        """The phone, by its properties."""
        return identity.describe(self._adb)

    def tools(self) -> dict[str, str]:
        """The adb in between."""
        return {"adb": ".".join(map(str, adb_version(self._adb.program)))}

    def environment(self) -> record.Environment:
        """The phone's state right now."""
        return environment(self._adb)

    def prepare(self) -> list[str]:
        """Wake it, keep it awake and from dozing; say what else forbids valid results."""
        self._changed = make_ready(self._adb)
        return _violations(self.environment())

    def push(self, artifact: Artifact, report: Report) -> None:
        """Artifact and runner go into folders named after what they hold."""
        artifact.check_hashes()
        runtime = artifact.manifest.runtime.name
        program = runner_files(self._options.runner, runtime, identity.architecture(self._adb))
        name = artifact.manifest.artifact_hash()[:16]
        self._artifact = self._push(f"artifact-{name}", artifact_files(artifact), report)
        self._runner = self._push(f"runner-{program.name}", program.files, report)
        self._adb.check(f"mkdir -p {shlex.quote(self._folder)}")

    def run(self, cases: CaseFile, timeout_s: float) -> bytes:
        """Run some cases in a process of their own, which outlives the connection."""
        if not self._runner:
            raise NotRunError("no artifact and no runner were pushed")
        self._send(cases)
        command = (
            f"{shlex.quote(f'{self._runner}/runner')} --artifact {shlex.quote(self._artifact)} "
            "--cases cases.json --out events.jsonl"
        )
        libraries = f"LD_LIBRARY_PATH={shlex.quote(self._runner)}"
        self._started = processes.start(
            self._adb, f"{libraries} {command}", self._folder, reconnect_s=self._options.reconnect_s
        )
        try:
            finished = processes.wait(
                self._adb, self._started, timeout_s=timeout_s, reconnect_s=self._options.reconnect_s
            )
            data = self._collect()
            if not is_sealed(data):
                self._check_room()  # a runner that could not write could not say so either
                killed = finished.status == KILLED
                check_end(finished, out_of_memory=killed and processes.killed_for_memory(self._adb, self._started.pid))
            return data
        finally:
            self._end_runner()

    def partial(self) -> bytes:
        """What the last runner wrote so far."""
        return self._collect()

    def clean_up(self, *, keep: bool) -> list[str]:
        """No process, no setting, no server of ours and, unless kept, no file of ours stays."""
        try:
            return self._tidy_phone(keep=keep)
        finally:
            if self._server is not None:
                self._server.end()

    def _tidy_phone(self, *, keep: bool) -> list[str]:
        problems = self._end_runner()
        problems += put_back(self._adb, self._changed)
        folders = [self._folder, *([] if keep else self._pushed)]
        self._adb.shell(f"rm -rf {' '.join(map(shlex.quote, folders))}; rmdir {ROOT} 2>/dev/null", timeout_s=REMOVE_S)
        left = self._adb.shell(f"ls -d {' '.join(map(shlex.quote, folders))} 2>/dev/null").text.split()
        return problems + [f"{place} is still on {self._adb.serial}" for place in left]

    def _push(self, name: str, files: list[LocalFile], report: Report) -> str:
        folder = f"{ROOT}/{name}"
        self._pushed.append(folder)
        push_files(self._adb, files, folder, report)
        return folder

    def _send(self, cases: CaseFile) -> None:
        quoted = shlex.quote(self._folder)
        self._adb.check(f"rm -rf {quoted} && mkdir -p {quoted}")
        with tempfile.TemporaryDirectory(prefix="qwen-edge-android-") as work:
            place = Path(work) / "cases.json"
            write_cases(cases, place)
            push_files(self._adb, [local_file(place, "cases.json")], self._folder, lambda *_: None)

    def _collect(self) -> bytes:
        return self._adb.read(f"{self._folder}/events.jsonl", MAX_STREAM_BYTES)

    def _check_room(self) -> None:
        free = free_bytes(self._adb, self._folder)
        if free is not None and free < MIN_ROOM_BYTES:
            raise DiskFullError(f"{self._adb.serial}: {free} bytes were free when the runner ended; free some space")

    def _end_runner(self) -> list[str]:
        """Kill the runner if it lives; a device that is gone is asked again at the end."""
        if self._started is None:
            return []
        with suppress(DeviceError):
            left = processes.end(self._adb, self._started)
            self._started = None
            return [left] if left is not None else []
        return []


def artifact_files(artifact: Artifact) -> list[LocalFile]:
    """What has to be on a phone for an artifact to be there."""
    manifest = artifact.manifest
    listed = [
        LocalFile(source=artifact.file(entry.path), name=entry.path, size_bytes=entry.bytes, sha256=entry.sha256)
        for entry in manifest.files
    ]
    return [*listed, local_file(artifact.path / MANIFEST_NAME, MANIFEST_NAME)]


def _violations(found: record.Environment) -> list[str]:
    """What of a state forbids valid results; what is unknown forbids nothing, and is recorded as unknown."""
    said = []
    if found.low_power:
        said.append("battery saver is on: it limits the clocks; switch it off")
    if found.screen is not None and found.screen != "Awake":
        said.append(f"the screen is {found.screen!r}: unlock the phone and keep it awake")
    if found.battery_percent is not None and found.battery_percent < MIN_BATTERY_PERCENT:
        said.append(f"the battery is at {found.battery_percent:g} %: below {MIN_BATTERY_PERCENT} % phones slow down")
    return said


def connected(options: DeviceOptions) -> tuple[Adb, ServerLease]:
    """The phone that adb sees, or the one of several that is named, and the server behind it."""
    program = bundled_adb()
    server = hold_server(program)
    try:
        return Adb(program=program, serial=choose_serial(program, options.serial)), server
    except BaseException:
        server.end()
        raise


def open_device(options: DeviceOptions) -> AndroidDevice:
    """That phone, for programs of adb's shell."""
    adb, server = connected(options)
    return AndroidDevice(adb, options, server)

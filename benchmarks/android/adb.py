"""adb, with a time limit on every call and without trust in what it says.

The program is the one that the package adbutils brings, and calls go through it rather than through that package's
Python: its file transfer has no time limit and drops the reason of a failure, and its search prefers whatever adb is in
PATH. Debian's adb 29 answers 0 for a command whose daemon was killed, so every command ends with a line of our own that
cannot be guessed, and only what stands before such a line is an answer.
"""

import importlib.resources
import re
import secrets
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.android.server import OLDEST_ADB
from benchmarks.capped import Finished, OutputTooLargeError, ProgramTimeoutError, run_capped
from benchmarks.devices import CorruptError, DeviceError, DeviceTimeoutError, DiskFullError, LostDeviceError

__all__ = ["Adb", "Answer", "adb_version", "bundled_adb", "choose_serial"]

SHELL_S = 30.0
SERVER_S = 30.0
CONNECT_S = 5.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
MIN_TRANSFER_BYTES_S = 500_000
GONE = ("device offline", "' not found", "no devices", "error: closed", "connection reset", "protocol fault")
NO_SPACE = "no space left"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command on the device said, stderr in, and its exit status."""

    status: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Adb:
    """One device behind one adb."""

    program: Path
    serial: str

    def shell(self, script: str, *, timeout_s: float = SHELL_S) -> Answer:
        """Run a script in the device's shell; a command that isn't there has status 127."""
        mark = f"end-{secrets.token_hex(8)}"
        finished = self._call(
            ["shell", "-n", "-T", f"({script}\n) 2>&1; status=$?; echo; echo {mark} $status"], timeout_s
        )
        text, found, status = finished.stdout.decode("utf-8", "replace").replace("\r\n", "\n").rpartition(f"\n{mark} ")
        if not found or not status.strip().isdigit():
            said = f"status {finished.status}: {finished.error_text or 'silent'}"
            raise LostDeviceError(f"{self.serial}: the answer broke off (adb's {said})")
        return Answer(status=int(status), text=text)

    def check(self, script: str, *, timeout_s: float = SHELL_S) -> str:
        """The answer to a script that has to succeed."""
        answer = self.shell(script, timeout_s=timeout_s)
        if answer.status != 0:
            self._refuse(f"status {answer.status}: {_tail(answer.text)}")
        return answer.text

    def push(self, source: Path, target: str) -> None:
        """Copy a file to the device; what arrived is for the caller to check."""
        finished = self._call(["push", str(source), target], _transfer_s(source.stat().st_size))
        if finished.status != 0:
            self._refuse(finished.error_text or _tail(finished.stdout.decode("utf-8", "replace")))

    def read(self, place: str, max_bytes: int) -> bytes:
        """A file of the device, refused where it is longer than that."""
        script = f"exec head -c {max_bytes + 1} {shlex.quote(place)}"
        try:
            finished = self._call(["exec-out", script], _transfer_s(max_bytes), max_bytes=max_bytes)
        except OutputTooLargeError as error:
            raise CorruptError(f"{self.serial}: {place} has more than {max_bytes} bytes") from error
        return finished.stdout

    def reconnect(self) -> None:
        """Ask for a device behind a network address once more; one behind a cable comes by itself."""
        if ":" not in self.serial:
            return
        with suppress(ProgramTimeoutError):  # it waits for ever where the server is connecting already
            command = [str(self.program), "connect", self.serial]
            run_capped(command, timeout_s=CONNECT_S, max_stdout_bytes=MAX_ANSWER_BYTES)

    def _call(self, words: Sequence[str], timeout_s: float, max_bytes: int = MAX_ANSWER_BYTES) -> Finished:
        command = [str(self.program), "-s", self.serial, *words]
        try:
            finished = run_capped(command, timeout_s=timeout_s, max_stdout_bytes=max_bytes)
        except ProgramTimeoutError as error:
            raise DeviceTimeoutError(f"{self.serial}: adb {words[0]} had no answer after {timeout_s:g} s") from error
        if finished.status != 0 and words[0] != "get-state":
            said = finished.error_text.lower()
            if any(word in said for word in GONE):
                raise LostDeviceError(f"{self.serial}: adb {words[0]}: {finished.error_text}")
        return finished

    def _refuse(self, said: str) -> None:
        if NO_SPACE in said.lower():
            raise DiskFullError(f"{self.serial}: {said}; free some space on the device")
        raise DeviceError(f"{self.serial}: {said}")


def bundled_adb() -> Path:
    """The adb that adbutils brings, not older than what tells the truth."""
    with importlib.resources.as_file(importlib.resources.files("adbutils.binaries") / "adb") as program:
        found = adb_version(program)
        if found[0] < OLDEST_ADB:
            raise DeviceError(f"{program}: version {found}; {OLDEST_ADB} or newer is needed: update adbutils")
        return program


def adb_version(program: Path) -> tuple[int, ...]:
    """The version of an adb program, such as (36, 0, 0)."""
    said = run_capped([str(program), "version"], timeout_s=SERVER_S, max_stdout_bytes=MAX_ANSWER_BYTES).stdout
    found = re.search(rb"^Version (\d+)\.(\d+)\.(\d+)", said, re.MULTILINE)
    if found is None:
        raise DeviceError(f"{program}: does not tell its version; update adbutils")
    return tuple(int(part) for part in found.groups())


def choose_serial(program: Path, wanted: str | None) -> str:
    """The device that is meant, among those that adb sees."""
    said = run_capped([str(program), "devices"], timeout_s=SERVER_S, max_stdout_bytes=MAX_ANSWER_BYTES).stdout
    lines = said.decode("utf-8", "replace").splitlines()[1:]
    seen = {fields[0]: fields[1] for line in lines if len(fields := line.split("\t")) == 2}
    if wanted is None and len(seen) != 1:
        listing = ", ".join(f"{serial} ({state})" for serial, state in seen.items()) or "none"
        raise DeviceError(f"adb sees {len(seen)} devices: {listing}; connect one, or name one with --serial")
    serial = next(iter(seen)) if wanted is None else wanted
    if seen.get(serial) != "device":
        state = seen.get(serial, "not among the devices of adb")
        raise LostDeviceError(f"{serial} is {state}; see `{program} devices`, unlock the phone, allow USB debugging")
    return serial


def _transfer_s(size_bytes: int) -> float:
    return 60.0 + size_bytes / MIN_TRANSFER_BYTES_S


def _tail(text: str) -> str:
    return " ".join(text.split())[-500:]

"""An iPhone: the benchmark mode of an app, since nothing else may run there.

The app (`--app`) has the artifact in its Documents, is launched with the words that every runner gets, and writes its
stream there. Apple shows no hash of a file on the phone, so what was sent is noted in a file beside it, one line a file
that arrived; the app checks the artifact's hashes when it loads it. Never run against an iPhone so far: commands and
answers are checked, the way between them is not.
"""

import json
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import record
from benchmarks.capped import Finished, OutputTooLargeError, ProgramTimeoutError, run_capped
from benchmarks.cases import CaseFile, write_cases
from benchmarks.devices import (
    CorruptError,
    DeviceError,
    DeviceOptions,
    DeviceTimeoutError,
    DiskFullError,
    KilledError,
    LostDeviceError,
    NotRunError,
    OutOfMemoryError,
    Report,
)
from benchmarks.ios import answers
from benchmarks.ios.commands import Phone, list_phones
from benchmarks.runner_end import is_sealed
from benchmarks.stream import MAX_STREAM_BYTES
from benchmarks.stream_events import Series
from runtimes.artifact import MANIFEST_NAME, Artifact, sha256_of

__all__ = ["IosDevice", "open_device"]

ANSWER_BYTES = 16 * 1024 * 1024
ANSWER_S = 60.0
MIN_TRANSFER_BYTES_S = 500_000
POLL_S = 5.0
GRACE_S = 15.0  # between a launch and the first look whether the app still runs
NOTE = "pushed.json"
STREAM = "events.jsonl"
DEFAULT_APP = "edge.qwen.demo"
MIN_BATTERY_PERCENT = 15
GONE = ("usbmuxd", "not found", "NoDeviceConnected", "ConnectionTerminated", "ConnectionFailed", "disconnected")
NO_SPACE = ("no space", "ENOSPC", "disk full")


class IosDevice:
    """One iPhone with the app on it."""

    series: Series = "app"

    def __init__(self, phone: Phone) -> None:
        self._phone = phone
        self._work = Path(tempfile.mkdtemp(prefix="qwen-edge-ios-"))
        self._pushed: dict[str, str] = {}

    def describe(self) -> record.Device:
        """The phone, as lockdownd describes it."""
        return answers.describe(self._phone.udid, answers.json_object(self._ask(self._phone.info()).stdout))

    def tools(self) -> dict[str, str]:
        """The tool in between."""
        return {"pymobiledevice3": version("pymobiledevice3"), "devicectl": "used" if self._phone.devicectl else "no"}

    def environment(self) -> record.Environment:
        """What the battery's registry entry tells; the rest is the app's to say."""
        return answers.battery_environment(answers.json_object(self._ask(self._phone.battery()).stdout))

    def prepare(self) -> list[str]:
        """The app keeps the screen on; here it is only asked whether it is there."""
        if not answers.json_object(self._ask(self._phone.installed()).stdout):
            raise NotRunError(f"the app {self._phone.bundle_id!r} is not installed; install it, or name --app")
        percent = self.environment().battery_percent
        if percent is not None and percent < MIN_BATTERY_PERCENT:
            return [f"the battery is at {percent:g} %: below {MIN_BATTERY_PERCENT} % phones slow down"]
        return []

    def push(self, artifact: Artifact, report: Report) -> None:
        """Send what the note of an earlier push doesn't list."""
        artifact.check_hashes()
        manifest = artifact.path / MANIFEST_NAME
        wanted = {entry.path: entry.sha256 for entry in artifact.manifest.files} | {MANIFEST_NAME: sha256_of(manifest)}
        self._pushed = {name: sha for name, sha in self._read_note().items() if wanted.get(name) == sha}
        missing = [name for name in wanted if name not in self._pushed]
        for number, name in enumerate(missing):
            report(f"pushing {name}", number, len(missing))
            place = artifact.path / name
            self._ask(self._phone.push(place, f"artifact/{name}"), timeout_s=_transfer_s(place))
            self._pushed[name] = wanted[name]
            self._write_note()
        report("pushing", len(missing), len(missing))

    def run(self, cases: CaseFile, timeout_s: float) -> bytes:
        """Launch the app with some cases, and fetch its stream when it is sealed or the app has ended."""
        place = self._work / "cases.json"
        write_cases(cases, place)
        self._ask(self._phone.push(place, "cases.json"))
        self._call(self._phone.remove(STREAM))
        launched = time.time()
        self._ask(self._phone.launch(["--artifact", "artifact", "--cases", "cases.json", "--out", STREAM]))
        deadline = time.monotonic() + timeout_s
        time.sleep(min(GRACE_S, timeout_s))
        while time.monotonic() < deadline:
            runs = self._process() is not None
            data = self.partial()
            if is_sealed(data):
                return data
            if not runs:
                raise self._why_it_ended(launched)
            time.sleep(POLL_S)
        self._end_app()
        raise DeviceTimeoutError(f"the case was not over after {timeout_s:g} s; the app was ended")

    def partial(self) -> bytes:
        """The stream as far as the app wrote it."""
        target = self._work / STREAM
        target.unlink(missing_ok=True)
        self._call(self._phone.pull(STREAM, target))
        if not target.exists():
            return b""
        if target.stat().st_size > MAX_STREAM_BYTES:
            raise CorruptError(f"the stream has more than {MAX_STREAM_BYTES} bytes")
        return target.read_bytes()

    def clean_up(self, *, keep: bool) -> list[str]:
        """End the app; remove what was sent unless it is to be kept."""
        self._end_app()
        names = ["cases.json", STREAM] + ([] if keep else [NOTE, *(f"artifact/{name}" for name in self._pushed)])
        failed = [name for name in names if self._call(self._phone.remove(name)).status != 0]
        shutil.rmtree(self._work)
        return [f"{name} may still be in the app's Documents" for name in failed if name != STREAM]

    def _why_it_ended(self, launched: float) -> DeviceError:
        folder = self._work / "crashes"
        folder.mkdir(exist_ok=True)
        self._call(self._phone.jetsam_reports(folder))
        app = self._phone.bundle_id.rpartition(".")[2]
        for report in folder.rglob("JetsamEvent*"):
            reason = answers.killed_for_memory(report.read_bytes()[:ANSWER_BYTES], app)
            if reason is not None and _written(report) >= launched - GRACE_S:
                return OutOfMemoryError(f"iOS killed the app for its memory ({reason}, {report.name})")
        return KilledError("the app ended without its stream's last line, and no jetsam report of this time names it")

    def _process(self) -> int | None:
        return answers.process_id(self._ask(self._phone.process_id()).stdout)

    def _end_app(self) -> None:
        pid = answers.process_id(self._call(self._phone.process_id()).stdout)
        if pid is not None:
            self._call(self._phone.kill(pid))

    def _read_note(self) -> dict[str, str]:
        target = self._work / NOTE
        self._call(self._phone.pull(NOTE, target))
        found = answers.json_object(target.read_bytes()) if target.exists() else {}
        return {name: sha for name, sha in found.items() if isinstance(sha, str)}

    def _write_note(self) -> None:
        place = self._work / NOTE
        place.write_text(json.dumps(self._pushed), encoding="utf-8")
        self._ask(self._phone.push(place, NOTE))

    def _ask(self, command: Sequence[str], timeout_s: float = ANSWER_S) -> Finished:
        """A command that has to succeed."""
        finished = self._call(command, timeout_s)
        if finished.status == 0:
            return finished
        said = finished.error_text
        if any(word.lower() in said.lower() for word in NO_SPACE):
            raise DiskFullError(f"{self._phone.udid}: {said}")
        if any(word.lower() in said.lower() for word in GONE):
            raise LostDeviceError(f"{self._phone.udid}: {said}")
        raise DeviceError(f"{self._phone.udid}: {' '.join(command[3:6])}: status {finished.status}: {said}")

    def _call(self, command: Sequence[str], timeout_s: float = ANSWER_S) -> Finished:
        return _run(command, timeout_s)


def open_device(options: DeviceOptions) -> IosDevice:
    """The iPhone that usbmuxd knows, or the one of several that is named."""
    finished = _run(list_phones(), ANSWER_S)
    if finished.status != 0:
        raise DeviceError(f"no iPhone can be listed: {finished.error_text}; is usbmuxd running?")
    found = answers.udids(finished.stdout)
    if options.udid is None and len(found) != 1:
        raise DeviceError(f"{len(found)} iPhones: {', '.join(found) or 'none'}; connect one, or name one with --udid")
    udid = found[0] if options.udid is None else options.udid
    if udid not in found:
        raise LostDeviceError(f"{udid} is not among the iPhones that usbmuxd knows: {', '.join(found) or 'none'}")
    has_xcode = platform.system() == "Darwin" and shutil.which("xcrun") is not None
    return IosDevice(Phone(udid=udid, bundle_id=options.app or DEFAULT_APP, devicectl=has_xcode))


def _run(command: Sequence[str], timeout_s: float) -> Finished:
    try:
        return run_capped(command, timeout_s=timeout_s, max_stdout_bytes=ANSWER_BYTES)
    except ProgramTimeoutError as error:
        raise DeviceTimeoutError(f"{' '.join(command[3:6])}: no answer after {timeout_s:g} s") from error
    except OutputTooLargeError as error:
        raise CorruptError(str(error)) from error


def _transfer_s(place: Path) -> float:
    return ANSWER_S + place.stat().st_size / MIN_TRANSFER_BYTES_S


def _written(report: Path) -> float:
    """When a report was written, by its name (JetsamEvent-2026-11-22-071530.ips); the file's time is the copy's."""
    found = re.search(r"(\d{4}-\d\d-\d\d-\d{6})", report.name)
    return time.mktime(time.strptime(found[1], "%Y-%m-%d-%H%M%S")) if found else 0.0

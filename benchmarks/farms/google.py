"""Google's Device Run (the successor of Firebase Test Lab): a parcel is pushed and its script run, by `gcloud`.

Device Run has a command line and no documented REST interface; the flags are those of `gcloud beta device-run` as of
November 2026, a preview. Credentials are gcloud's own (in CI by OIDC). Never run against the real farm from here: tests
hold the command lines, and the script, on this machine.
"""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.farms import FarmError, Poll, Work, parsed_settings
from benchmarks.farms.collected import Borrowed, case_streams, record_of
from benchmarks.farms.parcel import EVENTS, PARCEL, ROOT, write_parcel
from benchmarks.record import Device, RunRecord, device_id

__all__ = ["DeviceRun", "open_farm"]

LABEL = "qwen-edge-job"
SESSION = re.compile(r"\bsessions?/([a-z0-9-]{1,80})\b|\b(session-[a-z0-9]{4,40})\b")
FINISHED = re.compile(r"finished with result \[(\w+)\]")
CALL_LIMIT_S = 1800
MAX_EVENTS_BYTES = 512 * 1024 * 1024
MOST_TEXT = 600


class _FarmSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    project: str
    bucket: str
    location: str = "global"
    program: str = "gcloud"
    poll_s: float = Field(default=60.0, gt=0)


class _DeviceSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str = Field(pattern=r"^[A-Za-z0-9_.]+$")
    version: str = Field(pattern=r"^[0-9]+$")
    runner: str | None = None
    timeout_s: int = Field(default=3600, ge=60)


class DeviceRun:
    """One project of Device Run."""

    def __init__(self, settings: _FarmSettings) -> None:
        self._settings = settings
        self.poll_s = settings.poll_s

    def plan(self, work: Work) -> list[str]:
        """The commands that would run."""
        found = _device(work)
        return [" ".join(self._submission(found, work, work.folder / "run.sh", work.folder / PARCEL))]

    def submit(self, work: Work) -> str:
        """The session's id; a session that carries this job's label is taken for this job."""
        found = _device(work)
        listed = self._call(["list", f"--filter=labels.{LABEL}={_label(work)}", "--format=value(name)"])
        known = _session(listed)
        if known is not None:
            return known
        parcel, script = write_parcel(work, None if found.runner is None else Path(found.runner))
        said = self._gcloud(self._submission(found, work, script, parcel))
        session = _session(said)
        if session is None:
            raise FarmError(f"gcloud took the job and named no session: {said[-MOST_TEXT:]!a}")
        return session

    def poll(self, work: Work, handle: str) -> Poll:
        """Done once the session says with which result; whether streams are whole shows when they are read."""
        del work
        said = self._call(["describe", handle])
        ended = FINISHED.search(said)
        if ended is None:
            return Poll(state="running")
        if ended[1] in ("CANCELLED", "ERROR", "INVALID"):
            return Poll(state="failed", reason=f"the session ended with {ended[1]}", status="not_run")
        return Poll(state="done")

    def collect(self, work: Work, handle: str) -> RunRecord:
        """The record of the streams in the session's bucket."""
        place = work.folder / "collected"
        place.mkdir(exist_ok=True)
        source = f"gs://{self._settings.bucket}/automation/sessions/{handle}/**/{EVENTS}"
        self._gcloud([self._settings.program, "storage", "cp", source, str(place)])
        found = sorted(file for file in place.iterdir() if file.is_file() and not file.is_symlink())
        if not found:
            raise FarmError(f"{source}: the session left no events", "not_run")
        if sum(file.stat().st_size for file in found) > MAX_EVENTS_BYTES:
            raise FarmError(f"{source}: more than {MAX_EVENTS_BYTES} bytes of events", "corrupt")
        settings = _device(work)
        # the farm tells which model, never which phone: all of a model are one device here
        name = f"google {settings.model}-{settings.version}"
        device = Device(id=device_id(name), kind="physical", model=settings.model, os=f"Android API {settings.version}")
        streams = case_streams(file.read_bytes() for file in found)
        return record_of(work, Borrowed(device=device, series="adb-shell", farm="google", streams=streams))

    def _submission(self, device: _DeviceSettings, work: Work, script: Path, parcel: Path) -> list[str]:
        session = ["beta", "device-run", "sessions", "submit", "android-executable"]
        options = {
            "--device": f"{device.model}-{device.version}",
            "--executable": str(script),
            "--executable-timeout": f"{device.timeout_s}s",
            "--other-files-to-push": f"{parcel}={ROOT}/{PARCEL}",
            "--paths-to-pull": f"{ROOT}/{EVENTS}",
            "--bucket-name": self._settings.bucket,
            "--labels": f"{LABEL}={_label(work)}",
            "--location": self._settings.location,
            "--project": self._settings.project,
        }
        flags = [f"{name}={value}" for name, value in options.items()]
        return [self._settings.program, *session, *flags, "--async", "--quiet"]

    def _call(self, words: Sequence[str]) -> str:
        where = [f"--location={self._settings.location}", f"--project={self._settings.project}", "--quiet"]
        return self._gcloud([self._settings.program, "beta", "device-run", "sessions", *words, *where])

    def _gcloud(self, words: Sequence[str]) -> str:
        """What gcloud said on both streams: it tells of sessions on the one that suits it."""
        if shutil.which(words[0]) is None:
            raise FarmError(
                f"no program {words[0]!r} on PATH; install the Google Cloud CLI with its beta part", "not_run"
            )
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=CALL_LIMIT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise FarmError(f"{' '.join(words[1:5])}: gcloud took longer than {CALL_LIMIT_S} s", "timeout") from error
        if done.returncode:
            said = "".join(letter if letter.isprintable() else " " for letter in done.stderr.strip())
            raise FarmError(f"gcloud {' '.join(words[1:5])} ended with status {done.returncode}: {said[-MOST_TEXT:]}")
        return f"{done.stdout}\n{done.stderr}"


def open_farm(settings: Mapping[str, Any]) -> DeviceRun:
    """The project of the settings, with gcloud's credentials."""
    return DeviceRun(parsed_settings(_FarmSettings, settings, "[farms.google]"))


def _device(work: Work) -> _DeviceSettings:
    return parsed_settings(_DeviceSettings, work.settings, f"[devices.{work.device}]")


def _label(work: Work) -> str:
    """A job's name as a label may be: lower case, and short."""
    return hashlib.sha256(work.job_id.encode()).hexdigest()[:32]


def _session(said: str) -> str | None:
    found = SESSION.search(said)
    return None if found is None else found[1] or found[2]

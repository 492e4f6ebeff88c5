"""BrowserStack App Automate: the demo app's benchmark as an Espresso test, by REST.

There is no shell on these phones, so the app runs the cases and writes each event line to the log under `qwen-edge`;
the last line of a stream counts and hashes the others, so a log that lost a line is found out. The series is `app`.
Credentials: BROWSERSTACK_USERNAME and BROWSERSTACK_ACCESS_KEY. Never run against the real farm from here: tests speak
to a server on this machine that answers in the documented form.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.farms import FarmError, Poll, Work, parsed_settings
from benchmarks.farms.collected import Borrowed, case_streams, record_of
from benchmarks.farms.rest import answer_json, client, download, send
from benchmarks.record import CaseStatus, Device, RunRecord, device_id

__all__ = ["AppAutomate", "log_lines", "open_farm"]

API = "https://api-cloud.browserstack.com/app-automate/espresso/v2"
# logcat's brief, time and threadtime forms all end in the tag, a process and a colon
LOGGED = re.compile(rb"\bqwen-edge\s*(?:\(\s*\d+\))?\s*: (\{.*\})\s*$")
UPLOAD_S = 1800.0
WAITING = ("queued", "running")
FAILED: dict[str, CaseStatus] = {"timedout": "timeout", "skipped": "not_run", "error": "failed"}


class _FarmSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    app: str
    test_suite: str
    api: str = API
    project: str = "qwen-edge"
    poll_s: float = Field(default=30.0, gt=0)
    backoff_s: float = Field(default=1.0, ge=0)


class _DeviceSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    device: str
    artifact_url: str | None = None


class AppAutomate:
    """One account of App Automate."""

    def __init__(self, settings: _FarmSettings, auth: tuple[str, str]) -> None:
        self._settings = settings
        self._http = client(auth, backoff_s=settings.backoff_s)
        # results lie on signed addresses of other hosts, which must not see the credentials
        self._elsewhere = client(None, backoff_s=settings.backoff_s)
        self.poll_s = settings.poll_s

    def plan(self, work: Work) -> list[str]:
        """What would be uploaded and started."""
        return [
            f"upload {self._settings.app} and {self._settings.test_suite}",
            f"build {work.job_id} on {_device(work).device}",
        ]

    def submit(self, work: Work) -> str:
        """The build's id; a build that carries this job's name as its tag is taken for this job."""
        device = _device(work)
        for build in self._get_list("builds?limit=100"):
            if build.get("build_tag") == work.job_id:
                return str(build["build_id"])
        app = self._upload("app", self._settings.app, "app_url")
        suite = self._upload("test-suite", self._settings.test_suite, "test_suite_url")
        options = {"artifact": work.artifact.manifest.artifact_hash(), "job": work.job_id}
        if device.artifact_url is not None:
            options["artifactUrl"] = device.artifact_url
        body = {
            "app": app,
            "testSuite": suite,
            "devices": [device.device],
            "project": self._settings.project,
            "buildTag": work.job_id,
            "deviceLogs": True,
            "video": False,
            "instrumentationOptions": options,
        }
        made = answer_json(send(self._http, "POST", f"{self._settings.api}/build", json=body))
        if not isinstance(made.get("build_id"), str):
            raise FarmError(f"BrowserStack started no build: {ascii(str(made.get('message')))[:200]}", "not_run")
        return str(made["build_id"])

    def poll(self, work: Work, handle: str) -> Poll:
        """How far the build is."""
        del work
        status = str(self._build(handle).get("status", "")).lower()
        if status in WAITING:
            return Poll(state="running")
        if status in FAILED:
            return Poll(state="failed", reason=f"the build ended with status {status}", status=FAILED[status])
        return Poll(state="done")  # a failed test may have logged whole streams: what is sealed counts

    def collect(self, work: Work, handle: str) -> RunRecord:
        """The record of the streams in the logs of the build's sessions."""
        contents = []
        for number, address in enumerate(_log_addresses(self._build_details(handle))):
            mine = address.startswith(self._settings.api.partition("/app-automate")[0])
            place = download(self._http if mine else self._elsewhere, address, work.folder / f"device-{number}.log")
            contents.append(log_lines(place.read_bytes()))
        streams = case_streams(contents)
        if not streams:
            raise FarmError(f"build {handle}: {len(contents)} device logs hold no whole stream of events", "corrupt")
        name = _device(work).device
        device = Device(id=device_id(f"browserstack {name}"), kind="physical", model=name)
        return record_of(work, Borrowed(device=device, series="app", farm="browserstack", streams=streams))

    def _build(self, handle: str) -> Mapping[str, Any]:
        return answer_json(send(self._http, "GET", f"{self._settings.api}/builds/{handle}"))

    def _build_details(self, handle: str) -> list[Mapping[str, Any]]:
        """Each session of a build, which alone tells where its log is."""
        sessions = [session for device in self._build(handle).get("devices", []) for session in device["sessions"]]
        base = f"{self._settings.api}/builds/{handle}/sessions"
        return [answer_json(send(self._http, "GET", f"{base}/{session['id']}")) for session in sessions]

    def _get_list(self, path: str) -> list[Mapping[str, Any]]:
        found = answer_json(send(self._http, "GET", f"{self._settings.api}/{path}"))
        return list(found.get("builds", []))

    def _upload(self, kind: str, path: str, key: str) -> str:
        place = Path(path)
        if not place.is_file():
            raise FarmError(f"{path}: no such file; build the demo app first (android_demo)", "not_run")
        with place.open("rb") as file:
            form = {"file": (place.name, file, "application/octet-stream")}
            answer = send(self._http, "POST", f"{self._settings.api}/{kind}", files=form, read_s=UPLOAD_S)
        return str(answer_json(answer)[key])


def open_farm(settings: Mapping[str, Any]) -> AppAutomate:
    """The account of the environment."""
    found = parsed_settings(_FarmSettings, settings, "[farms.browserstack]")
    names = ("BROWSERSTACK_USERNAME", "BROWSERSTACK_ACCESS_KEY")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise FarmError(f"{' and '.join(missing)} not set; BrowserStack needs both", "not_run")
    return AppAutomate(found, (os.environ[names[0]], os.environ[names[1]]))


def log_lines(log: bytes) -> bytes:
    """The event lines of a device's log, as the app wrote them."""
    found = (LOGGED.search(line) for line in log.splitlines())
    return b"".join(match[1] + b"\n" for match in found if match is not None)


def _device(work: Work) -> _DeviceSettings:
    return parsed_settings(_DeviceSettings, work.settings, f"[devices.{work.device}]")


def _log_addresses(sessions: list[Mapping[str, Any]]) -> list[str]:
    """Every address of a device log, wherever in a session it stands."""
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, Mapping):
            found.extend(str(each) for key, each in value.items() if key == "device_log" and isinstance(each, str))
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(sessions)
    return list(dict.fromkeys(found))

"""AWS Device Farm: a parcel is run over adb by a test spec, on the phone that the farm reserves.

Device Farm knows no plain programs, so the parcel goes as the package of a Python test, and the test spec, which is a
shell script in YAML, is what really runs. Public pools are noisy: ExecuTorch deleted its benchmarks there. Private
devices, or correctness only. Credentials: boto3's own (in CI by OIDC). Never run against the real farm from here: the
requests are held against botocore's service model.
"""

import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped,unused-ignore]
from botocore.config import Config  # type: ignore[import-untyped,unused-ignore]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped,unused-ignore]
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.farms import FarmError, Poll, Work, parsed_settings
from benchmarks.farms.collected import Borrowed, case_streams, record_of
from benchmarks.farms.parcel import EVENTS, ROOT, write_parcel
from benchmarks.farms.rest import client, download, send
from benchmarks.record import Device, RunRecord, device_id

__all__ = ["DeviceFarm", "open_farm"]

REGION = "us-west-2"  # the only one that Device Farm has
MAX_EVENTS_BYTES = 512 * 1024 * 1024
SPEC = f"""\
version: 0.1
phases:
  test:
    commands:
      - adb -s $DEVICEFARM_DEVICE_UDID shell mkdir -p {ROOT}
      - adb -s $DEVICEFARM_DEVICE_UDID push $DEVICEFARM_TEST_PACKAGE_PATH/parcel.tar {ROOT}/parcel.tar
      - adb -s $DEVICEFARM_DEVICE_UDID push $DEVICEFARM_TEST_PACKAGE_PATH/run.sh {ROOT}/run.sh
      - adb -s $DEVICEFARM_DEVICE_UDID shell sh {ROOT}/run.sh
  post_test:
    commands:
      - adb -s $DEVICEFARM_DEVICE_UDID pull {ROOT}/{EVENTS} $DEVICEFARM_LOG_DIR/{EVENTS}
      - adb -s $DEVICEFARM_DEVICE_UDID shell rm -rf {ROOT}
artifacts:
  - $DEVICEFARM_LOG_DIR
"""


class _FarmSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    project_arn: str
    region: str = REGION
    poll_s: float = Field(default=60.0, gt=0)


class _DeviceSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    device_pool_arn: str
    model: str | None = None
    runner: str | None = None
    timeout_minutes: int = Field(default=150, ge=5, le=150)


class DeviceFarm:
    """One project of Device Farm."""

    def __init__(self, settings: _FarmSettings, service: Any) -> None:
        self._settings = settings
        self._service = service
        self._http = client()
        self.poll_s = settings.poll_s

    def plan(self, work: Work) -> list[str]:
        """What would be uploaded and scheduled."""
        found = _device(work)
        size = sum(entry.bytes for entry in work.artifact.manifest.files)
        return [
            f"upload a test package with {size} bytes of artifact, and a test spec",
            f"schedule the run {work.job_id} on {found.device_pool_arn}, at most {found.timeout_minutes} minutes",
        ]

    def submit(self, work: Work) -> str:
        """The run's ARN; a run of this job's name is taken for this job."""
        found = _device(work)
        known = self._pages("list_runs", "runs", arn=self._settings.project_arn)
        for run in known:
            if run["name"] == work.job_id:
                return str(run["arn"])
        package = self._upload(f"{work.job_id}.zip", "APPIUM_PYTHON_TEST_PACKAGE", _package(work, found.runner))
        spec_file = work.folder / "spec.yml"
        spec_file.write_text(SPEC, encoding="utf-8")
        spec = self._upload(f"{work.job_id}.yml", "APPIUM_PYTHON_TEST_SPEC", spec_file)
        made = self._ask(
            "schedule_run",
            projectArn=self._settings.project_arn,
            devicePoolArn=found.device_pool_arn,
            name=work.job_id,
            test={"type": "APPIUM_PYTHON", "testPackageArn": package, "testSpecArn": spec},
            executionConfiguration={"jobTimeoutMinutes": found.timeout_minutes, "videoCapture": False},
        )
        return str(made["run"]["arn"])

    def poll(self, work: Work, handle: str) -> Poll:
        """How far the run is."""
        del work
        run = self._ask("get_run", arn=handle)["run"]
        if run["status"] != "COMPLETED":
            return Poll(state="running")
        if run["result"] == "STOPPED":
            return Poll(state="failed", reason=f"the run was stopped: {run.get('message', '')}", status="timeout")
        # a failed test may have left whole streams: what is sealed counts
        return Poll(state="done")

    def collect(self, work: Work, handle: str) -> RunRecord:
        """The record of the streams that the run left."""
        artifacts = self._pages("list_artifacts", "artifacts", arn=handle, type="FILE")
        wanted = [each for each in artifacts if each["type"] == "CUSTOMER_ARTIFACT"]
        contents = []
        for number, each in enumerate(wanted):
            contents += _events(download(self._http, each["url"], work.folder / f"artifact-{number}.zip"))
        if not contents:
            raise FarmError(f"{handle}: the run ended without {EVENTS} among {len(wanted)} artifacts", "not_run")
        found = _device(work)
        device = Device(id=device_id(found.device_pool_arn), kind="physical", model=found.model or work.device)
        borrowed = Borrowed(device=device, series="adb-shell", farm="aws", streams=case_streams(contents))
        return record_of(work, borrowed)

    def _upload(self, name: str, kind: str, place: Path) -> str:
        made = self._ask("create_upload", projectArn=self._settings.project_arn, name=name, type=kind)["upload"]
        with place.open("rb") as file:
            send(self._http, "PUT", made["url"], data=file, headers={"Content-Type": "application/octet-stream"})
        return str(self._processed(made["arn"]))

    def _processed(self, arn: str) -> str:
        while (upload := self._ask("get_upload", arn=arn)["upload"])["status"] in ("INITIALIZED", "PROCESSING"):
            time.sleep(min(self.poll_s, 5.0))
        if upload["status"] != "SUCCEEDED":
            raise FarmError(f"{arn}: the farm refused the upload: {upload.get('message', upload['status'])}", "not_run")
        return arn

    def _pages(self, operation: str, key: str, **request: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._ask(operation, **request)
            found += page.get(key, [])
            if not page.get("nextToken"):
                return found
            request["nextToken"] = page["nextToken"]

    def _ask(self, operation: str, **request: Any) -> dict[str, Any]:
        try:
            return dict(getattr(self._service, operation)(**request))
        except (BotoCoreError, ClientError) as error:
            raise FarmError(f"Device Farm, {operation}: {error}") from error


def open_farm(settings: Mapping[str, Any]) -> DeviceFarm:
    """The project of the settings, with boto3's credentials."""
    found = parsed_settings(_FarmSettings, settings, "[farms.aws]")
    limits = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=60)
    return DeviceFarm(found, boto3.client("devicefarm", region_name=found.region, config=limits))


def _device(work: Work) -> _DeviceSettings:
    return parsed_settings(_DeviceSettings, work.settings, f"[devices.{work.device}]")


def _package(work: Work, runner: str | None) -> Path:
    """The parcel dressed as a Python test: the farm looks for tests and requirements, the spec uses neither."""
    parcel, script = write_parcel(work, None if runner is None else Path(runner))
    place = work.folder / "package.zip"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("requirements.txt", "")
        archive.writestr("tests/test_nothing.py", "def test_nothing():\n    pass\n")
        archive.write(script, "run.sh")
        archive.write(parcel, "parcel.tar")
    return place


def _events(place: Path) -> list[bytes]:
    """The event files of an archive from outside: found by their last name, never unpacked to a path."""
    try:
        with zipfile.ZipFile(place) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.rpartition("/")[2] == EVENTS]
            if sum(entry.file_size for entry in entries) > MAX_EVENTS_BYTES:
                raise FarmError(f"{place.name}: more than {MAX_EVENTS_BYTES} bytes of events", "corrupt")
            return [archive.read(entry) for entry in entries]
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise FarmError(f"{place.name}: not an archive that can be read: {error}", "corrupt") from error

"""BrowserStack's REST interface, answered by a server on this machine in the documented form."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.farms import FarmError, browserstack
from tests.benchmarks.farms.conftest import MakeWork
from tests.benchmarks.farms.server import Answer, Asked, Server, serving

BUILD = "741c219db523cb51d4cdf35723ce3bfc592fb74a"
BASIC = "Basic " + base64.b64encode(b"lab:secret").decode()


class Cloud:
    """Uploads, builds and logs as App Automate has them."""

    def __init__(self) -> None:
        self.builds: list[dict[str, Any]] = []
        self.status = "running"
        self.log = b""
        self.url = ""

    def answer(self, asked: Asked) -> Answer:
        path = asked.path.partition("?")[0]
        if path == "/signed/device.log":
            return Answer(content=self.log)
        if asked.authorization != BASIC:
            return Answer(status=401, content={"error": "Unauthorized"})
        if asked.method == "POST" and path in ("/v2/app", "/v2/test-suite"):
            key = "app_url" if path == "/v2/app" else "test_suite_url"
            return Answer(content={key: f"bs://{path[4:]}"})
        if asked.method == "POST" and path == "/v2/build":
            body = json.loads(asked.body)
            self.builds.append({"build_id": BUILD, "build_tag": body["buildTag"]})
            return Answer(content={"message": "Success", "build_id": BUILD})
        if path == "/v2/builds":
            return Answer(content={"builds": self.builds})
        if path == f"/v2/builds/{BUILD}":
            devices = [{"device": "Pixel 8", "sessions": [{"id": "s1", "status": "passed"}]}]
            return Answer(content={"id": BUILD, "status": self.status, "devices": devices})
        if path == f"/v2/builds/{BUILD}/sessions/s1":
            case = {"name": "runs", "device_log": f"{self.url}/signed/device.log"}
            return Answer(content={"id": "s1", "testcases": {"data": [{"testcases": [case]}]}})
        return Answer(status=404, content={"error": path})


@pytest.fixture
def cloud() -> Iterator[tuple[Cloud, Server]]:
    cloud = Cloud()
    with serving(cloud.answer) as server:
        cloud.url = server.url.replace("127.0.0.1", "localhost")  # results lie on another host
        yield cloud, server


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSERSTACK_USERNAME", "lab")
    monkeypatch.setenv("BROWSERSTACK_ACCESS_KEY", "secret")


def farm(server: Server, folder: Path) -> browserstack.AppAutomate:
    for name in ("app.apk", "tests.apk"):
        (folder / name).write_bytes(b"PK")
    apps = {"app": str(folder / "app.apk"), "test_suite": str(folder / "tests.apk")}
    return browserstack.open_farm({**apps, "api": f"{server.url}/v2", "backoff_s": 0, "poll_s": 0.01})


def logged(events: bytes) -> bytes:
    """A device's log in logcat's threadtime form, with other lines between the app's."""
    lines = []
    for line in events.replace(b'"series":"adb-shell"', b'"series":"app"').splitlines():
        lines += [
            b"11-22 02:00:01.123  1234  1250 I qwen-edge: " + line,
            b"11-22 02:00:01.124   900   900 D wifi: noise",
        ]
    return b"\r\n".join(lines)


@pytest.mark.usefixtures("account")
def test_a_job_is_built_once(cloud: tuple[Cloud, Server], make_work: MakeWork, tmp_path: Path) -> None:
    _, server = cloud
    work = make_work(device="Google Pixel 8-14.0")
    assert farm(server, tmp_path).submit(work) == BUILD
    body = json.loads(next(one.body for one in server.asked if one.path == "/v2/build"))
    assert (body["app"], body["testSuite"], body["devices"]) == ("bs://app", "bs://test-suite", ["Google Pixel 8-14.0"])
    assert body["instrumentationOptions"]["artifact"] == work.artifact.manifest.artifact_hash()
    assert farm(server, tmp_path).submit(work) == BUILD
    assert server.paths("POST").count("/v2/build") == 1


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("status", "state", "row"),
    [
        ("queued", "running", "failed"),
        ("running", "running", "failed"),
        ("passed", "done", "failed"),
        ("failed", "done", "failed"),
        ("timedout", "failed", "timeout"),
        ("error", "failed", "failed"),
    ],
)
def test_how_far_a_build_is(
    cloud: tuple[Cloud, Server], make_work: MakeWork, tmp_path: Path, status: str, state: str, row: str
) -> None:
    cloud[0].status = status
    poll = farm(cloud[1], tmp_path).poll(make_work(), BUILD)
    assert (poll.state, poll.status) == (state, row)


@pytest.mark.usefixtures("account")
def test_a_log_that_lost_a_line_is_corrupt(
    cloud: tuple[Cloud, Server], make_work: MakeWork, tmp_path: Path, events: bytes
) -> None:
    # the app's series is written before the stream is sealed; changed here afterwards, the seal no longer holds
    cloud[0].log = logged(events)
    made = farm(cloud[1], tmp_path).collect(make_work(device="Google Pixel 8-14.0"), BUILD)
    assert [case.status for case in made.cases] == ["corrupt", "corrupt"]
    assert (made.series, made.farm) == ("app", "browserstack")
    fetched = [one for one in cloud[1].asked if one.path == "/signed/device.log"]
    assert [one.authorization for one in fetched] == [None]  # the credentials stay with the farm


@pytest.mark.usefixtures("account")
def test_the_event_lines_of_a_log_are_the_stream(events: bytes) -> None:
    plain = b"".join(b"I/qwen-edge( 1234): " + line + b"\n" for line in events.splitlines())
    assert browserstack.log_lines(plain) == events
    assert browserstack.log_lines(b"I/other( 1): {}\nqwen-edge nothing\n") == b""


@pytest.mark.usefixtures("account")
def test_a_log_without_a_stream_is_named(cloud: tuple[Cloud, Server], make_work: MakeWork, tmp_path: Path) -> None:
    with pytest.raises(FarmError, match="1 device logs hold no whole stream"):
        farm(cloud[1], tmp_path).collect(make_work(device="Google Pixel 8-14.0"), BUILD)


@pytest.mark.usefixtures("account")
def test_an_app_that_was_not_built_is_named(cloud: tuple[Cloud, Server], make_work: MakeWork, tmp_path: Path) -> None:
    lab = farm(cloud[1], tmp_path)
    (tmp_path / "app.apk").unlink()
    with pytest.raises(FarmError, match="build the demo app first"):
        lab.submit(make_work(device="Google Pixel 8-14.0"))


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROWSERSTACK_USERNAME", raising=False)
    monkeypatch.setenv("BROWSERSTACK_ACCESS_KEY", "secret")
    with pytest.raises(FarmError, match="BROWSERSTACK_USERNAME not set"):
        browserstack.open_farm({"app": "a", "test_suite": "b"})

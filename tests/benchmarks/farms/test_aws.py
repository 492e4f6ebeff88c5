"""AWS Device Farm against botocore's own model of the service, with real uploads to a server on this machine."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.stub import ANY, Stubber

from benchmarks.farms import FarmError, aws, parsed_settings
from benchmarks.farms.parcel import ROOT
from tests.benchmarks.farms.conftest import MakeWork
from tests.benchmarks.farms.server import Answer, Server, serving

ARN = "arn:aws:devicefarm:us-west-2:123456789012"
PROJECT, POOL, RUN = (
    f"{ARN}:project:p-0000000000000000",
    f"{ARN}:devicepool:d-0000000000000000",
    f"{ARN}:run:r-00000000000000",
)
UPLOADS = (f"{ARN}:upload:u-package-0000000000000", f"{ARN}:upload:u-spec-000000000000000")


@pytest.fixture
def stub() -> Iterator[Stubber]:
    service = boto3.client(
        "devicefarm", region_name="us-west-2", aws_access_key_id="none", aws_secret_access_key="none"
    )
    with Stubber(service) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.fixture
def storage() -> Iterator[Server]:
    held: dict[str, bytes] = {}

    def answer(asked: Any) -> Answer:
        if asked.method == "PUT":
            held[asked.path] = asked.body
            return Answer()
        return Answer(content=held[asked.path])

    with serving(answer) as server:
        server.held = held  # type: ignore[attr-defined]
        yield server


def farm(stub: Stubber) -> aws.DeviceFarm:
    settings = parsed_settings(aws._FarmSettings, {"project_arn": PROJECT, "poll_s": 0.01}, "[farms.aws]")
    return aws.DeviceFarm(settings, stub.client)


def expect_upload(stub: Stubber, storage: Server, arn: str, kind: str, states: list[str]) -> None:
    made = {"upload": {"arn": arn, "url": f"{storage.url}/{kind}", "status": "INITIALIZED"}}
    stub.add_response("create_upload", made, {"projectArn": PROJECT, "name": ANY, "type": kind})
    for state in states:
        stub.add_response("get_upload", {"upload": {"arn": arn, "status": state, "message": "said"}}, {"arn": arn})


def test_a_job_is_uploaded_and_scheduled_once(
    stub: Stubber, storage: Server, make_work: MakeWork, host_runner: Path
) -> None:
    work = make_work(device_pool_arn=POOL, runner=str(host_runner))
    other = {"arn": RUN, "name": "another job"}
    stub.add_response("list_runs", {"runs": [other], "nextToken": "more"}, {"arn": PROJECT})
    stub.add_response("list_runs", {"runs": []}, {"arn": PROJECT, "nextToken": "more"})
    expect_upload(stub, storage, UPLOADS[0], "APPIUM_PYTHON_TEST_PACKAGE", ["PROCESSING", "SUCCEEDED"])
    expect_upload(stub, storage, UPLOADS[1], "APPIUM_PYTHON_TEST_SPEC", ["SUCCEEDED"])
    stub.add_response(
        "schedule_run",
        {"run": {"arn": RUN, "name": work.job_id}},
        {
            "projectArn": PROJECT,
            "devicePoolArn": POOL,
            "name": work.job_id,
            "test": {"type": "APPIUM_PYTHON", "testPackageArn": UPLOADS[0], "testSpecArn": UPLOADS[1]},
            "executionConfiguration": {"jobTimeoutMinutes": 150, "videoCapture": False},
        },
    )
    assert farm(stub).submit(work) == RUN
    held = storage.held  # type: ignore[attr-defined]
    with zipfile.ZipFile(io.BytesIO(held["/APPIUM_PYTHON_TEST_PACKAGE"])) as package:
        assert set(package.namelist()) == {"requirements.txt", "tests/test_nothing.py", "run.sh", "parcel.tar"}
    commands = yaml.safe_load(held["/APPIUM_PYTHON_TEST_SPEC"])["phases"]["test"]["commands"]
    assert commands[-1] == f"adb -s $DEVICEFARM_DEVICE_UDID shell sh {ROOT}/run.sh"
    # a crash before the answer was noted: the job is found, not started again
    stub.add_response("list_runs", {"runs": [{"arn": RUN, "name": work.job_id}]}, {"arn": PROJECT})
    assert farm(stub).submit(work) == RUN


@pytest.mark.parametrize(
    ("status", "result", "state"),
    [
        ("PENDING_DEVICE", "PENDING", "running"),
        ("RUNNING", "PENDING", "running"),
        ("COMPLETED", "PASSED", "done"),
        ("COMPLETED", "FAILED", "done"),
        ("COMPLETED", "STOPPED", "failed"),
    ],
)
def test_how_far_a_run_is(stub: Stubber, make_work: MakeWork, status: str, result: str, state: str) -> None:
    stub.add_response("get_run", {"run": {"arn": RUN, "status": status, "result": result}}, {"arn": RUN})
    assert farm(stub).poll(make_work(), RUN).state == state


def test_the_streams_of_a_run_become_a_record(
    stub: Stubber, storage: Server, make_work: MakeWork, events: bytes
) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("Host_Machine_Files/$DEVICEFARM_LOG_DIR/events.jsonl", events)
        archive.writestr("../../escape.txt", "never unpacked")
    storage.held["/customer"] = content.getvalue()  # type: ignore[attr-defined]
    listed = [
        {"arn": f"{RUN}-1", "type": "CUSTOMER_ARTIFACT", "url": f"{storage.url}/customer"},
        {"arn": f"{RUN}-2", "type": "DEVICE_LOG", "url": f"{storage.url}/never-asked-for"},
    ]
    stub.add_response("list_artifacts", {"artifacts": listed}, {"arn": RUN, "type": "FILE"})
    work = make_work(device_pool_arn=POOL, model="Galaxy S24")
    made = farm(stub).collect(work, RUN)
    assert [case.status for case in made.cases] == ["ok", "ok"]
    assert (made.device.kind, made.device.model, made.farm) == ("physical", "Galaxy S24", "aws")
    assert not list(work.folder.parent.rglob("escape.txt"))


def test_a_run_that_left_nothing_is_named(stub: Stubber, make_work: MakeWork) -> None:
    stub.add_response("list_artifacts", {"artifacts": []}, {"arn": RUN, "type": "FILE"})
    with pytest.raises(FarmError, match="without events.jsonl") as raised:
        farm(stub).collect(make_work(device_pool_arn=POOL), RUN)
    assert raised.value.status == "not_run"


def test_a_refused_upload_is_named(stub: Stubber, storage: Server, make_work: MakeWork, host_runner: Path) -> None:
    stub.add_response("list_runs", {"runs": []}, {"arn": PROJECT})
    expect_upload(stub, storage, UPLOADS[0], "APPIUM_PYTHON_TEST_PACKAGE", ["FAILED"])
    with pytest.raises(FarmError, match="refused the upload: said"):
        farm(stub).submit(make_work(device_pool_arn=POOL, runner=str(host_runner)))


def test_what_the_service_refuses_is_named(stub: Stubber, make_work: MakeWork) -> None:
    stub.add_client_error("get_run", "NotFoundException", "no such run")
    with pytest.raises(FarmError, match=r"get_run.*no such run"):
        farm(stub).poll(make_work(), RUN)


def test_settings_that_are_missing_or_misspelt_are_named() -> None:
    with pytest.raises(FarmError, match=r"\[farms.aws\]: project_arn"):
        aws.open_farm({})
    with pytest.raises(FarmError, match="project: Extra inputs"):
        aws.open_farm({"project_arn": PROJECT, "project": "p"})

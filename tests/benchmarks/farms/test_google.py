"""Device Run by gcloud: a recorder stands in for the program; what is ours is the command line and its reading."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.farms import FarmError, google
from benchmarks.farms.parcel import ROOT
from tests.benchmarks.farms.conftest import MakeWork

SESSION = "session-370961e1"


@pytest.fixture
def gcloud(tmp_path: Path) -> Path:
    """A program that notes its words and says what `said.json` has for the first of them that it knows."""
    place = tmp_path / "gcloud"
    place.write_text(f"""#!{sys.executable}
import json, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
with (here / "words.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
said = json.loads((here / "said.json").read_text())
if "cp" in sys.argv and (here / "events.jsonl").exists():
    shutil.copy(here / "events.jsonl", sys.argv[-1])
key = next((word for word in ("submit", "list", "describe", "cp") if word in sys.argv), "")
told = said.get(key, "")
if told.startswith("!"):
    sys.exit(told[1:])
sys.stderr.write(told)
""")
    place.chmod(0o755)
    return place


def say(gcloud: Path, **said: str) -> None:
    (gcloud.parent / "said.json").write_text(json.dumps(said))


def words(gcloud: Path) -> list[list[str]]:
    return [json.loads(line) for line in (gcloud.parent / "words.jsonl").read_text().splitlines()]


def farm(gcloud: Path) -> google.DeviceRun:
    return google.open_farm({"project": "lab", "bucket": "lab-results", "program": str(gcloud), "poll_s": 0.01})


def test_a_job_is_submitted_with_its_parcel_and_label(gcloud: Path, make_work: MakeWork, host_runner: Path) -> None:
    work = make_work(model="shiba", version="34", runner=str(host_runner))
    say(gcloud, submit=f"Created [projects/lab/locations/global/sessions/{SESSION}].\n")
    assert farm(gcloud).submit(work) == SESSION
    listed, submitted = words(gcloud)
    assert listed[:4] == ["beta", "device-run", "sessions", "list"]
    assert submitted[:5] == ["beta", "device-run", "sessions", "submit", "android-executable"]
    flags = dict(word.split("=", 1) for word in submitted[5:] if "=" in word)
    assert flags["--device"] == "shiba-34"
    assert flags["--executable"] == str(work.folder / "run.sh")
    assert flags["--other-files-to-push"] == f"{work.folder / 'parcel.tar'}={ROOT}/parcel.tar"
    assert flags["--paths-to-pull"] == f"{ROOT}/events.jsonl"
    assert "--async" in submitted
    label = flags["--labels"]
    assert f"--filter=labels.{label}" in listed
    assert (work.folder / "parcel.tar").is_file()


def test_a_job_that_runs_already_is_found(gcloud: Path, make_work: MakeWork) -> None:
    say(gcloud, list=f"projects/lab/locations/global/sessions/{SESSION}\n")
    assert farm(gcloud).submit(make_work(model="shiba", version="34")) == SESSION
    assert len(words(gcloud)) == 1


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("Session is RUNNING", "running"),
        ("Session s finished with result [PASSED].", "done"),
        ("Session s finished with result [FAILED].", "done"),
        ("Session s finished with result [CANCELLED].", "failed"),
    ],
)
def test_how_far_a_session_is(gcloud: Path, make_work: MakeWork, said: str, state: str) -> None:
    say(gcloud, describe=said)
    assert farm(gcloud).poll(make_work(), SESSION).state == state


def test_the_streams_in_the_bucket_become_a_record(gcloud: Path, make_work: MakeWork, events: bytes) -> None:
    (gcloud.parent / "events.jsonl").write_bytes(events)
    say(gcloud)
    made = farm(gcloud).collect(make_work(model="shiba", version="34"), SESSION)
    assert [case.status for case in made.cases] == ["ok", "ok"]
    assert (made.device.model, made.farm) == ("shiba", "google")
    assert words(gcloud)[0][2] == f"gs://lab-results/automation/sessions/{SESSION}/**/events.jsonl"


def test_what_gcloud_says_when_it_fails_is_the_reason(gcloud: Path, make_work: MakeWork) -> None:
    say(gcloud, describe="!ERROR: (gcloud.beta) Invalid choice: 'device-run'.")
    with pytest.raises(FarmError, match="ended with status 1: ERROR.*Invalid choice"):
        farm(gcloud).poll(make_work(), SESSION)


def test_a_machine_without_gcloud_is_told_what_to_install(make_work: MakeWork, tmp_path: Path) -> None:
    farm = google.open_farm({"project": "lab", "bucket": "b", "program": str(tmp_path / "none")})
    with pytest.raises(FarmError, match="install the Google Cloud CLI") as raised:
        farm.poll(make_work(), SESSION)
    assert raised.value.status == "not_run"


@pytest.mark.parametrize("model", ["shiba,tokay", "--async", "a b"])
def test_a_setting_cannot_become_another_flag(gcloud: Path, make_work: MakeWork, model: str) -> None:
    with pytest.raises(FarmError, match="model: String should match"):
        farm(gcloud).submit(make_work(model=model, version="34"))

"""A whole night over the real driver of Device Run, whose program is played by one that runs the parcel here."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nightly import exports
from benchmarks.nightly.config import NightlyConfig
from benchmarks.nightly.ledger import JobState, Ledger, NightRunningError
from benchmarks.nightly.night import Night, run_night
from benchmarks.nightly.plan import ExportJob, Job, plan
from benchmarks.store import RecordStore, open_store
from runtimes.artifact import Artifact
from tests.benchmarks.farms.conftest import host_runner, tiny

__all__ = ["host_runner", "tiny"]  # fixtures

SESSION = "session-0a1b2c3d"
DEVICE_RUN = """#!{python}
import json, pathlib, shutil, subprocess, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
with (here / "words.jsonl").open("a") as file:
    file.write(json.dumps(words) + "\\n")
flags = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
if "submit" in words:
    if (here / "broken").exists():
        sys.exit("ERROR: quota exceeded")
    phone = here / "phone"
    phone.mkdir(exist_ok=True)
    shutil.copy(flags["--other-files-to-push"].split("=")[0], phone / "parcel.tar")
    environment = {{"QWEN_EDGE_ROOT": str(phone), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}}
    subprocess.run(["sh", flags["--executable"]], env=environment, check=True, stdout=sys.stderr)
    print("Created [projects/p/locations/global/sessions/{session}].")
elif "describe" in words:
    print("Session {session} finished with result [PASSED].")
elif "cp" in words:
    shutil.copy(here / "phone" / "events.jsonl", words[-1])
"""


@dataclass(kw_only=True)
class Lab:
    """A night's surroundings."""

    folder: Path
    artifact: Artifact
    runner: Path
    store: RecordStore
    said: list[str] = field(default_factory=list)
    failing: str | None = None

    def config(self, **devices: dict[str, Any]) -> NightlyConfig:
        program = str(self.folder / "gcloud")
        phone = {"farm": "google", "model": "shiba", "version": "34", "runner": str(self.runner)}
        found = devices or {"phone": phone}
        return NightlyConfig.model_validate(
            {
                "protocol": {"prompt_tokens": [6], "new_tokens": 4, "repeats": 1, "cold": 1, "settle_s": 0},
                "matrix": [
                    {"models": ["tiny"], "backends": ["onnx"], "schemes": ["int4"], "devices": sorted(found)},
                ],
                "devices": found,
                "farms": {"google": {"project": "p", "bucket": "b", "program": program, "poll_s": 0.01}},
            }
        )

    def run(self, config: NightlyConfig, **changes: Any) -> list[JobState]:
        return run_night(self.night(config, **changes), plan(config, "n1"))

    def night(self, config: NightlyConfig, **changes: Any) -> Night:
        settings: dict[str, Any] = {"store": self.store, "store_url": None, "root": self.folder / "nightly"}
        return Night(config=config, say=self.said.append, export=self.export, **{**settings, **changes})

    def export(self, job: ExportJob, _root: Path, _say: Callable[[str], None]) -> Mapping[str, Artifact | str]:
        return dict.fromkeys(job.backends, self.failing or self.artifact)

    def commands(self) -> list[str]:
        place = self.folder / "words.jsonl"
        lines = place.read_text().splitlines() if place.exists() else []
        known = ("submit", "list", "describe", "cp")
        return [next(word for word in json.loads(line) if word in known) for line in lines]


@pytest.fixture
def lab(tmp_path: Path, tiny: Artifact, host_runner: Path) -> Any:
    program = tmp_path / "gcloud"
    program.write_text(DEVICE_RUN.format(python=sys.executable, session=SESSION))
    program.chmod(0o755)
    with open_store(str(tmp_path / "results.sqlite")) as store:
        yield Lab(folder=tmp_path, artifact=tiny, runner=host_runner, store=store)


def test_a_night_ends_with_valid_rows_in_the_store_and_is_not_run_twice(lab: Lab) -> None:
    (state,) = lab.run(lab.config())
    assert state.state == "done", state.reason
    (made,) = lab.store.runs()
    assert made.run_id == state.run_id
    assert {case.case_id: case.status for case in made.cases} == {"cold-1": "ok", "warm-p6": "ok", "memory-p6": "ok"}
    assert all(case.parity is not None and case.parity.first_difference is None for case in made.cases)
    assert (made.farm, made.session_id, made.validity.valid) == ("google", "n1-phone", True)
    done = lab.commands()
    assert done.count("submit") == 1
    assert lab.run(lab.config()) == [state]
    assert lab.commands() == done


def test_a_job_that_was_submitted_before_a_crash_is_collected_not_submitted_again(lab: Lab) -> None:
    config = lab.config()
    (job,) = plan(config, "n1")
    assert lab.run(config)[0].state == "done"
    ledger = Ledger(lab.folder / "nightly" / "n1")
    ledger.write(JobState(job_id=job.job_id, state="submitted", handle=SESSION))
    (state,) = lab.run(config)
    assert state.state == "done"
    assert lab.commands().count("submit") == 1


def test_what_a_farm_refuses_is_rows_with_the_reason_and_the_others_go_on(lab: Lab) -> None:
    phone = {"farm": "google", "model": "shiba", "version": "34", "runner": str(lab.runner)}
    states = lab.run(lab.config(phone=phone, typo={"farm": "google", "modle": "x"}, nowhere={"farm": "mars"}))
    found = {state.job_id.split("-")[1]: state for state in states}
    assert found["phone"].state == "done"
    assert found["typo"].cases == {"not_run": 3}
    assert "model: Field required" in found["typo"].reason
    assert "unknown farm 'mars'" in found["nowhere"].reason
    assert len(list(lab.store.runs())) == 3


def test_a_farm_that_fails_is_told_in_the_store(lab: Lab) -> None:
    (lab.folder / "broken").touch()
    (state,) = lab.run(lab.config())
    assert (state.state, state.cases) == ("failed", {"failed": 3})
    (made,) = lab.store.runs()
    assert all("quota exceeded" in (case.reason or "") for case in made.cases)


def test_a_farm_that_takes_too_long_is_a_timeout(lab: Lab) -> None:
    (lab.folder / "gcloud").write_text(f"#!/bin/sh\necho sessions/{SESSION}\n")
    (state,) = lab.run(lab.config(), limit_s=0.0)
    assert state.cases == {"timeout": 3}


def test_an_export_that_fails_is_said_and_nothing_is_sent(lab: Lab) -> None:
    lab.failing = "the export ended with status 1: error: no room"
    (state,) = lab.run(lab.config())
    assert (state.state, state.reason, state.cases) == ("failed", lab.failing, {})
    assert lab.commands() == []


def test_one_night_runs_in_one_process_only(lab: Lab) -> None:
    config = lab.config()
    with Ledger(lab.folder / "nightly" / "n1").held(), pytest.raises(NightRunningError, match="another process"):
        lab.run(config)


@pytest.mark.parametrize("content", [b"", b"{", b'{"job_id":"j","state":"eaten"}', b"\xff"])
def test_a_state_that_cannot_be_read_is_one_that_never_was(tmp_path: Path, content: bytes) -> None:
    ledger = Ledger(tmp_path)
    (ledger.folder("j") / "state.json").write_bytes(content)
    assert ledger.read("j") == JobState(job_id="j")


def export_job() -> Job:
    whole = {
        "protocol": {"prompt_tokens": [16]},
        "matrix": [{"models": ["none-such"], "backends": ["onnx"], "schemes": ["int4"], "devices": ["a"]}],
        "devices": {"a": {"farm": "local", "device": "host"}},
    }
    return plan(NightlyConfig.model_validate(whole), "n")[0]


def test_the_exporters_own_words_are_the_reason(tmp_path: Path) -> None:
    """The real exporter, asked for a model that it doesn't know."""
    said: list[str] = []
    (reason,) = exports.make_bundle(export_job().export, tmp_path, said.append).values()
    assert isinstance(reason, str)
    assert [": exporting, " in line for line in said] == [True]
    assert "ended with status" in reason
    assert "none-such" in reason


@pytest.fixture
def bundle(tmp_path: Path, tiny: Artifact) -> tuple[ExportJob, Path]:
    """A bundle that lies where an earlier night left it, with its note."""
    backend = tiny.manifest.backend
    job = ExportJob(model="m", checkpoint=None, target="android", scheme="s", method=None, backends=(backend,))
    shutil.copytree(tiny.path, tmp_path / job.name / backend)
    note = {"sources": "abc", "artifacts": {backend: tiny.manifest.artifact_hash()}}
    (tmp_path / job.name / exports.NOTE).write_text(json.dumps(note))
    return job, tmp_path


def damage(place: Path) -> None:
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "sources", "why"),
    [
        (lambda _: None, "abc", None),
        (lambda _: None, "other sources", "sources have changed"),
        (lambda _: None, None, "not committed"),
        (lambda place: damage(next(place.rglob("*.onnx"))), "abc", "was altered"),
        (lambda place: next(place.rglob("manifest.json")).unlink(), "abc", "not those that were noted"),
        (lambda place: (place / exports.NOTE).unlink(), "abc", "for the first time"),
    ],
    ids=["nothing changed", "sources changed", "sources unknown", "a file damaged", "no manifest", "no note"],
)
def test_a_bundle_is_used_again_only_where_nothing_changed(
    bundle: tuple[ExportJob, Path], change: Callable[[Path], object], sources: str | None, why: str | None
) -> None:
    job, root = bundle
    change(root / job.name)
    kept = exports._kept(job, root / job.name, sources)
    assert (why is None) == isinstance(kept, dict)
    assert why is None or why in str(kept)


def test_a_bundle_that_is_used_again_is_not_called_exported(bundle: tuple[ExportJob, Path]) -> None:
    job, root = bundle
    said: list[str] = []
    made = exports.make_bundle(job, root, said.append, hashed=lambda: "abc")
    assert [type(found) for found in made.values()] == [Artifact]
    assert said == [f"{job.name}: used again, nothing it was made from has changed"]

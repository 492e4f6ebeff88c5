"""What travels to a phone, run here as a phone would run it; what comes back becomes a record."""

import hashlib
from pathlib import Path

import pytest

from benchmarks.devices import NotRunError
from benchmarks.farms.collected import Borrowed, case_streams, failed_record, record_of
from benchmarks.farms.parcel import write_parcel
from benchmarks.record import Device
from tests.benchmarks.farms.conftest import MakeWork

PHONE = Device(id="0123456789abcdef", kind="physical", model="a phone")


def borrowed(streams: dict[str, bytes]) -> Borrowed:
    return Borrowed(device=PHONE, series="adb-shell", farm="google", streams=streams)


def test_streams_that_came_back_are_a_whole_record(events: bytes, make_work: MakeWork) -> None:
    work = make_work()
    made = record_of(work, borrowed(case_streams([events])))
    assert [(case.case_id, case.status) for case in made.cases] == [("warm-1", "ok"), ("warm-2", "ok")]
    assert all(case.parity is not None and case.parity.first_difference is None for case in made.cases)
    assert all((case.metrics["decode_tok_s"].value or 0) > 0 for case in made.cases)
    assert (made.farm, made.protocol, made.session_id) == ("google", work.protocol, work.session_id)


def test_a_stream_that_was_cut_is_a_row_and_the_others_stay(events: bytes, make_work: MakeWork) -> None:
    lines = events.splitlines(keepends=True)
    seals = [place for place, line in enumerate(lines) if b'"event":"end"' in line]
    del lines[seals[0] - 3]
    made = record_of(make_work(), borrowed(case_streams([b"".join(lines)])))
    assert [case.status for case in made.cases] == ["corrupt", "ok"]
    del lines[seals[0] - 1 :]
    made = record_of(make_work(), borrowed(case_streams([b"".join(lines)])))
    assert [case.status for case in made.cases] == ["not_run", "not_run"]
    assert "handed back no stream" in (made.cases[0].reason or "")


@pytest.mark.parametrize(
    "noise", [b"\x00\xff not utf-8\n", b'{"event":"end"}\n', b"[[[[" * 1000 + b"\n", b'"stream"\n']
)
def test_noise_around_streams_changes_nothing(noise: bytes, events: bytes) -> None:
    assert case_streams([noise + events + noise]) == case_streams([events])


def test_a_job_of_which_nothing_came_back_is_rows_with_its_reason(make_work: MakeWork) -> None:
    made = failed_record(make_work(), borrowed({}), "timeout", "the farm was not done in time")
    assert {(case.status, case.reason) for case in made.cases} == {("timeout", "the farm was not done in time")}
    assert made.farm == "google"


def test_the_same_job_is_the_same_parcel(make_work: MakeWork, host_runner: Path) -> None:
    def digest() -> str:
        return hashlib.sha256(write_parcel(make_work(), host_runner)[0].read_bytes()).hexdigest()

    assert digest() == digest()


def test_a_runner_that_was_not_built_is_said_before_anything_is_sent(make_work: MakeWork, tmp_path: Path) -> None:
    with pytest.raises(NotRunError, match="build it as"):
        write_parcel(make_work(), tmp_path / "nothing")

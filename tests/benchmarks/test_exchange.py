"""What others read: columns of PyTorch's table, CSV that a spreadsheet does not compute, and the store's command."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.exchange import CSV_COLUMNS, oss_v3_rows, write_csv
from benchmarks.record import CaseRecord, Metric, Validity, read_record
from benchmarks.store import open_store
from tests.benchmarks.records import DEVICE, run_record, warm_case

TEXTS = "Map(String, String)"
# the columns of oss_ci_benchmark_v3 (pytorch/test-infra, clickhouse_db_schema/oss_ci_benchmark_v3/schema.sql), less
# those that the uploader fills
TABLE: dict[str, Any] = {
    "timestamp": int,
    "schema_version": str,
    "name": str,
    "repo": str,
    "head_branch": str,
    "head_sha": str,
    "workflow_id": int,
    "run_attempt": int,
    "job_id": int,
    "runners": [
        {
            "name": str,
            "type": str,
            "cpu_info": str,
            "cpu_count": int,
            "mem_info": str,
            "avail_mem_in_gb": int,
            "gpu_info": str,
            "gpu_count": int,
            "gpu_mem_info": str,
            "avail_gpu_mem_in_gb": int,
            "extra_info": TEXTS,
        }
    ],
    "benchmark": {"name": str, "mode": str, "dtype": str, "extra_info": TEXTS},
    "model": {"name": str, "type": str, "backend": str, "origins": [str], "extra_info": TEXTS},
    "inputs": {None: {"dtype": str, "extra_info": TEXTS}},
    "dependencies": {None: {"repo": str, "branch": str, "sha": str, "version": str, "extra_info": TEXTS}},
    "metric": {"name": str, "benchmark_values": [float], "target_value": float, "extra_info": TEXTS},
}


def fits(value: Any, column: Any) -> bool:
    if column is TEXTS:
        return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
    if isinstance(column, list):
        return isinstance(value, list) and all(fits(one, column[0]) for one in value)
    if isinstance(column, dict) and None in column:
        return isinstance(value, dict) and all(fits(one, column[None]) for one in value.values())
    if isinstance(column, dict):
        return isinstance(value, dict) and set(value) == set(column) and all(fits(value[k], column[k]) for k in column)
    return type(value) is column


def test_rows_have_the_columns_of_pytorchs_table() -> None:
    rows = [json.loads(json.dumps(row)) for row in oss_v3_rows(run_record(1), repo="a/b")]
    assert {row["metric"]["name"] for row in rows} >= {"ttft_ms", "decode_tok_s"}
    for row in rows:
        assert fits(row, TABLE), row
    values = {row["metric"]["name"]: row["metric"]["benchmark_values"] for row in rows}
    assert values["decode_tok_s"] == [50]
    assert rows[0]["runners"][0]["type"] == "Pixel 9"


def test_each_row_comes_from_the_pass_that_measured_it() -> None:
    warm = warm_case()
    sampled = {**warm.metrics, "steady_pss_bytes": Metric(value=4e6)}
    memory = warm.model_copy(update={"case_id": "memory-p8", "metrics": sampled})
    found: dict[str, set[str]] = {}
    for row in oss_v3_rows(run_record(1, warm, memory)):
        found.setdefault(row["metric"]["extra_info"]["case"], set()).add(row["metric"]["name"])
    assert found["memory-p8"] == {"peak_pss_bytes", "steady_pss_bytes"}
    assert "decode_tok_s" in found["warm-p8"]
    assert "peak_pss_bytes" not in found["warm-p8"], "two samples, at its start and its end, are no peak"


def test_nulls_and_what_is_not_valid_stay_out_of_pytorchs_table() -> None:
    assert all(row["metric"]["name"] != "sustained_tok_s" for row in oss_v3_rows(run_record(1)))
    assert not list(oss_v3_rows(run_record(1, validity=Validity(valid=False, violations=("plugged",)))))
    assert not list(oss_v3_rows(run_record(1, device=DEVICE.model_copy(update={"kind": "vm"}))))
    assert not list(oss_v3_rows(run_record(1, CaseRecord(case_id="a", kind="warm", status="oom", reason="lmkd"))))


def lines_of(*records: Any) -> list[dict[str, str]]:
    file = io.StringIO()
    count = write_csv(records, file)
    file.seek(0)
    lines = list(csv.DictReader(file))
    assert len(lines) == count
    return lines


def test_csv_has_values_nulls_with_reasons_and_failures() -> None:
    lost = CaseRecord(case_id="cold-1", kind="cold", status="lost_device", reason="adb, then nothing")
    lines = lines_of(run_record(1, warm_case(), lost))
    found = {(line["case_id"], line["metric"]): line for line in lines}
    assert tuple(lines[0]) == CSV_COLUMNS
    assert float(found["warm-p8", "decode_tok_s"]["value"]) == 50
    assert found["warm-p8", "sustained_tok_s"]["value"] == ""
    assert "is not sustained" in found["warm-p8", "sustained_tok_s"]["reason"]
    assert found["cold-1", ""]["status"] == "lost_device"
    assert found["cold-1", ""]["case_reason"] == "adb, then nothing"


@pytest.mark.parametrize("hostile", ['=HYPERLINK("http://x","y")', "+1", "-1+1", "@SUM(A1)", 'a,b"c'])
def test_a_spreadsheet_computes_nothing_that_a_phone_said(hostile: str) -> None:
    device = DEVICE.model_copy(update={"model": hostile})
    [shown] = {line["device_model"] for line in lines_of(run_record(1, device=device))}
    assert shown.lstrip("'") == hostile
    assert not shown.startswith(("=", "+", "-", "@"))


def test_numbers_keep_their_sign() -> None:
    case = warm_case(metrics={"peak_temperature_c": Metric(value=-5.5)})
    assert lines_of(run_record(1, case))[0]["value"] == "-5.5"


def test_the_command_adds_lists_shows_exports_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--store", str(tmp_path / "results.sqlite")]
    file = tmp_path / "farm.jsonl"
    file.write_text("".join(f"{run_record(number).model_dump_json()}\n" for number in range(3)))

    def run(*words: str, status: int = 0) -> str:
        assert main(["store", *words, *place]) == status
        return capsys.readouterr().out

    assert "3 new runs" in run("add", str(file))
    assert "0 new runs" in run("add", str(file))
    assert "run-0002" in run("list")
    assert len(run("list", "--json").splitlines()) == 3
    assert read_record(run("show", "run-0001")) == run_record(1)
    assert [read_record(line) for line in run("export", "--format", "jsonl").splitlines()] == [
        run_record(number) for number in range(3)
    ]
    assert run("export").startswith("run_id,session_id")
    assert all(json.loads(line)["schema_version"] == "v3" for line in run("export", "--format", "oss-v3").splitlines())
    assert "3 runs, 0 problems" in run("check")


def test_metrics_that_their_events_do_not_give_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "results.sqlite")
    wrong = warm_case(metrics={**warm_case().metrics, "ttft_ms": Metric(value=1)})
    with open_store(place) as store:
        store.append(run_record(1, wrong))
    assert main(["store", "check", "--store", place]) == 1
    assert "case 'warm-p8': its events now give other ttft_ms" in capsys.readouterr().err


def test_an_unknown_run_is_one_line_and_status_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "show", "nobody", "--store", str(tmp_path / "results.sqlite")]) == 1
    assert "has no run 'nobody'" in capsys.readouterr().err


def test_the_schema_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "RunRecord"


def test_what_somebody_elses_record_holds_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CaseRecord(case_id="a", kind="warm", status="corrupt", reason="noise", events=("\x9b2J\x1b[31m\u202e",))
    place = str(tmp_path / "results.sqlite")
    with open_store(place) as store:
        store.append(run_record(1, case))
    assert main(["store", "show", "run-0001", "--store", place]) == 0
    printed = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in printed)

"""From a protocol to cases, and the tools around a phone."""

import json
import stat
import sys
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.android.adb import adb_version, bundled_adb
from benchmarks.capped import OutputTooLargeError, ProgramTimeoutError, run_capped
from benchmarks.cases import MAX_CASES_BYTES, read_cases, write_cases
from benchmarks.devices import DeviceError, NotRunError
from benchmarks.errors import BenchmarkError
from benchmarks.ios.commands import Phone
from benchmarks.oracle import Answer, Oracle, compare_tokens
from benchmarks.phone_runner import runner_files
from benchmarks.protocol import case_timeout_s, plan_cases
from benchmarks.workload import Prompt, Workload
from tests.benchmarks.device_runs import protocol, warm_case

SHORT, LONG = Prompt(text="a b", ids=[1, 2]), Prompt(text="a b c d", ids=[1, 2, 3, 4])
WORKLOAD = Workload(warm_up=SHORT, prompts=[SHORT, LONG], decode_tokens=12, context_length=64)


def plan(**details: float) -> list[str]:
    asked: record.Protocol = protocol(sustained_s=details.pop("sustained_s", 0), sample_hz=1, details=details)
    return [file.cases[0].case for file in plan_cases(asked, WORKLOAD)]


def test_cold_comes_first_and_what_heats_comes_last() -> None:
    expected = ["cold-1", "cold-2", "warm-p2", "warm-p4", "memory-p4", "energy-p4", "sustained-p4"]
    assert plan(cold_loads=2, energy_s=60, sustained_s=600) == expected


def test_nothing_is_planned_that_nobody_asked_for() -> None:
    assert plan() == ["warm-p2", "warm-p4", "memory-p4"]


def test_timed_cases_are_not_sampled() -> None:
    cases = [file.cases[0] for file in plan_cases(protocol(sample_hz=1), WORKLOAD)]
    assert all(case.sample_interval_ms is None for case in cases if case.case.startswith("warm"))


def test_what_is_asked_to_last_is_added_to_the_limit() -> None:
    asked = protocol(sustained_s=600, timeout_s=60, sample_hz=1)
    assert case_timeout_s(asked, plan_cases(asked, WORKLOAD)[-1]) == 660


def test_cases_survive_writing_and_reading(tmp_path: Path) -> None:
    write_cases(warm_case(), tmp_path / "cases.json")
    assert read_cases(tmp_path / "cases.json") == warm_case()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "JSON"),
        ('{"version":2,"cases":[]}', "version"),
        (warm_case().model_dump_json().replace('"warm"', '"../up"', 1), "case"),
        ('{"cases":[],"surprise":1}', "cases|surprise"),
        (" " * (MAX_CASES_BYTES + 1), "at most"),
    ],
)
def test_a_bad_file_of_cases_is_named(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text(content)
    with pytest.raises(BenchmarkError, match=told):
        read_cases(tmp_path / "cases.json")


def oracle(tokens: list[int], margins: list[float]) -> Oracle:
    answers = [Answer(case="warm", tokens=tokens, margins=margins)]
    return Oracle(name="test", positions=4, max_error=0.1, fault=None, answers=answers)


def test_equal_tokens_are_right() -> None:
    parity, right = compare_tokens(oracle([1, 2, 3], [1.0] * 3), "warm", [[1, 2, 3], [1, 2, 3]])
    assert (parity.compared_tokens, parity.first_difference, right) == (6, None, True)


@pytest.mark.parametrize(("margin", "right"), [(0.19, True), (0.21, False)])
def test_another_token_is_wrong_only_where_the_margin_is_clear(margin: float, right: bool) -> None:
    parity, found = compare_tokens(oracle([1, 2, 3], [9.0, margin, 9.0]), "warm", [[1, 2, 3], [1, 7, 8]])
    assert (parity.first_difference, found) == (1, right)
    assert "generation 2 of 2: token 1 is 7, the oracle's is 2" in str(parity.reason)


def test_a_generation_that_is_too_short_is_wrong() -> None:
    parity, right = compare_tokens(oracle([1, 2, 3], [1.0] * 3), "warm", [[1, 2]])
    assert (parity.first_difference, right) == (2, False)


def test_a_program_that_never_ends_is_killed_with_its_children() -> None:
    with pytest.raises(ProgramTimeoutError) as stopped:
        run_capped(["sh", "-c", "echo begun; sleep 77 & wait"], timeout_s=0.5, max_stdout_bytes=100)
    assert stopped.value.finished.stdout == b"begun\n"


def test_a_program_that_says_too_much_is_killed() -> None:
    with pytest.raises(OutputTooLargeError, match="more than 1000 bytes"):
        run_capped([sys.executable, "-c", "while True: print('x' * 999)"], timeout_s=60, max_stdout_bytes=1000)


def test_a_program_that_leaves_a_child_behind_ends_all_the_same() -> None:
    finished = run_capped(["sh", "-c", "echo done; exit 3"], timeout_s=30, max_stdout_bytes=100)
    assert (finished.status, finished.stdout) == (3, b"done\n")


def test_the_bundled_adb_tells_the_truth() -> None:
    assert adb_version(bundled_adb())[0] >= 36


def test_an_old_adb_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "adb"
    old.write_text("#!/bin/sh\necho 'Android Debug Bridge version 1.0.41'\necho 'Version 29.0.6-debian'\n")
    old.chmod(0o755)
    assert adb_version(old) == (29, 0, 6)
    old.write_text("#!/bin/sh\necho something\n")
    with pytest.raises(DeviceError, match="does not tell its version"):
        adb_version(old)


def test_a_runner_is_found_by_runtime_and_architecture(tmp_path: Path) -> None:
    build = tmp_path / "onnxruntime-aarch64"
    (build / "lib").mkdir(parents=True)
    (build / "runner").write_bytes(b"\x7fELF")
    (build / "runner").chmod(0o755)
    (build / "lib" / "libonnxruntime.so").write_bytes(b"library")
    found = runner_files(None, "onnxruntime", "aarch64", tmp_path)
    assert {file.name: file.program for file in found.files} == {"runner": True, "lib/libonnxruntime.so": False}
    (build / "lib" / "libonnxruntime.so").write_bytes(b"another")
    assert runner_files(None, "onnxruntime", "aarch64", tmp_path).name != found.name
    with pytest.raises(NotRunError, match="executorch on aarch64"):
        runner_files(None, "executorch", "aarch64", tmp_path)
    assert stat.S_IMODE((build / "runner").stat().st_mode) == 0o755


@pytest.mark.slow
@pytest.mark.parametrize("name", ["info", "battery", "installed", "push", "pull", "remove", "launch", "kill"])
def test_the_installed_pymobiledevice3_knows_every_command(name: str, tmp_path: Path) -> None:
    phone = Phone(udid="00008130-000000000000001E", bundle_id="edge.qwen.demo")
    commands = {
        "info": phone.info(),
        "battery": phone.battery(),
        "installed": phone.installed(),
        "push": phone.push(tmp_path / "a", "a"),
        "pull": phone.pull("a", tmp_path / "a"),
        "remove": phone.remove("a"),
        "launch": phone.launch(["--out", "events.jsonl"]),
        "kill": phone.kill(7),
    }
    finished = run_capped(commands[name], timeout_s=300, max_stdout_bytes=10**6)
    assert finished.status != 0, "there is no iPhone here"
    said = (finished.stdout + finished.stderr).decode()
    assert "No such" not in said
    assert "Usage:" not in said
    assert "usbmuxd" in said or "device" in said.lower(), json.dumps(said)

"""Running commands and seeing what they cost."""

import sys
from pathlib import Path

import pytest

from benchmarks.errors import WorkerFailedError
from benchmarks.process_memory import read_status
from benchmarks.side_by_side.measure import last_json_line, run_measured, run_worker

MEGABYTE = 1 << 20


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_the_peak_counts_a_child_that_is_gone_at_the_end(tmp_path: Path) -> None:
    child = f"block = b'x' * {200 * MEGABYTE}; import time; time.sleep(1.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    cost, _ = run_measured("parent", python(parent), log=tmp_path / "log", environment={})
    assert cost.peak_rss_bytes > 200 * MEGABYTE
    assert cost.wall_s > 1.5


def test_a_worker_answers_with_its_last_json_line_whatever_its_libraries_print(tmp_path: Path) -> None:
    program = "print('loading {'); print('{\"load_s\": 2}'); print('{not json}'); print('bye')"
    assert run_worker("worker", python(program), log=tmp_path / "log", environment={}) == {"load_s": 2}


def test_a_worker_without_an_answer_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailedError, match=r"quiet: no JSON object .* its output is in .*log; rerun to resume"):
        run_worker("quiet", python("print(1)"), log=tmp_path / "log", environment={})


def test_a_failed_command_says_its_status_and_keeps_its_output(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailedError, match="broken: exit status 3"):
        run_measured("broken", python("import sys; sys.exit(3)"), log=tmp_path / "log", environment={})
    with pytest.raises(WorkerFailedError, match="broken: exit status 1"):
        run_worker("broken", python("raise SystemExit('no model here')"), log=tmp_path / "log", environment={})
    assert "no model here" in (tmp_path / "log").read_text()


def test_a_worker_sees_the_environment_it_is_given(tmp_path: Path) -> None:
    program = "import os; print('{\"threads\": ' + os.environ['OMP_NUM_THREADS'] + '}')"
    answer = run_worker("worker", python(program), log=tmp_path / "log", environment={"OMP_NUM_THREADS": "2"})
    assert answer == {"threads": 2}


def test_json_that_is_no_object_is_no_answer() -> None:
    assert last_json_line("[1]\n12\n") is None


def test_memory_of_this_process_is_read_in_bytes_and_of_a_gone_one_is_empty() -> None:
    status = read_status()
    assert 5 * MEGABYTE < status["VmRSS"] <= status["VmHWM"]
    assert read_status(2**22 + 1) == {}

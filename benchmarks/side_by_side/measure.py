"""Run a command and see how long it took and how much memory its whole process tree held.

Memory is sampled: the sum of resident sizes over the tree, every 50 ms, together with each process's own high-water
mark (VmHWM), which no sampling can miss. The larger of the two is the peak. A page mapped by two processes of the
tree counts twice, as it does in most tools. Workers that are timed are not sampled: they read their own high-water
mark, and looking at them would take time from them.
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.errors import WorkerFailedError
from benchmarks.process_memory import read_status

__all__ = ["ProcessMeasurement", "last_json_line", "run_measured", "run_worker"]

SAMPLE_SECONDS = 0.05
SAMPLES_PER_TREE_LOOK = 20
"""Listing a process's descendants walks all of /proc, so it is done once a second."""


@dataclass(frozen=True, kw_only=True)
class ProcessMeasurement:
    """What one finished command cost."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


def run_measured(
    name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str]
) -> tuple[ProcessMeasurement, str]:
    """Run `command` to its end and return its cost and its stdout; stderr goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stdout_path = log.with_suffix(".stdout")
    cpu_before_s = _children_cpu_s()
    started = time.perf_counter()
    with log.open("wb") as stderr, stdout_path.open("wb") as stdout:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env={**os.environ, **environment})
        peak_rss_bytes = _watch(process)
    wall_s = time.perf_counter() - started
    _check_status(name, command, process.returncode, log)
    cost = ProcessMeasurement(wall_s=wall_s, cpu_s=_children_cpu_s() - cpu_before_s, peak_rss_bytes=peak_rss_bytes)
    return cost, stdout_path.read_text(errors="replace")


def run_worker(name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a worker that ends with one JSON object on stdout, undisturbed, and return that object."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stderr:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, **environment}, check=False
        )
    _check_status(name, command, done.returncode, log)
    result = last_json_line(done.stdout.decode(errors="replace"))
    if result is None:
        raise WorkerFailedError(name, "no JSON object on its last line of stdout", log)
    return result


def last_json_line(stdout: str) -> dict[str, Any] | None:
    """The JSON object on the last line that holds one: libraries print too."""
    for line in reversed(stdout.splitlines()):
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(value, dict):
                return value
    return None


def _check_status(name: str, command: Sequence[str], status: int | None, log: Path) -> None:
    if status != 0:
        raise WorkerFailedError(name, f"exit status {status} from {' '.join(command)!r}", log)


def _children_cpu_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _watch(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process and return the peak of its tree."""
    tree: list[int] = []
    sample = peak_of_sum = peak_of_one = 0
    while process.poll() is None:
        if sample % SAMPLES_PER_TREE_LOOK == 0:
            tree = _descendants(process.pid)
        status = [read_status(pid) for pid in tree]
        peak_of_sum = max(peak_of_sum, sum(one.get("VmRSS", 0) for one in status))
        peak_of_one = max(peak_of_one, *(one.get("VmHWM", 0) for one in status), 0)
        sample += 1
        time.sleep(SAMPLE_SECONDS)
    return max(peak_of_sum, peak_of_one)


def _descendants(pid: int) -> list[int]:
    """A process and everything below it, as far as it still runs."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []

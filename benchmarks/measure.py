"""Run a command and see how long it took and how much memory its whole process tree held.

Memory is sampled: the sum of resident sizes over the tree, every 50 ms, together with each process's own high-water
mark (VmHWM), which no sampling can miss. The larger of the two is the peak. A page mapped by two processes of the
tree counts twice, as it does in most tools.
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
    children_before = os.times()
    with log.open("wb") as stderr, stdout_path.open("wb") as stdout:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env={**os.environ, **environment})
        peak_rss_bytes = _watch(process)
        wall_s = time.perf_counter() - started
    children_after = os.times()
    if process.returncode != 0:
        raise WorkerFailedError(name, f"exit status {process.returncode} from {' '.join(command)!r}", log)
    cpu_s = (children_after.children_user + children_after.children_system) - (
        children_before.children_user + children_before.children_system
    )
    cost = ProcessMeasurement(wall_s=wall_s, cpu_s=cpu_s, peak_rss_bytes=peak_rss_bytes)
    return cost, stdout_path.read_text(errors="replace")


def run_worker(name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a worker that ends with one JSON object on stdout, and return that object."""
    _, stdout = run_measured(name, command, log=log, environment=environment)
    result = last_json_line(stdout)
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


def _watch(process: subprocess.Popen[bytes]) -> int:
    root = psutil.Process(process.pid)
    peak_sum = 0
    peak_of_one = 0
    while process.poll() is None:
        resident, highest = _tree_memory(root)
        peak_sum = max(peak_sum, resident)
        peak_of_one = max(peak_of_one, highest)
        time.sleep(SAMPLE_SECONDS)
    return max(peak_sum, peak_of_one)


def _tree_memory(root: psutil.Process) -> tuple[int, int]:
    """Resident bytes summed over a process tree, and the largest high-water mark in it."""
    resident = 0
    highest = 0
    try:
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0, 0
    for process in tree:
        status = read_status(process.pid)
        resident += status.get("VmRSS", 0)
        highest = max(highest, status.get("VmHWM", 0))
    return resident, highest

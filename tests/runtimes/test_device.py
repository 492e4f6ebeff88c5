"""Threads follow the cores that are worth using."""

import os
from pathlib import Path

import pytest

from runtimes.device import default_threads


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(8), raising=False)
    return tmp_path


def describe(root: Path, speeds: list[int], name: str, siblings: list[str] | None = None) -> None:
    for cpu, speed in enumerate(speeds):
        place = root / f"cpu{cpu}" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{speed}\n")
        topology = root / f"cpu{cpu}/topology/thread_siblings_list"
        topology.parent.mkdir(parents=True)
        topology.write_text((siblings or [str(cpu) for cpu in range(8)])[cpu])


def threads(root: Path, quota: str = "max 100000") -> int:
    (root / "cpu.max").write_text(quota)
    return default_threads(root, root / "cpu.max")


def test_slow_cores_of_a_phone_are_left_out(machine: Path) -> None:
    describe(machine, [300, 300, 300, 300, 800, 800, 800, 1024], "cpu_capacity")
    assert threads(machine) == 4


def test_two_kinds_of_fast_cores_count_together(machine: Path) -> None:
    describe(machine, [3_530_000] * 6 + [4_320_000] * 2, "cpufreq/cpuinfo_max_freq")
    assert threads(machine) == 8


def test_the_second_thread_of_a_core_does_not_count(machine: Path) -> None:
    describe(machine, [3_000_000] * 8, "cpufreq/cpuinfo_max_freq", ["0,4", "1,5", "2,6", "3,7"] * 2)
    assert threads(machine) == 4


def test_a_virtual_machine_that_claims_one_core_gets_all_its_cpus(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(2))
    describe(machine, [1024] * 2, "cpu_capacity", ["0-1", "0-1"])
    assert threads(machine) == 2


def test_a_machine_that_says_nothing_gets_a_thread_a_cpu(machine: Path) -> None:
    assert threads(machine) == 8


@pytest.mark.parametrize(("quota", "count"), [("200000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)])
def test_a_container_keeps_to_its_quota(machine: Path, quota: str, count: int) -> None:
    assert threads(machine, quota) == count

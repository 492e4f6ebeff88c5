"""How many threads the machine we run on deserves.

Decoding waits for memory and for the slowest thread, so slow cores of a phone hurt and so do more threads than cores.
onnxruntime-genai counts physical cores and finds one in most virtual machines; PyTorch counts all. Neither tells big
cores from little ones.
"""

import os
from pathlib import Path

CPU_ROOT = Path("/sys/devices/system/cpu")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
SLOW_CORE_RATIO = 0.7  # of the fastest core's clock or capacity: below it a core holds the others up
SMT_MIN_CORES = 4  # fewer physical cores than this are a virtual machine's guess, or need their second thread


def default_threads(cpu_root: Path = CPU_ROOT, quota_file: Path = CPU_QUOTA) -> int:
    """Threads for this process: its fast cores, one each, within its quota."""
    usable = _usable_cpus()
    speeds = {cpu: _speed(cpu_root / f"cpu{cpu}") for cpu in usable}
    fast = [cpu for cpu in usable if speeds[cpu] >= SLOW_CORE_RATIO * max(speeds.values())]
    cores = {_siblings(cpu_root / f"cpu{cpu}", cpu) for cpu in fast}
    count = len(cores) if len(cores) >= SMT_MIN_CORES else len(fast)
    return max(1, min(count, _quota(quota_file, count)))


def _usable_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _speed(cpu: Path) -> int:
    """The kernel's figure for a core: its capacity (ARM), else its highest clock, else the same for all."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        text = _read(cpu / name)
        if text.isdigit():
            return int(text)
    return 1


def _siblings(cpu: Path, index: int) -> str:
    """What hardware threads of one core have in common."""
    return _read(cpu / "topology/thread_siblings_list") or str(index)


def _quota(quota_file: Path, otherwise: int) -> int:
    """Whole CPUs that a container may use."""
    fields = _read(quota_file).split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or int(fields[1]) == 0:
        return otherwise
    return max(1, int(fields[0]) // int(fields[1]))


def _read(place: Path) -> str:
    try:
        return place.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""

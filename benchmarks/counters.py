"""What Linux, and so Android, says about a process and its machine: files of /proc and /sys, read as they are.

Nothing is converted but the name of the unit; a file that isn't there or can't be read is left out, since phones differ
in what they show to whom. VmHWM is the resident high-water mark, RssAnon what no file backs, PSS what remains when
shared pages are split among those who share them: three different figures, so each is kept under its own name.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.stream_events import SampleKind

__all__ = ["Reading", "read_counters"]

Reading = tuple[str, dict[str, int]]  # where from, and the values by name with unit

THERMAL = Path("/sys/class/thermal")
CPUFREQ = Path("/sys/devices/system/cpu/cpufreq")
POWER_SUPPLY = Path("/sys/class/power_supply")
MEMORY_LINES = re.compile(r"^(VmHWM|VmRSS|VmSwap|RssAnon|RssFile|RssShmem|Pss|Pss_Anon|Pss_File|SwapPss):\s+(\d+) kB$")
# of a power supply: the file's name, and the value's, units as the kernel's power_supply_class.rst gives them
POWER_FILES = {
    "current_now": "current_ua",
    "voltage_now": "voltage_uv",
    "charge_counter": "charge_counter_uah",
    "charge_now": "charge_uah",
    "capacity": "capacity_percent",
    "temp": "temp_decicelsius",
    "online": "online",
}


def read_counters(kind: SampleKind, pid: int | str = "self") -> Iterator[Reading]:
    """Each source of that kind which this machine shows, of one process where the kind is about processes."""
    match kind:
        case "memory":
            yield from _memory(Path(f"/proc/{pid}"))
        case "cpu":
            yield from _cpu_time(Path(f"/proc/{pid}/stat"))
        case "thermal":
            yield from _nonempty(str(THERMAL), _thermal())
        case "frequency":
            yield from _nonempty(str(CPUFREQ), _frequencies())
        case "battery":
            yield from _nonempty(str(POWER_SUPPLY), _power())


def _memory(process: Path) -> Iterator[Reading]:
    for name in ("status", "smaps_rollup"):
        found = map(MEMORY_LINES.match, _read(process / name).splitlines())
        values = {f"{match[1]}_kb": int(match[2]) for match in found if match}
        yield from _nonempty(str(process / name), values)


def _cpu_time(place: Path) -> Iterator[Reading]:
    fields = _read(place).rpartition(")")[2].split()
    if len(fields) > 12:  # the name, which may hold anything, ends at the last parenthesis; utime and stime follow
        tick_ms = 1000 // os.sysconf("SC_CLK_TCK")
        yield str(place), {"user_ms": int(fields[11]) * tick_ms, "system_ms": int(fields[12]) * tick_ms}


def _thermal() -> dict[str, int]:
    zones = sorted(THERMAL.glob("thermal_zone*"))
    return _numbers({f"{zone.name.removeprefix('thermal_')}_temp_millicelsius": zone / "temp" for zone in zones})


def _frequencies() -> dict[str, int]:
    policies = sorted(CPUFREQ.glob("policy*"))
    return _numbers({f"{policy.name}_cur_khz": policy / "scaling_cur_freq" for policy in policies})


def _power() -> dict[str, int]:
    return _numbers(
        {
            f"{_plain(supply.name)}_{quantity}": supply / file
            for supply in sorted(POWER_SUPPLY.glob("*"))
            for file, quantity in POWER_FILES.items()
        }
    )


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:40]


def _numbers(places: dict[str, Path]) -> dict[str, int]:
    texts = {name: _read(place).strip() for name, place in places.items()}
    return {name: int(text) for name, text in texts.items() if re.fullmatch(r"-?\d{1,18}", text)}


def _nonempty(source: str, values: dict[str, int]) -> Iterator[Reading]:
    if values:
        yield source, values


def _read(place: Path) -> str:
    try:
        return place.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

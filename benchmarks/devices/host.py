"""This machine: our own Python runners, in a fresh process for each case.

It says nothing of a phone. It is the oracle's machine, the quick check of a change, and where the lab's own figures are
held against a stopwatch. Nothing is prepared: clocks, governor and load are recorded as found.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import counters, page_cache, record
from benchmarks.capped import Finished, OutputTooLargeError, ProgramTimeoutError, run_capped
from benchmarks.cases import CaseFile, write_cases
from benchmarks.devices import (
    CorruptError,
    DeviceOptions,
    DeviceTimeoutError,
    NotRunError,
    Report,
)
from benchmarks.runner_end import check_end, is_sealed
from benchmarks.stream import MAX_STREAM_BYTES
from benchmarks.stream_events import Series
from benchmarks.tethered import tethered
from runtimes.artifact import Artifact

__all__ = ["HostDevice", "open_device"]

MAX_OUTPUT_BYTES = 16 * 1024 * 1024
MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")
MACHINE_ID = Path("/etc/machine-id")
REPOSITORY = Path(__file__).parents[2]


class HostDevice:
    """The machine that this program runs on."""

    series: Series = "host"

    def __init__(self, runner: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._runner = tethered([sys.executable, "-m", "benchmarks.host_runner"]) if runner is None else list(runner)
        self._variables = environment or {}
        self._work = Path(tempfile.mkdtemp(prefix="qwen-edge-host-"))
        self._artifact: Artifact | None = None

    def describe(self) -> record.Device:
        """The processor's name stands for the SoC."""
        return record.Device(
            id=record.device_id(_read(MACHINE_ID) or platform.node()),
            kind="host",
            model=platform.machine(),
            soc=_cpu_name(),
            ram_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            os=f"{platform.system()} {platform.release()}",
        )

    def tools(self) -> dict[str, str]:
        """The interpreter."""
        return {"python": platform.python_version()}

    def environment(self) -> record.Environment:
        """Clocks and temperature as the kernel shows them; much of it is missing in a virtual machine."""
        unknown: dict[str, str] = {}
        temperature = _hottest_c()
        if temperature is None:
            unknown["temperature_c"] = f"no thermal zone in {counters.THERMAL}"
        governor = _governor()
        if governor is None:
            unknown["governor"] = f"no scaling_governor in {counters.CPUFREQ}"
        plugged = _plugged()
        if plugged is None:
            unknown["plugged"] = f"no mains or USB supply in {counters.POWER_SUPPLY}"
        unknown |= dict.fromkeys(("battery_percent", "low_power", "screen", "thermal_status"), "not asked on a host")
        return record.Environment(
            plugged=plugged,
            temperature_c=temperature,
            governor=governor,
            cpuset=_read(Path("/proc/self/cpuset")) or None,
            affinity=tuple(sorted(os.sched_getaffinity(0))),
            unknown=unknown,
        )

    def prepare(self) -> list[str]:
        """Nothing is changed on this machine."""
        return []

    def push(self, artifact: Artifact, report: Report) -> None:
        """The artifact stays where it is; its files are hashed, and so warm in the page cache."""
        total = sum(entry.bytes for entry in artifact.manifest.files)
        report("checking the artifact", 0, total)
        artifact.check_hashes()
        report("checking the artifact", total, total)
        self._artifact = artifact

    def run(self, cases: CaseFile, timeout_s: float) -> bytes:
        """Run some cases in a process of their own."""
        if self._artifact is None:
            raise NotRunError("no artifact was pushed")
        if not any(case.drop_page_cache for case in cases.cases):
            page_cache.warm(self._artifact.file(entry.path) for entry in self._artifact.manifest.files)
        self._events.unlink(missing_ok=True)
        write_cases(cases, self._work / "cases.json")
        kills = _out_of_memory_kills()
        finished = self._start(timeout_s)
        data = self._collect()
        if not is_sealed(data):  # a runner that falls over after the last line has still told everything
            check_end(finished, out_of_memory=_out_of_memory_kills() > kills)
        return data

    def partial(self) -> bytes:
        """What the last runner had written."""
        return self._collect()

    def clean_up(self, *, keep: bool) -> list[str]:
        """Remove the scratch folder."""
        if not keep:
            shutil.rmtree(self._work)
        return []

    @property
    def _events(self) -> Path:
        return self._work / "events.jsonl"

    def _collect(self) -> bytes:
        if not self._events.exists():
            return b""
        with self._events.open("rb") as file:
            data = file.read(MAX_STREAM_BYTES + 1)
        if len(data) > MAX_STREAM_BYTES:
            raise CorruptError(f"the stream has more than {MAX_STREAM_BYTES} bytes")
        return data

    def _start(self, timeout_s: float) -> Finished:
        assert self._artifact is not None
        files = ["--cases", str(self._work / "cases.json"), "--out", str(self._events)]
        command = [*self._runner, "--artifact", str(self._artifact.path.resolve()), *files]
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, **self._variables, "PYTHONPATH": path}
        try:
            return run_capped(command, timeout_s=timeout_s, max_stdout_bytes=MAX_OUTPUT_BYTES, environment=environment)
        except ProgramTimeoutError as error:
            raise DeviceTimeoutError(f"the case was not over after {timeout_s:g} s; the runner was killed") from error
        except OutputTooLargeError as error:
            raise CorruptError(str(error)) from error
        except FileNotFoundError as error:
            raise NotRunError(f"{command[0]}: no such runner; build it, or leave out --runner") from error


def open_device(options: DeviceOptions) -> HostDevice:
    """This machine; a runner other than our own may be given."""
    return HostDevice(None if options.runner is None else [str(options.runner)])


def _out_of_memory_kills() -> int:
    fields = dict(line.split() for line in _read(MEMORY_EVENTS).splitlines() if len(line.split()) == 2)
    return int(fields.get("oom_kill", 0))


def _cpu_name() -> str | None:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()[:200] or None
    return None


def _hottest_c() -> float | None:
    values = [value for _, readings in counters.read_counters("thermal") for value in readings.values()]
    return max(values) / 1000 if values else None


def _governor() -> str | None:
    policies = sorted(counters.CPUFREQ.glob("policy*/scaling_governor"))
    return ",".join(f"{place.parent.name}={_read(place)}" for place in policies)[:200] or None


def _plugged() -> bool | None:
    online = [_read(place) for place in counters.POWER_SUPPLY.glob("*/online")]
    return "1" in online if online else None


def _read(place: Path) -> str:
    try:
        return place.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

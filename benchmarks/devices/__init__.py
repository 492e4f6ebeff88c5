"""Where cases run: one file a kind of device, found by its name.

`benchmarks/devices/NAME.py` is the device NAME: its `open_device(options)` gives a `Device`. A device brings itself
into a known state, takes an artifact, runs one case a process, and is left as it was found. Whatever goes wrong on the
way is a `DeviceError` whose `status` is what the record says of the case; every call has a time limit.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, cast

from benchmarks import record
from benchmarks.cases import CaseFile
from benchmarks.errors import BenchmarkError
from benchmarks.record import CaseStatus
from benchmarks.stream_events import Series
from runtimes.artifact import Artifact

__all__ = [
    "CorruptError",
    "Device",
    "DeviceError",
    "DeviceOptions",
    "DeviceTimeoutError",
    "DiskFullError",
    "KilledError",
    "LostDeviceError",
    "NotRunError",
    "OutOfMemoryError",
    "Report",
    "TooHotError",
    "known_devices",
    "open_device",
]

Report = Callable[[str, int, int], None]  # what is being done, bytes done, bytes in all


class DeviceError(BenchmarkError):
    """A device could not do what it was asked for; `status` is what a record says of the case."""

    status: ClassVar[CaseStatus] = "failed"


class NotRunError(DeviceError):
    """Something that the case needs isn't there, so it was never started."""

    status = "not_run"


class LostDeviceError(DeviceError):
    """The device stopped answering and did not come back in time, or it started anew."""

    status = "lost_device"


class OutOfMemoryError(DeviceError):
    """The system killed the runner for its memory, or refused it some."""

    status = "oom"


class KilledError(DeviceError):
    """Somebody or something killed the runner, not for its memory as far as the device says."""

    status = "killed"


class DiskFullError(DeviceError):
    """The device has no room."""

    status = "disk_full"


class TooHotError(DeviceError):
    """The device did not cool down in time."""

    status = "too_hot"


class DeviceTimeoutError(DeviceError):
    """A phase took longer than its limit."""

    status = "timeout"


class CorruptError(DeviceError):
    """What came back, or what arrived, differs from what was sent."""

    status = "corrupt"


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Which device, with which runner: a program, or a folder with a program called `runner`; or which app."""

    serial: str | None = None
    udid: str | None = None
    app: str | None = None
    runner: Path | None = None
    reconnect_s: float = 60.0


class Device(Protocol):
    """One device that is there."""

    @property
    def series(self) -> Series:
        """Which series its results belong to."""

    def describe(self) -> record.Device:
        """What it is."""

    def tools(self) -> dict[str, str]:
        """The programs between us and it, by name with version."""

    def environment(self) -> record.Environment:
        """Its state right now."""

    def prepare(self) -> list[str]:
        """Bring it into the state in which it is measured; what forbids calling the results valid."""

    def push(self, artifact: Artifact, report: Report) -> None:
        """Bring the artifact and the runner to it, what is there already excepted."""

    def run(self, cases: CaseFile, timeout_s: float) -> bytes:
        """The event stream of a fresh process that ran these cases on the pushed artifact, not parsed yet."""

    def partial(self) -> bytes:
        """What the last `run` wrote before it failed, as far as that can be had."""

    def clean_up(self, *, keep: bool) -> list[str]:
        """End what still runs and undo `prepare`; remove what was pushed unless it is to be kept; what went wrong."""


def known_devices() -> tuple[str, ...]:
    """The kinds of devices: the files beside this one that define `open_device`, found without importing them."""
    return tuple(place.stem for place in sorted(Path(__file__).parent.glob("*.py")) if _defines_open_device(place))


def open_device(kind: str, options: DeviceOptions) -> Device:
    """The device of a kind that these options mean."""
    if kind not in known_devices():
        raise DeviceError(f"unknown device {kind!r}; known: {', '.join(known_devices())}")
    module = importlib.import_module(f"benchmarks.devices.{kind}")
    return cast(Device, module.open_device(options))


def _defines_open_device(place: Path) -> bool:
    # not by `ast`, which CPython 3.11 can't run in two threads at once
    return place.name != "__init__.py" and "\ndef open_device(" in place.read_text(encoding="utf-8")

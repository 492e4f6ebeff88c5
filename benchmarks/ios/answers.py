"""What an iPhone's answers mean: JSON as pymobiledevice3 prints it, and jetsam reports as iOS writes them.

Formats are those of the tool's version 11 and of Apple's documentation of jetsam event reports; no answer here was
recorded on a device. Anything else is None, never a guess.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from benchmarks import record
from benchmarks.android.state import printable

__all__ = ["battery_environment", "describe", "json_object", "killed_for_memory", "process_id", "udids"]

MAX_LABEL = 200
JETSAM_REASONS = ("per-process-limit", "vm-pageshortage", "highwater", "vnode-limit", "fc-thrashing", "jetsam")


def udids(said: bytes) -> list[str]:
    """The phones of a list."""
    found = _json(said)
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def json_object(said: bytes) -> dict[str, Any]:
    """A JSON object, empty where it is none."""
    found = _json(said)
    return found if isinstance(found, dict) else {}


def describe(udid: str, info: Mapping[str, Any]) -> record.Device:
    """The phone, by what lockdownd says."""
    return record.Device(
        id=record.device_id(udid),
        kind="physical",
        model=_label(info.get("ProductType")),
        soc=_label(info.get("HardwarePlatform")),
        os=_label(" ".join(filter(None, (_label(info.get("ProductName")), _label(info.get("ProductVersion")))))),
        build=_label(info.get("BuildVersion")),
    )


def battery_environment(entry: Mapping[str, Any]) -> record.Environment:
    """Plugged, charge and temperature; what iOS tells nobody is unknown with that reason."""
    external = entry.get("ExternalConnected")
    percent = _within(entry.get("CurrentCapacity"), 0, 100)
    centi = _within(entry.get("Temperature"), -5000, 15000)
    unknown = dict.fromkeys(("low_power", "screen", "thermal_status"), "iOS tells the app only; see its samples")
    for name, value in (("plugged", external), ("battery_percent", percent), ("temperature_c", centi)):
        if value is None:
            unknown[name] = "not in what `diagnostics battery single` answered"
    return record.Environment(
        plugged=external if isinstance(external, bool) else None,
        battery_percent=percent,
        temperature_c=None if centi is None else centi / 100,
        unknown=unknown,
    )


def process_id(said: bytes) -> int | None:
    """A process id in the tool's answer; None where the app doesn't run."""
    words = said.decode("utf-8", "replace").split()
    return int(words[-1]) if words and re.fullmatch("[1-9][0-9]{0,9}", words[-1]) else None


def killed_for_memory(report: bytes, app: str) -> str | None:
    """Why a jetsam report says that a process of this name was killed, if it says so.

    A report is two JSON objects: a line about the report, then the event with its processes.
    """
    event = json_object(report.partition(b"\n")[2])
    processes = event.get("processes")
    if not isinstance(processes, list):
        return None
    for process in processes:
        if isinstance(process, dict) and process.get("name") == app and process.get("reason") in JETSAM_REASONS:
            return str(process["reason"])
    return None


def _json(said: bytes) -> Any:
    try:
        return json.loads(said)
    except (ValueError, RecursionError):
        return None


def _label(value: object) -> str | None:
    return printable(value)[:MAX_LABEL].strip() or None if isinstance(value, str) else None


def _within(value: object, low: float, high: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return None
    return float(value)

"""What a phone says of itself, from one script: Android's own services first, the kernel's files where they are silent.

Parsers take text and give values or None, since every vendor answers a little differently and a Linux that is no
Android has none of the services. Formats follow AOSP (BatteryService, ThermalManagerService, PowerManagerService); the
kernel's units are those of Documentation/ABI/testing/sysfs-class-power and sysfs-class-thermal.
"""

import re
import secrets
from collections.abc import Mapping

from benchmarks.android.adb import Adb, Answer
from benchmarks.record import Environment

__all__ = ["THERMAL_STATES", "environment", "parse_environment", "printable", "read_state"]

THERMAL_STATES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
SKIN = 3  # android.os.Temperature.TYPE_SKIN
NOT_FOUND = 127
COMMANDS = {
    "battery": "dumpsys battery",
    "power": "dumpsys power | grep -E 'mWakefulness=|Display Power'",
    "low_power": "settings get global low_power",
    "thermal": "dumpsys thermalservice",
    "cpuset": "cat /proc/self/cpuset",
    "affinity": "grep Cpus_allowed_list /proc/self/status",
    "governor": "cd /sys/devices/system/cpu/cpufreq && grep -H . policy*/scaling_governor",
    "supplies": "cd /sys/class/power_supply && grep -H . */type */online */capacity */temp */status",
    "zones": "cd /sys/class/thermal && grep -H . thermal_zone*/type thermal_zone*/temp",
}
STATE_S = 60.0
PERCENT = r"[0-9][0-9]?|100"
TENTHS = r"-?[0-9]{1,4}"


def environment(adb: Adb) -> Environment:
    """The phone's state right now."""
    return parse_environment(read_state(adb))


def read_state(adb: Adb) -> dict[str, Answer]:
    """What each command said; a service that does not answer within its time is an error of the whole."""
    mark = f"part-{secrets.token_hex(8)}"
    parts = (
        f"({command}\n) 2>&1 </dev/null; status=$?; echo; echo {mark} {name} $status"
        for name, command in COMMANDS.items()
    )
    text = adb.shell("\n".join(parts), timeout_s=STATE_S).text
    found: dict[str, Answer] = {}
    said: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == mark and words[2].isdigit():
            found[words[1]] = Answer(status=int(words[2]), text="\n".join(said))
            said = []
        else:
            said.append(line)
    return found


def parse_environment(state: Mapping[str, Answer]) -> Environment:
    """The state from what the commands said, with the reason for each thing that nobody told."""
    said = {name: answer.text for name, answer in state.items() if answer.status != NOT_FOUND}
    supplies = _by_folder(said.get("supplies", ""))
    battery = said.get("battery", "")
    level = _number(rf"^\s*level: ({PERCENT})\s*$", battery)
    values = {
        "plugged": _first(_plugged(battery), _online(supplies)),
        "battery_percent": _first(level, _battery_file(supplies, "capacity", PERCENT)),
        "temperature_c": _temperature_c(said, supplies),
        "thermal_status": _thermal_status(said.get("thermal", "")),
        "low_power": {"1": True, "0": False, "null": False}.get(said.get("low_power", "").strip()),
        "screen": _match(r"mWakefulness=(\w+)", said.get("power", "")),
        "cpuset": _match(r"^(/\S{0,199})\s*$", said.get("cpuset", "")),
        "governor": _governor(said.get("governor", "")),
        "affinity": _affinity(said.get("affinity", "")),
    }
    unknown = {name: _why(name, state) for name, value in values.items() if value is None}
    return Environment.model_validate({**values, "unknown": unknown})


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE | re.ASCII)
    return found[1] if found else None


def _number(pattern: str, text: str) -> float | None:
    found = _match(pattern, text)
    return None if found is None else float(found)


def _plugged(battery: str) -> bool | None:
    powered = re.findall(r"^\s*(?:AC|USB|Wireless|Dock) powered: (true|false)\s*$", battery, re.MULTILINE)
    return "true" in powered if powered else None


def _online(supplies: Mapping[str, Mapping[str, str]]) -> bool | None:
    states = [files["online"] for files in supplies.values() if files.get("type") != "Battery" and "online" in files]
    return any(state != "0" for state in states) if states else None


def _battery_file(supplies: Mapping[str, Mapping[str, str]], name: str, pattern: str) -> float | None:
    texts = (files.get(name, "") for files in supplies.values() if files.get("type") == "Battery")
    return next((float(text) for text in texts if re.fullmatch(pattern, text)), None)


def _temperature_c(said: Mapping[str, str], supplies: Mapping[str, Mapping[str, str]]) -> float | None:
    """The skin where the phone tells it, else the battery, else the hottest zone."""
    current = said.get("thermal", "").rpartition("Current temperatures from HAL:")[2]
    skin = re.findall(rf"mValue=(-?[0-9]{{1,3}}(?:\.[0-9]{{1,6}})?), mType={SKIN},", current)
    if skin:
        return max(map(float, skin))
    tenths = _first(
        _number(rf"^\s*temperature: ({TENTHS})\s*$", said.get("battery", "")), _battery_file(supplies, "temp", TENTHS)
    )
    if isinstance(tenths, float):
        return tenths / 10
    zones = _by_folder(said.get("zones", ""))
    readings = [files["temp"] for files in zones.values() if re.fullmatch(r"-?[0-9]{1,7}", files.get("temp", ""))]
    return max(map(int, readings)) / 1000 if readings else None


def _thermal_status(thermal: str) -> str | None:
    found = _number(r"^\s*Thermal Status: (\d)\s*$", thermal)
    return None if found is None or found >= len(THERMAL_STATES) else THERMAL_STATES[int(found)]


def _governor(text: str) -> str | None:
    policies = _by_folder(text)
    return ",".join(f"{name}={files['scaling_governor']}" for name, files in sorted(policies.items()))[:200] or None


def _affinity(text: str) -> tuple[int, ...] | None:
    """The CPUs of a list such as 0-3,6."""
    listed = _match(r"^Cpus_allowed_list:\s*([\d,-]{1,200})\s*$", text)
    if listed is None:
        return None
    cpus: set[int] = set()
    for part in listed.split(","):
        low, _, high = part.partition("-")
        if not low.isdigit() or int(low) > 4095 or (high and not high.isdigit()):
            return None
        cpus.update(range(int(low), min(int(high or low), 4095) + 1))
    return tuple(sorted(cpus))


def _by_folder(text: str) -> dict[str, dict[str, str]]:
    """What `grep -H . FOLDER/FILE` printed, by folder and file."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([\w.-]{1,60})/(\w{1,40}):(\S.{0,80}?)\s*", line)
        if match:
            found.setdefault(match[1], {})[match[2]] = match[3]
    return found


SOURCES = {
    "plugged": ("battery", "supplies"),
    "battery_percent": ("battery", "supplies"),
    "temperature_c": ("thermal", "battery", "supplies", "zones"),
    "thermal_status": ("thermal",),
    "screen": ("power",),
}


def _why(name: str, state: Mapping[str, Answer]) -> str:
    """What each source of a value said instead of it."""
    reasons = []
    for source in SOURCES.get(name, (name,)):
        answer = state.get(source)
        if answer is None:
            reasons.append(f"{source}: no answer")
        else:
            said = " ".join(printable(answer.text).split())[:120]
            reasons.append(f"{source}: status {answer.status}{f', {said!r}' if said else ''}")
    return "; ".join(reasons)


def printable(text: str) -> str:
    """The text with a space for each character that is no printable one."""
    return "".join(letter if letter.isprintable() else " " for letter in text)

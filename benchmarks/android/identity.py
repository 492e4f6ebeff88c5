"""What a phone is: its properties, or where there are none, what the kernel says of the machine."""

import re
import secrets

from benchmarks import record
from benchmarks.android.adb import Adb
from benchmarks.android.state import printable
from benchmarks.record import DeviceKind

__all__ = ["architecture", "describe"]

PROPERTIES = {
    "serial": "ro.serialno",
    "maker": "ro.product.manufacturer",
    "model": "ro.product.model",
    "soc_maker": "ro.soc.manufacturer",
    "soc": "ro.soc.model",
    "hardware": "ro.hardware",
    "release": "ro.build.version.release",
    "fingerprint": "ro.build.fingerprint",
    "qemu": "ro.boot.qemu",
    "old_qemu": "ro.kernel.qemu",
}
MAX_LABEL = 200


def describe(adb: Adb) -> record.Device:
    """The phone; one without Android's properties is no phone, and counts as a virtual machine."""
    told = _ask(adb)
    memory = re.search(r"^MemTotal:\s+(\d{1,15}) kB$", told["memory"], re.MULTILINE)
    return record.Device(
        id=record.device_id(told["serial"] or adb.serial),
        kind=_kind(told),
        model=_label(told["maker"], told["model"]) or _label(told["machine"]),
        soc=_label(told["soc_maker"], told["soc"]) or _label(told["hardware"]),
        ram_bytes=int(memory[1]) * 1024 if memory else None,
        os=_label("Android", told["release"]) if told["release"] else _label(told["kernel"]),
        build=_label(told["fingerprint"]),
    )


def architecture(adb: Adb) -> str:
    """The machine's name as uname gives it, such as aarch64."""
    return adb.check("uname -m").strip()[:40]


def _kind(told: dict[str, str]) -> DeviceKind:
    if not told["model"]:
        return "vm"
    pretended = "1" in (told["qemu"], told["old_qemu"]) or told["hardware"] in ("ranchu", "goldfish", "cutf_cvm")
    return "emulator" if pretended else "physical"


def _ask(adb: Adb) -> dict[str, str]:
    mark = f"part-{secrets.token_hex(8)}"
    commands = {name: f"getprop {key}" for name, key in PROPERTIES.items()}
    commands |= {"machine": "uname -m", "kernel": "uname -sr", "memory": "cat /proc/meminfo"}
    script = "\n".join(f"echo {mark} {name}; {command} 2>/dev/null" for name, command in commands.items())
    parts = adb.shell(script).text.split(f"{mark} ")[1:]
    found = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}
    return {name: found.get(name, "") for name in commands}


def _label(*words: str) -> str | None:
    return printable(" ".join(word for word in words if word))[:MAX_LABEL].strip() or None

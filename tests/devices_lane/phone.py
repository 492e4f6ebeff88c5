"""A virtual phone: an arm64 machine with a kernel of its own, adbd, and a battery and a thermal zone that tests set.

QEMU emulates the processor, so nothing here says how fast anything is. Kernel and modules are Debian's; the battery is
the kernel's own `test_power` driver, which Debian does not build: one file of its source is compiled here, with one
line changed, so that the battery's temperature, and with it the thermal zone, is a parameter like the rest.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adbutils._utils import adb_path
from filelock import FileLock

from tests.devices_lane.cpio import Archive
from tests.devices_lane.debian import KERNEL, UnavailableError, made_once, run, unpacked
from tests.waiting import patient, wait_until

RELEASE = f"{KERNEL}-arm64"
PORT = 7557
MEMORY_MIB = 2048
BOOT_SECONDS = 180.0
MODULES = ("drivers/net/ethernet/intel/e1000/e1000.ko",)
SOURCE = "linux-source-6.1/drivers/power/supply/test_power.c"
PARAMETERS = "/sys/module/test_power/parameters"
BATTERY = "/sys/class/power_supply/test_battery"
# at rest: on battery, cool, drawing little
AT_REST = {
    "ac_online": "off",
    "usb_online": "off",
    "battery_status": "discharging",
    "battery_capacity": "80",
    "battery_voltage": "3870000",
    "battery_current": "-150000",
    "battery_temp": "300",
}
TEMPERATURE = """
static int battery_temp = 300; /* tenths of a degree */
module_param(battery_temp, int, 0644);
"""
INIT = """#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/data SHELL=/bin/sh
busybox mount -t proc proc /proc; busybox --install -s /usr/bin
mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts; mount -t devpts devpts /dev/pts
mount -t tmpfs -o size=384m data /data; mkdir -p /data/local/tmp
mount -t tmpfs tmp /tmp
for module in /modules/*.ko; do insmod $module; done
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
hostname virtual-phone
export ADBD_PORT=5555 LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu:/usr/lib/aarch64-linux-gnu/android
echo up
while :; do /usr/lib/android-sdk/platform-tools/adbd >/tmp/adbd.log 2>&1; sleep 1; done
"""
NOT_NEEDED = ("usr/share", "usr/lib/aarch64-linux-gnu/gconv")


@dataclass(frozen=True, kw_only=True)
class Phone:
    """The running machine, as adb knows it, the console's log, and QEMU's process."""

    serial: str
    console: Path
    pid: int

    def set_power(self, **parameters: str | int) -> None:
        """Set parameters of the battery's driver, all in one command; such as `battery_current=-412000`."""
        words = [f"echo {value} > {PARAMETERS}/{name}" for name, value in parameters.items()]
        command = [adb_path(), "-s", self.serial, "shell", " && ".join(words)]
        subprocess.run(command, check=True, capture_output=True, timeout=patient(60))

    def rest(self) -> None:
        """On battery, cool, drawing little."""
        self.set_power(**AT_REST)


@dataclass(frozen=True, kw_only=True)
class Image:
    """What QEMU starts."""

    kernel: Path
    initramfs: Path


def require(tool: str, package: str) -> str:
    """The path of a program; where this is a machine's root and apt is there, its package is installed."""
    found = shutil.which(tool)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", package]
        run(command, Path("/"), {**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        found = shutil.which(tool)
    if found is None:
        raise UnavailableError(f"no {tool} here: install {package}")
    return found


def make_image(cache: Path) -> Image:
    """Kernel and initramfs, made once and kept in the cache."""
    base, daemon = unpacked("phone-arm64", cache), unpacked("adbd-arm64", cache)
    module = _module(base, unpacked("module-amd64", cache), cache)
    place = cache / f"initramfs-{base.name[-16:]}-{daemon.name[-16:]}.cpio"
    with FileLock(cache / ".initramfs.lock"):
        if not place.exists() or place.stat().st_mtime < max(Path(__file__).stat().st_mtime, module.stat().st_mtime):
            place.write_bytes(_initramfs(base, daemon, module))
    return Image(kernel=base / "boot" / f"vmlinuz-{RELEASE}", initramfs=place)


@contextmanager
def booted(image: Image, work: Path) -> Iterator[Phone]:
    """Start the phone in the network of this thread and wait for its daemon; it is switched off at the end."""
    qemu = require("qemu-system-aarch64", "qemu-system-arm")
    work.mkdir(parents=True, exist_ok=True)
    console = work / "console.log"
    command = [qemu, "-machine", "virt,gic-version=3", "-accel", "tcg", "-cpu", "cortex-a76", "-smp", "2"]
    command += ["-m", str(MEMORY_MIB), "-display", "none", "-monitor", "none", "-serial", f"file:{console}"]
    command += ["-kernel", str(image.kernel), "-initrd", str(image.initramfs)]
    command += ["-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init"]
    command += ["-nic", f"user,model=e1000,restrict=on,hostfwd=tcp:127.0.0.1:{PORT}-:5555"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE) as machine:
        try:
            wait_until(lambda: _is_up(machine, console), f"the phone does not boot: {console}", BOOT_SECONDS)
            yield Phone(serial=f"127.0.0.1:{PORT}", console=console, pid=machine.pid)
        finally:
            machine.kill()


def _is_up(machine: subprocess.Popen[bytes], console: Path) -> bool:
    if machine.poll() is not None:
        assert machine.stderr is not None
        raise UnavailableError(f"QEMU ended at once: {machine.stderr.read().decode(errors='replace')[-300:]}")
    return console.exists() and b"\nup" in b"\n" + console.read_bytes().replace(b"\r", b"")


def _initramfs(base: Path, daemon: Path, module: Path) -> bytes:
    archive = Archive()
    for folder in ("proc", "sys", "dev", "data", "tmp", "root", "modules"):
        archive.directory(folder)
    archive.file("init", INIT.encode(), executable=True)
    archive.tree(daemon, leave_out=NOT_NEEDED)
    archive.file("usr/bin/busybox", (base / "bin" / "busybox").read_bytes(), executable=True)
    archive.link("usr/bin/sh", "busybox")
    for name in MODULES:
        archive.file(f"modules/{Path(name).name}", (base / "usr/lib/modules" / RELEASE / "kernel" / name).read_bytes())
    archive.file(f"modules/{module.name}", module.read_bytes())
    return archive.bytes()


def _module(base: Path, builder: Path, cache: Path) -> Path:
    """The battery's driver, built against the phone's kernel."""
    place = cache / f"test_power-{base.name[-16:]}.ko"
    return made_once(place, lambda work: _build_module(base, builder, work))


def _build_module(base: Path, builder: Path, work: Path) -> Path:
    require("make", "make")
    require("gcc", "gcc")
    require("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    tree = work / "usr"
    for source in (base / "usr" / "src", builder / "usr" / "src", builder / "usr" / "lib"):
        leave = shutil.ignore_patterns("*.tar.xz")
        shutil.copytree(source, tree / source.name, symlinks=True, ignore=leave, dirs_exist_ok=True)
    headers, common = (tree / "src" / f"linux-headers-{KERNEL}-{part}" for part in ("arm64", "common"))
    for place in (headers / "Makefile", common / "Makefile"):
        place.write_text(place.read_text().replace("/usr/src/", f"{tree}/src/"))
    sources = work / "module"
    sources.mkdir()
    run(["tar", "-xJf", str(builder / "usr/src/linux-source-6.1.tar.xz"), "--occurrence=1", SOURCE], sources)
    _settable_temperature(sources / SOURCE, sources / "test_power.c")
    (sources / "Makefile").write_text("obj-m := test_power.o\n")
    make = ["make", "-C", str(headers), f"M={sources}", "ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-", "modules"]
    run(make, sources, {"PATH": os.environ["PATH"], "LC_ALL": "C"})
    return sources / "test_power.ko"


def _settable_temperature(source: Path, target: Path) -> None:
    text = source.read_text(encoding="utf-8")
    constant, first = "val->intval = 26;", "static int ac_online"
    if text.count(constant) != 1 or first not in text:
        raise UnavailableError(f"{source.name} of this kernel is not the one that phone.py changes a line of")
    text = text.replace(constant, "val->intval = battery_temp;")
    target.write_text(text.replace(first, TEMPERATURE + first, 1), encoding="utf-8")

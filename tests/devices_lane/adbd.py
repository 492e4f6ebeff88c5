"""A device of this machine's own processor: Google's adbd on a file system that is thrown away afterwards.

The daemon runs in mount and process namespaces of its own. Its root is an overlay over this machine's root, so that
programs of the host (a shell, this Python) exist on the "device" at the same paths while nothing it writes lands on the
host; /data is a small file system that can be filled. What dies with a real adbd dies here: the connection, not the
commands it started.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.devices_lane.debian import UnavailableError
from tests.waiting import patient, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
# adb takes ports from 5555 to 5585 for emulators that it looks for by itself
PORT = 7555
DATA_BYTES = 256 * 2**20
END_SECONDS = 20.0

SET_UP = """
set -e
mount -t tmpfs overlay "$1"; mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mkdir -p data proc dev sys
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o "size=$2" data data
mkdir -p data/local/tmp
shift 2
for place; do mkdir -p ".$place"; mount --rbind -o ro "$place" ".$place"; done
# the first process of the namespace adopts what adbd leaves behind, and its end ends all
exec chroot . /bin/sh -c 'trap : HUP; echo ready; while :; do sleep 3600 & wait; done'
"""


@dataclass
class Adbd:
    """A running device; `root` is its file system seen from here."""

    program: list[str]
    init: int
    serial: str
    log: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def root(self) -> Path:
        """The device's file system."""
        return Path(f"/proc/{self.init}/root")

    @property
    def pid(self) -> int | None:
        """The daemon's process id here, if it runs."""
        return next(iter(_children(self._process.pid)), None) if self._process is not None else None

    def start(self) -> None:
        """Start the daemon and wait until it listens."""
        assert self._process is None, "adbd runs already"
        command = ["nsenter", f"--target={self.init}", "--mount", "--pid", f"--root={self.root}", f"--wd={self.root}"]
        port = int(self.serial.rpartition(":")[2])
        environment = {"PATH": os.environ["PATH"], "HOME": "/data", "SHELL": "/bin/sh", "ADBD_PORT": str(port)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--", *self.program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                preexec_fn=_heed_hangups,
            )
        wait_until(lambda: _listens(port), f"adbd does not listen on {port}: {self.log}")

    def kill(self) -> None:
        """Kill the daemon at once, as a reset of the device's adb would; its commands live on."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(patient(END_SECONDS))
            self._process = None

    def restart(self) -> None:
        """Kill the daemon and start another."""
        self.kill()
        self.start()

    def processes(self, word: str) -> list[int]:
        """The processes on the device whose command line holds a word."""
        inside = Path(f"/proc/{self.init}/ns/pid").readlink()
        return [pid for pid in _pids() if _namespace(pid) == inside and word.encode() in _command_line(pid)]


@contextmanager
def running(packages: Path, work: Path, port: int = PORT) -> Iterator[Adbd]:
    """A device made of the unpacked packages, listening in the network of the calling thread."""
    for tool in ("unshare", "nsenter", "chroot", "mount"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"no {tool} here: it comes with util-linux")
    if os.geteuid():
        raise UnavailableError("adbd must run as root: run as root, or within `unshare --map-root-user`")
    work.mkdir(parents=True, exist_ok=True)
    overlay = work / "overlay"
    overlay.mkdir()
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SET_UP, "adbd-root"]
    command += [str(overlay), str(DATA_BYTES), *map(str, _elsewhere(packages))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as outer:
        assert outer.stdout is not None
        assert outer.stderr is not None
        try:
            if outer.stdout.readline().strip() != "ready":
                outer.kill()
                raise UnavailableError(f"no overlay of / in a mount namespace: {outer.stderr.read().strip()[-300:]}")
            (init,) = _children(outer.pid)
            device = Adbd(program=_program(packages), init=init, serial=f"127.0.0.1:{port}", log=work / "adbd.log")
            device.start()
            try:
                yield device
            finally:
                device.kill()
        finally:
            outer.kill()


def _heed_hangups() -> None:
    """Under `nohup` this process ignores hang-ups, and what it starts would, too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _program(packages: Path) -> list[str]:
    """The command that starts adbd with the libraries it came with."""
    libraries = packages / "usr" / "lib" / "x86_64-linux-gnu"
    path = f"{libraries}:{libraries / 'android'}"
    daemon = packages / "usr" / "lib" / "android-sdk" / "platform-tools" / "adbd"
    return [str(packages / "usr" / "lib64" / "ld-linux-x86-64.so.2"), "--library-path", path, str(daemon)]


def _elsewhere(packages: Path) -> list[Path]:
    """What the device needs of this machine and an overlay of / does not hold: it lies on file systems of its own."""
    wanted = (packages, REPOSITORY, Path(sys.prefix), Path(sys.base_prefix))
    device = Path("/").stat().st_dev
    return sorted({place for place in wanted if place.stat().st_dev != device})


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _pids() -> list[int]:
    return [int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit()]


def _namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink()
    except OSError:
        return None


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

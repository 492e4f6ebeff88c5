"""A Swift toolchain: the machine's own where it is new enough, else Debian's, unpacked and run in a root of its own.

Debian's (pinned in `tests/devices_lane/debian.lock`) is 526 MB to fetch and 2.5 GB unpacked, once. It runs in a mount
namespace of its own, by chroot: as root, or wherever the kernel lets users have namespaces.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.devices_lane.debian import UnavailableError, unpacked

OLDEST = (6, 0)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen-edge" / "apps"
GROUP = "swift-amd64"
SECONDS = 1800
# $1: the root, $2: the directory to work in; then the places shared with this machine, `--`, and the command
ENTER = """
set -e
root=$1; directory=$2; shift 2
mkdir -p "$root/proc" "$root/dev" "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; shift; done
shift
exec chroot "$root" /usr/bin/env --chdir="$directory" "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Swift:
    """Runs programs of a toolchain; `root` is where it is unpacked, None where it is the machine's own."""

    root: Path | None

    def run(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        shared: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a directory; of this machine's files it sees those below `directory` and `shared`."""
        variables = {"HOME": str(directory), "TMPDIR": str(directory), "LANG": "C.UTF-8", **(environment or {})}
        if self.root is not None:
            variables["PATH"] = "/usr/libexec/swift/bin:/usr/bin:/bin"
            places = [str(place) for place in (directory, *shared)]
            settings = [f"{name}={value}" for name, value in variables.items()]
            command = [*_namespaces(), ENTER, "sh", str(self.root), str(directory), *places, "--", *settings, *command]
        return subprocess.run(
            command,
            cwd=directory,
            env={"PATH": os.environ["PATH"], **(variables if self.root is None else {})},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


def swift_toolchain(cache: Path = CACHE) -> Swift:
    """The toolchain of this machine, fetched where there is none; `UnavailableError` says why it cannot be had."""
    if _installed_version() >= OLDEST:
        return Swift(root=None)
    if os.uname().machine != "x86_64":
        raise UnavailableError(f"no Swift {OLDEST[0]}.{OLDEST[1]} here, and Debian's is for x86-64; install Swift")
    swift = Swift(root=unpacked(GROUP, cache))
    asked = swift.run(["swiftc", "--version"], directory=cache)
    if asked.returncode:
        said = asked.stderr.strip()[-300:]
        raise UnavailableError(
            f"the unpacked Swift does not run ({said}); be root, allow user namespaces, or install Swift"
        )
    return swift


def _installed_version() -> tuple[int, ...]:
    """The version of the `swiftc` on the path; () where there is none."""
    if shutil.which("swiftc") is None:
        return ()
    said = subprocess.run(["swiftc", "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    found = re.search(r"Swift version (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else ()


def _namespaces() -> list[str]:
    """How to get a mount namespace whose mounts end with the command."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *as_root, "--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]

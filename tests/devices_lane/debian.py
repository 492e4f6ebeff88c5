"""Debian packages for the device lane: pinned in `debian.lock`, fetched by an apt of their own and only unpacked.

apt checks Debian's signatures and the lock the version and sha256 of each package, so the lane tests the same daemon
and the same kernel every night. A mirror keeps old versions only for a while: when a pin is gone, the lane skips with
the command that writes the lock anew, `python -m tests.devices_lane.debian`.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

LOCK = Path(__file__).with_name("debian.lock")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
SECONDS = 900
RENEW = "python -m tests.devices_lane.debian"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Packages unpacked into one directory; `closure` adds everything they depend on."""

    suite: str
    architecture: str
    packages: tuple[str, ...]
    closure: bool


KERNEL = "6.1.0-50"  # the one that linux-source-6.1 in bookworm is the source of
# what aapt2 is linked with, as ldd tells
AAPT_LIBRARIES = (
    *("android-libaapt", "android-libandroidfw", "android-libbacktrace", "android-libbase", "android-libcutils"),
    *("android-liblog", "android-libutils", "android-libziparchive", "7zip", "libc6", "libexpat1", "libgcc-s1"),
    *("libpng16-16t64", "libprotobuf32t64", "libstdc++6", "zlib1g"),
)
GROUPS = {
    # the genuine Android debug daemon; bookworm has none
    "adbd-amd64": Group(suite="trixie", architecture="amd64", packages=("adbd",), closure=True),
    "adbd-arm64": Group(suite="trixie", architecture="arm64", packages=("adbd",), closure=True),
    "phone-arm64": Group(
        suite="bookworm",
        architecture="arm64",
        packages=(f"linux-image-{KERNEL}-arm64", f"linux-headers-{KERNEL}-arm64", "busybox-static"),
        closure=False,
    ),
    # what it takes to build one module of that kernel on an x86-64 machine
    "module-amd64": Group(
        suite="bookworm",
        architecture="amd64",
        packages=(f"linux-headers-{KERNEL}-common", "linux-kbuild-6.1", "linux-source-6.1"),
        closure=False,
    ),
    # what the phone's runner is compiled with; the library itself comes from PyPI's wheel
    "headers": Group(
        suite="trixie", architecture="amd64", packages=("libonnxruntime-dev", "nlohmann-json3-dev"), closure=False
    ),
    # the compiler and the package manager that test `runtimes/ios`, with a C library to link against and a shell
    "swift-amd64": Group(
        suite="trixie",
        architecture="amd64",
        packages=("swiftlang", "libc6-dev", "libstdc++-14-dev", "dash", "coreutils"),
        closure=True,
    ),
    # what the Kotlin tests of the apps run on (tests/apps)
    "junit": Group(suite="bookworm", architecture="amd64", packages=("junit4", "libhamcrest-java"), closure=False),
    # Android's own resource linker, what it links against (API 33), and what signs packages (tests/apps)
    "aapt-amd64": Group(
        suite="trixie",
        architecture="amd64",
        packages=("aapt", "android-framework-res", *AAPT_LIBRARIES),
        closure=False,
    ),
    "apksigner": Group(suite="trixie", architecture="amd64", packages=("apksigner", "libapksig-java"), closure=False),
    # only unstable has it; a machine whose clock runs ahead finds its release file expired: the lock holds the hashes
    "perfetto-arm64": Group(
        suite="sid",
        architecture="arm64",
        packages=("perfetto", "libc6", "libgcc-s1", "libstdc++6", "zlib1g"),
        closure=False,
    ),
}


class UnavailableError(Exception):
    """Why a part of the lane cannot be had here, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One line of the lock."""

    group: str
    package: str
    version: str
    sha256: str


def read_lock() -> list[Pin]:
    """The pins of all groups."""
    lines = [line.split() for line in LOCK.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return [Pin(group=group, package=name, version=version, sha256=digest) for group, name, version, digest in lines]


def unpacked(group: str, cache: Path) -> Path:
    """The directory with a group's packages unpacked, made on first use; later calls ask no network."""
    pins = [pin for pin in read_lock() if pin.group == group]
    assert pins, f"no pins for {group!r}; run {RENEW}"
    digest = hashlib.sha256("".join(pin.sha256 for pin in pins).encode()).hexdigest()[:16]
    return made_once(cache / f"{group}-{digest}", lambda work: _fetch_and_unpack(pins, GROUPS[group], work))


def made_once(place: Path, make: Callable[[Path], Path]) -> Path:
    """What is made whole or not at all, by one process: `make` gets an empty directory and says what of it to keep."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f".{place.name}.lock")):
        if not place.exists():
            partial = place.with_name(f".{place.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                make(partial).rename(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return place


def _fetch_and_unpack(pins: Sequence[Pin], group: Group, work: Path) -> Path:
    environment = _updated_apt(group, work)
    asked = [f"{pin.package}:{_architecture(pin, group)}={pin.version}" for pin in pins]
    downloads = work / "debs"
    downloads.mkdir()
    try:
        run(["apt-get", "--quiet", "download", *asked], downloads, environment)
    except UnavailableError as error:
        raise UnavailableError(f"{error}\nif {group.suite} has moved on, renew the pins: {RENEW}") from error
    found = {hashlib.sha256(deb.read_bytes()).hexdigest(): deb for deb in downloads.glob("*.deb")}
    for pin in pins:
        if pin.sha256 not in found:
            raise UnavailableError(f"{pin.package} {pin.version} is not the one in {LOCK.name}; renew it: {RENEW}")
        unpack(found[pin.sha256], work / "root")
    return work / "root"


def unpack(deb: Path, root: Path) -> None:
    """Unpack one package below `root`, into the merged /usr that today's packages expect."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as packed:
        command = ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "--directory", str(root)]
        subprocess.run(command, stdin=packed.stdout, check=True)
    if packed.returncode:
        raise UnavailableError(f"dpkg-deb could not unpack {deb.name}: {packed.returncode}")


def _architecture(pin: Pin, group: Group) -> str:
    return "all" if pin.package in ARCHITECTURE_ALL else group.architecture


ETC = ("apt.conf", "preferences", "sources.list")
ARCHITECTURE_ALL = frozenset(
    {f"linux-headers-{KERNEL}-common", "linux-source-6.1", "nlohmann-json3-dev"}
    | {"junit4", "libhamcrest-java"}
    | {"android-framework-res", "apksigner", "libapksig-java"}
    | {"debconf", "linux-libc-dev", "media-types", "netbase", "readline-common", "tzdata"}
)


def _updated_apt(group: Group, work: Path) -> Mapping[str, str]:
    """An environment in which apt knows the group's suite only, and nothing of this machine's packages."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb", "tar"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"no {tool} here: the device lane is made of Debian packages; run it on Debian")
    if not KEYRING.exists():
        raise UnavailableError(f"no {KEYRING}: apt cannot check Debian's signatures; install debian-archive-keyring")
    apt = work / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial", *(f"etc/{kind}.d" for kind in ETC)):
        (apt / folder).mkdir(parents=True)
    (apt / "state" / "status").touch()
    source = f"deb [arch={group.architecture} signed-by={KEYRING} check-valid-until=no] {MIRROR} {group.suite} main\n"
    (apt / "etc" / "sources.list").write_text(source)
    lines = [
        "#clear APT::Update::Post-Invoke;",
        "#clear APT::Update::Post-Invoke-Success;",
        "#clear APT::Architectures;",
        f'Dir::State "{apt}/state";',
        f'Dir::State::status "{apt}/state/status";',
        f'Dir::Cache "{apt}/cache";',
        f'Dir::Etc "{apt}/etc";',
        f'APT::Architecture "{group.architecture}";',
        f'APT::Architectures {{ "{group.architecture}"; }};',
        'APT::Sandbox::User "";',  # apt's own user may not read the cache
        'Acquire::Languages "none";',
        'Acquire::Retries "2";',
    ]
    (apt / "apt.conf").write_text("\n".join(lines) + "\n")
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "LC_ALL": "C"}
    run(["apt-get", "--quiet", "update"], apt, environment)
    if not any((apt / "state" / "lists").glob("*Packages*")):
        raise UnavailableError(f"{MIRROR} has no list of {group.suite} for {group.architecture}")
    return environment


def run(command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints; its failure is the reason why this part of the lane is not available."""
    name = f"`{' '.join(command[:5])}{' ...' * (len(command) > 5)}`"
    try:
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{name} could not run: {error}") from error
    if done.returncode:
        message = (done.stderr or done.stdout).strip()[-500:]
        raise UnavailableError(f"{name} failed with {done.returncode}: {message}")
    return done.stdout


def _closure(group: Group, environment: Mapping[str, str], work: Path) -> list[str]:
    """The packages of a group with all they need, virtual packages left out."""
    if not group.closure:
        return list(group.packages)
    no = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    listed = run(["apt-cache", "depends", "--recurse", *no, *group.packages], work, environment)
    return sorted({line.strip() for line in listed.splitlines() if line and line[0].isalnum()})


def _candidate(package: str, environment: Mapping[str, str], work: Path) -> tuple[str, str] | None:
    """Version and sha256 of the newest package of that name; nothing where only others provide it."""
    shown = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", package],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    fields = dict(line.split(": ", 1) for line in shown.stdout.splitlines() if ": " in line and line[0] != " ")
    return (fields["Version"], fields["SHA256"]) if "SHA256" in fields else None


def write_lock(work: Path) -> None:
    """Pin what the suites hold today."""
    lines = [f"# group, package, version, sha256; written by `{RENEW}`"]
    for name, group in GROUPS.items():
        folder = work / name
        folder.mkdir()
        environment = _updated_apt(group, folder)
        for package in _closure(group, environment, folder):
            candidate = _candidate(package, environment, folder)
            if candidate is not None:
                lines.append(f"{name} {package} {' '.join(candidate)}")
    LOCK.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        write_lock(Path(directory))

"""An aarch64 Linux without a kernel: qemu-user, a Debian root and PyPI's aarch64 wheels, kept in the user's cache.

Nothing is installed and nothing of the host's package state changes: apt gets lists, sources and architectures of its
own, and packages are only unpacked. apt checks Debian's signatures; wheels have the versions of `requirements.lock`.
qemu is trixie's: bookworm's 7.2 shows the guest the host's /proc/cpuinfo, and ONNX Runtime crashes on reading it.

qemu says whether kernels are right, never how fast they are.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[2]
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
GUEST_SUITE, QEMU_SUITE = "bookworm", "trixie"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHON = "3.11"  # bookworm's, whatever runs the tests
PYTHON_PACKAGES = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib")
LIBRARIES = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "libssl3", "libbz2-1.0", "liblzma5"),
    *("libsqlite3-0", "libuuid1", "libncursesw6", "libtinfo6", "libreadline8", "libcrypt1", "libgomp1", "libdb5.3"),
)
WHEELS = (
    *("onnxruntime", "onnxruntime-genai", "numpy", "safetensors", "tokenizers", "Jinja2", "MarkupSafe"),
    *("jsonschema", "jsonschema-specifications", "referencing", "rpds-py", "attrs", "typing_extensions"),
    *("rich", "markdown-it-py", "mdurl", "Pygments", "flatbuffers", "packaging", "protobuf"),
)
# what torch and ExecuTorch's Python binding import beside those
EXECUTORCH_WHEELS = (
    *("executorch", "torchao", "torch", "sympy", "mpmath", "networkx", "filelock", "fsspec", "ruamel.yaml", "tabulate"),
    "tqdm",
)
GLIBC = ("2_28", "2_27", "2_17")  # what the wheels may ask for; bookworm has 2.36
CPUS = ("cortex-a76", "max")  # dot products only, as in phones of 2019; everything qemu knows: i8mm, SVE, SME
SETUP_SECONDS = 900


class UnavailableError(Exception):
    """Why the machine cannot be had here."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where its three parts lie."""

    qemu: Path
    root: Path
    site: Path

    def start(self, cpu: str, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start the guest's Python on a CPU model; what it prints goes to `log`."""
        python = self.root / "usr" / "bin" / f"python{PYTHON}"
        environment = {
            **{name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ},
            "PYTHONPATH": os.pathsep.join([str(self.site), str(REPOSITORY)]),
            "ORT_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [str(self.qemu), "-cpu", cpu, "-L", str(self.root), str(python), *arguments]
        with log.open("wb") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=REPOSITORY)


def prepare(cache: Path, requirements: Sequence[str]) -> Machine:
    """The machine with these wheels, unpacked on first use; later calls read nothing from the network."""
    what = json.dumps([GUEST_SUITE, QEMU_SUITE, PYTHON_PACKAGES, LIBRARIES, *requirements])
    place = cache / f"aarch64-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".lock"):
        if not place.exists():
            partial = cache / ".partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                _unpack_wheels(requirements, partial)
                _unpack_debian(partial)
                partial.rename(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return Machine(qemu=place / "qemu-aarch64", root=place / "root", site=place / "site")


def pinned(names: Sequence[str]) -> list[str]:
    """Requirements with the lock file's versions; torch's CPU build: PyPI's for aarch64 needs CUDA."""
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    versions = {name.lower(): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)}
    return [f"{name}=={versions[name.lower()]}{'+cpu' * (name == 'torch')}" for name in names]


def _unpack_debian(into: Path) -> None:
    """Fetch Debian's packages through an apt of their own and unpack them."""
    for tool in ("apt-get", "dpkg", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"no {tool} here: the aarch64 root is made of Debian packages")
    if not KEYRING.exists():
        raise UnavailableError(f"no {KEYRING}: apt cannot check Debian's signatures; install debian-archive-keyring")
    work = into / "apt"
    environment = {**os.environ, "APT_CONFIG": str(_apt_config(work))}
    _run(["apt-get", "--quiet", "update"], work, environment)
    guest = [f"{name}:arm64" for name in (*PYTHON_PACKAGES, *LIBRARIES)]
    _run(["apt-get", "--quiet", "download", f"qemu-user/{QEMU_SUITE}", *guest], work, environment)
    for package in work.glob("*_arm64.deb"):
        _run(["dpkg-deb", "--extract", str(package), str(into / "root")], work)
    (qemu,) = work.glob("qemu-user_*.deb")
    _run(["dpkg-deb", "--extract", str(qemu), str(work / "qemu")], work)
    shutil.copy(work / "qemu" / "usr" / "bin" / "qemu-aarch64", into)
    shutil.rmtree(work)


def _apt_config(work: Path) -> Path:
    """A configuration that keeps apt inside `work`, without the host's sources, package state and hooks."""
    host = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    for folder in ("state/lists/partial", "cache/archives/partial", "etc/sources.list.d", "etc/preferences.d"):
        (work / folder).mkdir(parents=True)
    (work / "state" / "status").touch()
    sources = [
        f"deb [arch={architecture} signed-by={KEYRING}] {MIRROR} {suite} main\n"
        for architecture, suite in (("arm64", GUEST_SUITE), (host, QEMU_SUITE))
    ]
    (work / "etc" / "sources.list").write_text("".join(sources))
    lines = [
        "#clear APT::Update::Post-Invoke;",
        "#clear APT::Update::Post-Invoke-Success;",
        "#clear APT::Architectures;",
        f'Dir::State "{work}/state";',
        f'Dir::State::status "{work}/state/status";',
        f'Dir::Cache "{work}/cache";',
        f'Dir::Etc "{work}/etc";',
        f'APT::Architecture "{host}";',
        f'APT::Architectures {{ "{host}"; "arm64"; }};',
        'APT::Sandbox::User "";',  # apt's own user may not read the cache
        'Acquire::Languages "none";',
    ]
    config = work / "apt.conf"
    config.write_text("\n".join(lines) + "\n")
    return config


def _unpack_wheels(requirements: Sequence[str], into: Path) -> None:
    """Download wheels for the guest's Python and unpack them."""
    work = into / "wheels"
    tags = [f"--platform=manylinux_{glibc}_aarch64" for glibc in GLIBC] + ["--platform=manylinux2014_aarch64"]
    python = [f"--python-version={PYTHON}", "--implementation=cp", f"--abi=cp{PYTHON.replace('.', '')}", "--abi=abi3"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    wheels = ["--only-binary=:all:", *tags, *python, "--abi=none", "--dest", str(work)]
    torch = [requirement for requirement in requirements if requirement.startswith("torch==")]
    if torch:
        # alone: where the index cannot be reached, pip would ask it in vain for every package
        _run([*pip, *wheels, f"--index-url={os.environ.get('TORCH_INDEX_URL') or TORCH_INDEX}", *torch], into)
    _run([*pip, *wheels, *(requirement for requirement in requirements if requirement not in torch)], into)
    for wheel in work.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into / "site")
    shutil.rmtree(work)


def _run(command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None) -> None:
    name = f"`{' '.join(command[:4])} ... {command[-1]}`"
    try:
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=SETUP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{name} took more than {SETUP_SECONDS} s") from error
    if done.returncode:
        message = (done.stderr or done.stdout).strip()[-500:]
        raise UnavailableError(f"{name} failed with {done.returncode}: {message}")

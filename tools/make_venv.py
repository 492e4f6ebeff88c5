"""Make the project's environment: a venv, torch's CPU build, everything `requirements.lock` pins, and this project.

Run by `make venv` with any Python 3.8 or newer; the venv gets the interpreter that PYTHON names, else `python3`, else
the first supported one there is. PyPI's torch for Linux brings gigabytes of CUDA, so torch is installed first, from
where pip already finds a CPU build, else from PyTorch's CPU index; where neither can be had, PyPI's build works too.
"""

import os
import platform
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
SUPPORTED = ("3.11", "3.12", "3.13")
PROBE_SECONDS = 10


def main() -> None:
    """Make or complete the venv; running it again costs seconds."""
    python = VENV / "bin" / "python"
    if not python.exists():
        run([find_python(), "-m", "venv", str(VENV)])
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    torch = pinned("torch")
    if not has_torch(python, torch):
        run([*pip, "--quiet", *torch_index(python, torch), f"torch=={torch}"])
    run([*pip, "--quiet", "--requirement", str(LOCK)])
    run([*pip, "--quiet", "--no-deps", "--editable", str(ROOT)])


def find_python() -> str:
    """Return a supported interpreter: PYTHON where set, else python3, else the first that is installed."""
    wanted = os.environ.get("PYTHON")
    candidates = [wanted] if wanted else ["python3", *(f"python{version}" for version in SUPPORTED)]
    found = {candidate: version_of(candidate) for candidate in candidates}
    for candidate, version in found.items():
        if version in SUPPORTED:
            return candidate
    tried = ", ".join(f"{candidate} is {version or 'not installed'}" for candidate, version in found.items())
    sys.exit(f"error: Python {SUPPORTED[0]} to {SUPPORTED[-1]} is needed; {tried}; run make PYTHON=python3.12 venv")


def version_of(command: str) -> str:
    """Return 'major.minor' of an interpreter, or an empty string where it does not start."""
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run([command, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def pinned(package: str) -> str:
    """Return the version that the lock file pins."""
    match = re.search(rf"^{package}==(\S+)", LOCK.read_text(), re.MULTILINE)
    if match is None:
        sys.exit(f"error: {LOCK} does not pin {package}")
    return match.group(1)


def has_torch(python: Path, version: str) -> bool:
    script = "import importlib.metadata as m; print(m.version('torch').split('+')[0])"
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


def torch_index(python: Path, version: str) -> "list[str]":
    """Return pip's options for a CPU build: none where pip finds one already, or where PyPI's is one."""
    if platform.system() != "Linux" or finds_cpu_build(python, version):
        return []
    url = os.environ.get("TORCH_INDEX_URL", "")
    if url and reachable(url):
        return ["--extra-index-url", url]
    print(f"note: {url or 'TORCH_INDEX_URL'} cannot be reached; torch comes from PyPI, with CUDA", file=sys.stderr)
    return []


def finds_cpu_build(python: Path, version: str) -> bool:
    """Ask pip for the build that is marked as CPU; a machine may keep one in its own find-links or index."""
    command = [str(python), "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet", f"torch=={version}+cpu"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/torch/", timeout=PROBE_SECONDS):
            return True
    except (urllib.error.URLError, OSError, ValueError):
        return False


def run(command: "list[str]") -> None:
    """Show a command and run it; pip has said what is wrong where it fails."""
    print("+", " ".join(command), file=sys.stderr)
    done = subprocess.run(command, cwd=str(ROOT), check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()

"""Write `requirements.lock` from what is installed beside this interpreter: exact pins that plain pip reads.

What is pinned is the extra `all` of pyproject.toml and everything it needs, as installed here; whatever else is
installed for a try stays out. To move a pin: change pyproject.toml, install the new version into .venv, run `make lock`
and let CI try the result on each supported Python.
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
HEADER = """\
# Everything `make venv` installs, pinned. Written by `make lock`; see tools/write_lock.py.
# `pip install -r requirements.lock` works by itself; on Linux give pip PyTorch's CPU index first, or torch brings CUDA.
"""
PROJECT = "qwen-edge"
WHOLE = "all"
NOT_PINNED = {PROJECT, "setuptools"}  # itself, and what each Python brings
# wheels exist for these platforms only, or only these need them
COREAI = "sys_platform == 'darwin' or (sys_platform == 'linux' and platform_machine == 'x86_64')"
MARKERS = {
    "coreai-core": COREAI,
    "coreai-torch": COREAI,
    "yuvio": COREAI,
    "coremltools": "sys_platform != 'win32'",
}


def main() -> None:
    """Pin the closure, drop local version labels such as +cpu, and add markers."""
    pins = [pin(name) for name in sorted(closure(PROJECT, {WHOLE}) - NOT_PINNED)]
    LOCK.write_text(HEADER + "\n".join(sorted(pins, key=str.lower)) + "\n")


def closure(name: str, extras: set[str]) -> set[str]:
    """The normalized names of a distribution with some extras and of all that it needs here."""
    found: set[str] = set()
    waiting = [(canonicalize_name(name), frozenset(extras))]
    seen = set(waiting)
    while waiting:
        current, wanted = waiting.pop()
        found.add(current)
        for text in requires(current) or ():
            requirement = Requirement(text)
            needed = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in (*wanted, "")
            )
            item = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if needed and item not in seen:
                seen.add(item)
                waiting.append(item)
    return found


def pin(name: str) -> str:
    """One line of the lock; a package that is missing here is an error with what to do."""
    try:
        installed = version(name)
    except PackageNotFoundError:
        sys.exit(f"error: {name} is needed by pyproject.toml and not installed; pip install it into .venv first")
    marker = MARKERS.get(name)
    spelled = distribution(name).metadata["Name"]
    return f"{spelled}=={installed.split('+')[0]}" + (f" ; {marker}" if marker else "")


if __name__ == "__main__":
    main()

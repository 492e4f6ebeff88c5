"""Which program runs on the phone, and what has to go with it.

The phone-side runner is built for one runtime and one architecture (`runtimes/phone`). A build is a folder with a
program called `runner` and whatever lies beside it: shared libraries, a loader. It is found below `build/phone`, as
`RUNTIME-ARCHITECTURE`, or given.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.android.files import LocalFile
from benchmarks.devices import NotRunError
from runtimes.artifact import sha256_of

__all__ = ["BUILDS", "RunnerFiles", "local_file", "runner_files"]

BUILDS = Path("build/phone")
PROGRAM = "runner"


@dataclass(frozen=True, kw_only=True)
class RunnerFiles:
    """The runner's files; the name is made of their hashes."""

    name: str
    files: list[LocalFile]


def runner_files(given: Path | None, runtime: str, architecture: str, builds: Path = BUILDS) -> RunnerFiles:
    """The runner that was given, or the one that was built for a runtime and an architecture."""
    place = builds / f"{runtime}-{architecture}" if given is None else given
    if place.is_file():
        files = [local_file(place, PROGRAM, program=True)]
    else:
        found = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else []
        names = {file.relative_to(place).as_posix(): file for file in found}
        if PROGRAM not in names:
            raise NotRunError(
                f"{place}: no program called {PROGRAM!r} here for {runtime} on {architecture}; build it as "
                "runtimes/phone/README.md says, or name one with --runner"
            )
        files = [local_file(file, name, program=_runs(file)) for name, file in names.items()]
    digest = hashlib.sha256("".join(f"{file.name} {file.sha256}\n" for file in files).encode()).hexdigest()
    return RunnerFiles(name=digest[:16], files=files)


def local_file(place: Path, name: str, *, program: bool = False) -> LocalFile:
    """A file here with its hash, under the name it gets there."""
    return LocalFile(source=place, name=name, size_bytes=place.stat().st_size, sha256=sha256_of(place), program=program)


def _runs(file: Path) -> bool:
    return bool(file.stat().st_mode & 0o111)

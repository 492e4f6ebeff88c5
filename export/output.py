"""The output directory: ours alone while an export writes, and never taken for finished before it is.

An artifact is made in a hidden directory beside its place and renamed into place once it is sealed. What a killed run
left is put right by the next one: a half-made directory goes, and an artifact that was about to be replaced comes back.
A directory that holds anything else is refused, since an export writes README.md and LICENSE into its own.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from export.errors import OutputError
from runtimes.artifact import MANIFEST_NAME

LOCK_FILE = ".export.lock"
OTHER_OUT = "choose another --out"
OTHER_CACHE = "set XDG_CACHE_HOME to a directory on another disk"
NAMES_IN_MESSAGES = 3
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def own_directory(out: Path) -> Iterator[None]:
    """The output directory, made if absent, locked against other exports, and free of what a killed one left."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file, --out needs a directory; {OTHER_OUT}")
    with disk_errors(out, OTHER_OUT):
        _refuse_foreign(out)
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(f"{out}: another export is writing here; wait for it, or {OTHER_OUT}") from error
    try:
        with disk_errors(out, OTHER_OUT):
            _tidy(out)
        yield
    finally:
        lock.release()


@contextmanager
def disk_errors(place: Path, advice: str) -> Iterator[None]:
    """Turn a disk that is full, read-only or broken into a sentence; what was finished stays for the next run."""
    try:
        yield
    except OSError as error:
        raise _named(error.errno, str(error.filename or place), advice) from error
    except SafetensorError as error:  # its writer reports the system's error as text
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise _named(int(number.group(1)), str(place), advice) from error


def check_space(needed_bytes: Mapping[Path, int], advice: Mapping[Path, str]) -> None:
    """Refuse to start where a disk lacks the bytes that will be written to it; directories may share one."""
    by_device: dict[int, dict[Path, int]] = {}
    for directory, count in needed_bytes.items():
        by_device.setdefault(directory.stat().st_dev, {})[directory] = count
    for wanted in by_device.values():
        directory = max(wanted, key=lambda place: wanted[place])
        free, needed = shutil.disk_usage(directory).free, sum(wanted.values())
        if free < needed:
            raise OutputError(
                f"{directory}: {free} bytes free, about {needed} needed; free some, or {advice[directory]}"
            )


def partial_directory(out: Path, name: str) -> Path:
    """An empty hidden directory in which to make the artifact `name`."""
    partial = out / f".{name}.partial"
    _discard(partial)
    partial.mkdir()
    return partial


def put_in_place(partial: Path, place: Path) -> None:
    """Make the finished directory visible in one rename; an older artifact steps aside first."""
    old = place.with_name(f".{place.name}.old")
    if place.exists():
        place.rename(old)
    partial.rename(place)
    flush_directory(place.parent)
    _discard(old)


def flush_directory(directory: Path) -> None:
    """Have the disk remember the names in a directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tidy(out: Path) -> None:
    for partial in out.glob(".*.partial"):
        _discard(partial)
    for old in out.glob(".*.old"):
        place = out / old.name.removeprefix(".").removesuffix(".old")
        if place.exists():
            _discard(old)
        else:
            old.rename(place)


def _discard(directory: Path) -> None:
    """Remove a directory, its seal first: what is left of it if this is interrupted is no artifact."""
    if directory.exists():
        (directory / MANIFEST_NAME).unlink(missing_ok=True)
        shutil.rmtree(directory)


def _refuse_foreign(out: Path) -> None:
    """An export makes its lock before anything else, so a directory without one was filled by somebody else."""
    if not out.exists() or (out / LOCK_FILE).exists():
        return
    found = sorted(path.name for path in out.iterdir())
    if found:
        more = f" and {len(found) - NAMES_IN_MESSAGES} more" if len(found) > NAMES_IN_MESSAGES else ""
        raise OutputError(
            f"{out}: holds files that no export wrote ({', '.join(found[:NAMES_IN_MESSAGES])}{more}), which a bundle "
            "could "
            "overwrite; choose a new or empty directory for --out"
        )


def _named(number: int | None, place: str, advice: str) -> OutputError:
    reason = os.strerror(number) if number is not None else "unknown fault"
    if number in FULL:
        return OutputError(
            f"{place}: no space left on the disk ({reason}); free some and run the same command again, finished layers "
            f"are kept, or {advice}"
        )
    if number in FORBIDDEN:
        return OutputError(f"{place}: cannot be written ({reason}); change its permissions, or {advice}")
    return OutputError(f"{place}: cannot be read or written ({reason}); run the same command again, or {advice}")

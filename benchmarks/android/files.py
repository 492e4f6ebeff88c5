"""Files on the device, known by their hashes: what is there whole is not sent again, what is there in part is not used.

A file travels under another name, is hashed where it arrived, and only then gets its name. A folder is named after the
hashes of what it should hold, so a run that was cut off goes on where it stopped, and two artifacts never mix.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from benchmarks.android.adb import Adb
from benchmarks.devices import CorruptError, DeviceError, DiskFullError, Report

__all__ = ["SPARE_BYTES", "LocalFile", "free_bytes", "hashes_there", "push_files"]

HASH_S = 600.0
SPARE_BYTES = 32 * 1024 * 1024  # what is left free for streams and the system
PARTIAL = ".partial"


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file here and what it must be there; `program` ones are made executable."""

    source: Path
    name: str
    size_bytes: int
    sha256: str
    program: bool = False


def push_files(adb: Adb, files: Iterable[LocalFile], folder: str, report: Report) -> int:
    """Bring files into a folder of the device; how many bytes had to be sent."""
    wanted = list(files)
    found = hashes_there(adb, folder, [file.name for file in wanted])
    missing = [file for file in wanted if found.get(file.name) != file.sha256]
    _check_room(adb, folder, missing)
    total = sum(file.size_bytes for file in missing)
    sent = 0
    for file in missing:
        report(f"pushing {file.name}", sent, total)
        _push_one(adb, file, folder)
        sent += file.size_bytes
    report("pushing", total, total)
    programs = [file.name for file in wanted if file.program]
    if programs:
        adb.check(f"cd {shlex.quote(folder)} && chmod 755 {_quoted(programs)}")
    return sent


def hashes_there(adb: Adb, folder: str, names: Iterable[str]) -> Mapping[str, str]:
    """The SHA-256 of those files of a folder that are there."""
    listed = list(names)
    adb.check(f"mkdir -p {_quoted([folder, *_parents(folder, listed)])}")
    # a missing file is no failure here, so the status says nothing; the tool itself must be there
    answer = adb.shell(
        f"cd {shlex.quote(folder)} && sha256sum -- {_quoted(listed)} 2>/dev/null; command -v sha256sum >/dev/null",
        timeout_s=HASH_S,
    )
    if answer.status != 0:
        raise DeviceError(f"{adb.serial}: has no sha256sum, so nothing that is pushed can be checked")
    fields = (line.split(maxsplit=1) for line in answer.text.splitlines())
    return {parts[1].lstrip("*"): parts[0] for parts in fields if len(parts) == 2}


def free_bytes(adb: Adb, folder: str) -> int | None:
    """Free space where a folder lies; None where the device's df says it in another way."""
    lines = adb.shell(f"df -k {shlex.quote(folder)}").text.strip().splitlines()
    fields = lines[-1].split() if lines else []
    # device, blocks, used, available, share, mount point; the device's name may stand on a line of its own
    return int(fields[-3]) * 1024 if len(fields) >= 5 and re.fullmatch("[0-9]{1,15}", fields[-3]) else None


def _push_one(adb: Adb, file: LocalFile, folder: str) -> None:
    place = str(PurePosixPath(folder) / file.name)
    partial = f"{place}{PARTIAL}"
    adb.check(f"rm -f {_quoted([place, partial])}")
    adb.push(file.source, partial)
    arrived = adb.check(f"sha256sum -- {shlex.quote(partial)}", timeout_s=HASH_S).split()[:1]
    if arrived != [file.sha256]:
        adb.check(f"rm -f {shlex.quote(partial)}")
        raise CorruptError(
            f"{adb.serial}: {file.name} arrived with SHA-256 {arrived}, sent was {file.sha256}; try again"
        )
    adb.check(f"mv {_quoted([partial, place])}")


def _check_room(adb: Adb, folder: str, missing: Iterable[LocalFile]) -> None:
    needed = sum(file.size_bytes for file in missing)
    free = free_bytes(adb, folder)
    if needed and free is not None and free < needed + SPARE_BYTES:
        raise DiskFullError(
            f"{adb.serial}: {free} bytes are free in {folder}, {needed} are to be pushed and {SPARE_BYTES} must stay; "
            "free some space on the device"
        )


def _parents(folder: str, names: Iterable[str]) -> list[str]:
    parents = {PurePosixPath(name).parent for name in names} - {PurePosixPath(".")}
    return sorted(str(PurePosixPath(folder) / parent) for parent in parents)


def _quoted(words: Iterable[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)

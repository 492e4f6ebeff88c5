"""What may be kept between runs on this machine: file hashes, the rebuilt tokenizer, random checkpoints.

Everything in here can be deleted at any time; it lives where the XDG base directory specification puts caches.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from export.errors import OutputError

NAME = "qwen-edge"


def directory(kind: str) -> Path:
    """Return the cache directory of one kind, made if absent."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / NAME / kind
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be made ({error.strerror}); set XDG_CACHE_HOME to a writable place"
        ) from error
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, remembered as long as its size, inode and times stay the same."""
    path = path.resolve()
    status = path.stat()
    # ctime too: a program can set mtime back, but not ctime
    key = [str(path), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    record_name = hashlib.sha256(str(path).encode()).hexdigest()[:32] + ".json"
    remembered = _recall(record_name, key)
    if remembered is not None:
        return remembered
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError, OutputError):  # a cache that cannot be written costs time, not correctness
        write_atomically(directory("sha256") / record_name, json.dumps({"key": key, "sha256": found}).encode())
    return found


def _recall(record_name: str, key: list[object]) -> str | None:
    try:
        record = json.loads((directory("sha256") / record_name).read_text())
        return str(record["sha256"]) if record["key"] == key else None
    except (OSError, OutputError, ValueError, KeyError, TypeError):
        return None

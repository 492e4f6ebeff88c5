"""The adb server: ended by the last run of ours that needs it, where one of ours started it.

adb starts a server in the background at its first command, and that stays until somebody ends it. Runs on several
phones share one, and a server that was there before is somebody else's. So each run holds a lock that all runs of a
user share; the first notes in the locked file whether it had to start the server, and the last ends it if so. A run
that is killed leaves the server; the next first run takes it for somebody else's. An old server is refused, whoever
started it: it is the server that speaks to the phone.
"""

import fcntl
import os
import re
import time
from pathlib import Path
from typing import IO

from benchmarks.capped import Finished, ProgramTimeoutError, run_capped
from benchmarks.devices import DeviceError, DeviceTimeoutError

__all__ = ["OLDEST_ADB", "ServerLease", "hold_server"]

OLDEST_ADB = 36
SERVER_S = 30.0
RETRY_S = 0.1
MAX_ANSWER_BYTES = 65536
STARTED = b"daemon started"
OURS, THEIRS = "ours", "theirs"
# where adb looks for a server, in this order; another place is another server
ADDRESSES = ("ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_ADB_SERVER_PORT")


class ServerLease:
    """A server that stays until this is ended."""

    def __init__(self, program: Path, lock: IO[str]) -> None:
        self._program = program
        self._lock = lock

    def end(self) -> None:
        """Let go of the server; nothing happens the second time."""
        if self._lock.closed:
            return
        with self._lock:
            if _try(self._lock, fcntl.LOCK_EX) and _noted(self._lock) == OURS:
                _adb(self._program, "kill-server")
                self._lock.truncate(0)  # whoever was waiting for the lock has to start anew


def hold_server(program: Path) -> ServerLease:
    """Start the server where none runs, and keep it until the lease is ended; an old one that runs is refused."""
    place = _place()
    place.parent.mkdir(parents=True, exist_ok=True)
    lease = ServerLease(program, lock := place.open("a+"))
    try:
        deadline = time.monotonic() + 2 * SERVER_S
        while not _joined(program, lock):
            if time.monotonic() > deadline:
                raise DeviceError(f"{place}: another run has been starting or ending adb's server for too long; end it")
            time.sleep(RETRY_S)
        _refuse_old(program)
    except BaseException:
        lease.end()
        raise
    return lease


def _joined(program: Path, lock: IO[str]) -> bool:
    """Whether this is now one of those who keep a server that runs."""
    if _try(lock, fcntl.LOCK_EX):
        started = STARTED in _adb(program, "start-server").stderr
        lock.truncate(0)
        lock.write(OURS if started else THEIRS)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_SH)
        return True
    if _try(lock, fcntl.LOCK_SH):
        if _noted(lock):
            return True
        fcntl.flock(lock, fcntl.LOCK_UN)  # the last one ended the server a moment ago
    return False


def _noted(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read()


def _try(lock: IO[str], kind: int) -> bool:
    """Take a lock, or none at all where others have it."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _place() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    address = "-".join(os.environ[name] for name in ADDRESSES if os.environ.get(name)) or "default"
    return cache / "qwen-edge" / "adb" / f"server-{re.sub(r'[^A-Za-z0-9]', '_', address)[:100]}.lock"


def _refuse_old(program: Path) -> None:
    found = re.search(rb'^version: "(\d+)\.', _adb(program, "server-status").stdout, re.MULTILINE)
    if found is None or int(found[1]) < OLDEST_ADB:
        raise DeviceError(
            f"the adb server that runs here is older than {OLDEST_ADB}; stop it by `adb kill-server` and try again"
        )


def _adb(program: Path, word: str) -> Finished:
    try:
        return run_capped([str(program), word], timeout_s=SERVER_S, max_stdout_bytes=MAX_ANSWER_BYTES)
    except ProgramTimeoutError as error:
        raise DeviceTimeoutError(f"{program} {word}: no answer after {SERVER_S:g} s") from error

"""Processes that end when the one that started them does: a night or a run that is killed leaves nothing running.

Linux tells a process of its parent's death by a signal that it asked for. `tethered(command)` is a command that asks
and then becomes the other one. A parent is a thread here: whoever starts a process has to live as long as that runs.
Elsewhere than on Linux nothing is asked for.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

__all__ = ["run_tethered", "tethered"]

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GRACE_S = 30.0  # a run that is asked to end puts its phone's settings back
NOT_STARTED = 127  # what shells say of a program that can't be run


def tethered(command: Sequence[str]) -> list[str]:
    """The command that runs `command`, and gets SIGTERM when this process dies."""
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), *command]


def run_tethered(
    command: Sequence[str], *, stdout: IO[bytes], stderr: IO[bytes], timeout_s: float, directory: Path | None = None
) -> int:
    """Run a command to its end and give its status; SIGTERM and later SIGKILL where it takes too long, and raise.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout_s`; it has ended by then.
    """
    with subprocess.Popen(tethered(command), stdout=stdout, stderr=stderr, cwd=directory) as process:
        try:
            return process.wait(timeout_s)
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
                process.kill()


def _end_with(parent: int) -> None:
    """From now on this process gets SIGTERM when its parent dies; at once where that happened already."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _become(words: list[str]) -> int:
    _end_with(int(words[0]))
    try:
        os.execvp(words[1], words[1:])
    except OSError as error:
        sys.stderr.write(f"error: {words[1]}: {error.strerror}\n")
        return NOT_STARTED


if __name__ == "__main__":
    sys.exit(_become(sys.argv[1:]))

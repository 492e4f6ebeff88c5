"""Run a program with a limit on its time and on what it says: output from a phone is untrusted, and may never end."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError

__all__ = ["Finished", "OutputTooLargeError", "ProgramTimeoutError", "kill_group", "run_capped"]

CHUNK_BYTES = 65536
ERROR_BYTES = 64 * 1024
KILL_WAIT_S = 10.0


class ProgramTimeoutError(BenchmarkError):
    """A program took longer than its limit, and was killed; `finished` is what it had said."""

    def __init__(self, name: str, timeout_s: float, finished: "Finished") -> None:
        super().__init__(f"{name}: no end within {timeout_s:g} s; it was killed")
        self.finished = finished


class OutputTooLargeError(BenchmarkError):
    """A program said more than it may, and was killed."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a program ended; a negative `status` is the signal that killed it. Of stderr only the end is kept."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def error_text(self) -> str:
        """The end of stderr as one printable line."""
        text = self.stderr[-2000:].decode("utf-8", "replace")
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def run_capped(
    command: Sequence[str],
    *,
    timeout_s: float,
    max_stdout_bytes: int,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Finished:
    """Run a program in a process group of its own, which is killed whole on a timeout or when it says too much."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=directory,
        start_new_session=True,
    )
    name = Path(command[0]).name
    try:
        heard = _listen(process, time.monotonic() + timeout_s, max_stdout_bytes)
        ended = process.poll() is not None
    finally:
        kill_group(process.pid)
        process.wait(KILL_WAIT_S)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if len(heard.stdout) > max_stdout_bytes:
        raise OutputTooLargeError(f"{name}: more than {max_stdout_bytes} bytes of output; it was killed")
    finished = Finished(status=process.returncode, stdout=bytes(heard.stdout), stderr=bytes(heard.stderr))
    if not ended:
        raise ProgramTimeoutError(name, timeout_s, finished)
    return finished


@dataclass(frozen=True, kw_only=True)
class _Heard:
    stdout: bytearray
    stderr: bytearray


def _listen(process: subprocess.Popen[bytes], deadline: float, max_stdout_bytes: int) -> _Heard:
    """Read both pipes until they are closed and the process has ended, or until it is late or too much."""
    heard = _Heard(stdout=bytearray(), stderr=bytearray())
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout or 0, selectors.EVENT_READ, heard.stdout)
        selector.register(process.stderr or 0, selectors.EVENT_READ, heard.stderr)
        while selector.get_map() and len(heard.stdout) <= max_stdout_bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                return heard
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, CHUNK_BYTES)
                if chunk:
                    key.data.extend(chunk)
                else:
                    selector.unregister(key.fileobj)
            del heard.stderr[:-ERROR_BYTES]
    if len(heard.stdout) <= max_stdout_bytes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    return heard


def kill_group(pid: int) -> None:
    """Kill a process group whole, if it is still there."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return

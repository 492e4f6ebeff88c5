"""A process on the phone that outlives the cable: started in a session of its own, and asked after from time to time.

A shell that waits would end with the connection and take the result with it. So the runner is detached, leaves its
exit status in a file, and is looked for again when the phone comes back. Asking takes some milliseconds of one core, so
it is done more and more rarely.
"""

import re
import shlex
import time
from dataclasses import dataclass

from benchmarks.android.adb import Adb
from benchmarks.capped import Finished
from benchmarks.devices import DeviceTimeoutError, LostDeviceError

__all__ = ["Started", "end", "killed_for_memory", "start", "wait"]

FIRST_POLL_S = 0.3
LONGEST_POLL_S = 5.0
POLL_GROWTH = 1.4
END_S = 10.0
STDERR_BYTES = 8000
# a process that nobody has collected yet has ended all the same
ALIVE = 'alive() { [ -e /proc/$1/status ] && ! grep -q "^State:.*Z" /proc/$1/status; }'
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# lmkd in logcat, the kernel in dmesg
KILLED = r"(lowmemorykiller|lmkd|Killed process|Out of memory|oom-kill)[^\n]*\b{pid}\b"


@dataclass(frozen=True, kw_only=True)
class Started:
    """A process of ours: where its files are, the session it leads, itself, and the boot it belongs to."""

    folder: str
    session: int
    pid: int
    boot: str


def start(adb: Adb, command: str, folder: str, *, reconnect_s: float) -> Started:
    """Start a command of the shell in a folder, detached; the connection may break meanwhile."""
    # the inner shell leads the session; `pid` is the command itself, so that its end can be told from the shell's
    inner = (
        f"{command} >stdout 2>stderr </dev/null & pid=$!; echo $$ $pid >pids.new; mv pids.new pids; "
        "wait $pid; echo $? >status.new; mv status.new status"
    )
    quoted = shlex.quote(folder)
    deadline = time.monotonic() + reconnect_s
    try:
        adb.check(
            f"cd {quoted} && rm -f pids status && {{ setsid sh -c {shlex.quote(inner)} >/dev/null 2>&1 </dev/null & }}"
        )
    except LostDeviceError:
        adb.reconnect()
    while True:
        text = _said(adb, f"cat {quoted}/pids {BOOT_ID} 2>/dev/null")
        found = re.fullmatch(r"\s*([0-9]{1,9}) ([0-9]{1,9})\s+([0-9a-f-]{36})\s*", text)
        if found is not None:
            return Started(folder=folder, session=int(found[1]), pid=int(found[2]), boot=found[3])
        if time.monotonic() > deadline:
            raise LostDeviceError(f"{adb.serial}: the runner was not seen to start within {reconnect_s:g} s")
        time.sleep(FIRST_POLL_S)


def _said(adb: Adb, script: str) -> str:
    """The answer, empty where the device is away."""
    try:
        return adb.shell(script).text
    except (LostDeviceError, DeviceTimeoutError):
        adb.reconnect()
        return ""


def wait(adb: Adb, started: Started, *, timeout_s: float, reconnect_s: float) -> Finished:
    """How the process ended, also where the device was gone in between for no longer than `reconnect_s`."""
    deadline = time.monotonic() + timeout_s
    heard = time.monotonic()
    pause_s = FIRST_POLL_S
    while True:
        try:
            finished = _look(adb, started)
            heard = time.monotonic()
        except (LostDeviceError, DeviceTimeoutError) as error:
            if isinstance(error, RebootedError) or time.monotonic() - heard > reconnect_s:
                raise LostDeviceError(f"{error}; it was waited for {reconnect_s:g} s") from error
            adb.reconnect()
            finished = None
        if finished is not None:
            return finished
        if time.monotonic() > deadline:
            raise DeviceTimeoutError(
                f"{adb.serial}: the case was not over after {timeout_s:g} s; the runner was killed"
            )
        time.sleep(min(pause_s, max(0.0, deadline - time.monotonic())))
        pause_s = min(LONGEST_POLL_S, pause_s * POLL_GROWTH)


class RebootedError(LostDeviceError):
    """The device is there, but it is not the boot that the process belonged to."""


def _look(adb: Adb, started: Started) -> Finished | None:
    """How the process ended, or None where it still runs."""
    # the status is looked for twice: it may come between the first look and the one at the process
    answer = adb.shell(
        f"{ALIVE}; cat {BOOT_ID}; cd {shlex.quote(started.folder)} || exit 1; if [ -e status ]; then cat status; "
        f"elif alive {started.session}; then echo running; elif [ -e status ]; then cat status; else echo gone; fi"
    )
    words = answer.text.split()
    if not words or words[0] != started.boot:
        raise RebootedError(f"{adb.serial}: started anew while the runner ran (its boot_id is another)")
    if words[-1] == "running":
        return None
    status = 137 if words[-1] == "gone" else int(words[-1]) if re.fullmatch("[0-9]{1,3}", words[-1]) else 1
    said = adb.shell(f"cd {shlex.quote(started.folder)}; tail -c {STDERR_BYTES} stderr").text
    return Finished(status=status, stdout=b"", stderr=said.encode())


def end(adb: Adb, started: Started) -> str | None:
    """Kill whatever is left of the session; what still lives after that, if anything."""
    adb.shell(f"kill -s KILL -- -{started.session}; kill -s KILL {started.pid}")
    deadline = time.monotonic() + END_S
    while adb.shell(f"{ALIVE}; alive {started.pid} || alive {started.session}").status == 0:
        if time.monotonic() > deadline:
            return f"process {started.pid} on {adb.serial} could not be killed"
        time.sleep(FIRST_POLL_S)
    return None


def killed_for_memory(adb: Adb, pid: int) -> bool:
    """Whether the device's logs tell of a kill for memory, as far as it shows them to us."""
    logs = [adb.shell(command) for command in ("logcat -d -b all -t 2000", "dmesg")]
    return any(re.search(KILLED.replace("{pid}", str(pid)), log.text) for log in logs if log.status == 0)

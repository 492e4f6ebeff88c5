"""The demo app on a phone, through adb: is it there, start its benchmark mode, look how far it is, end it.

The app reads and writes its own folder on shared storage, where adb may write too. An app that cannot go on says so in
the log, under its tag; what a log says is untrusted, and is only ever quoted as a reason.
"""

import re
import shlex
from dataclasses import dataclass

from benchmarks.android.adb import Adb

__all__ = ["DEFAULT_PACKAGE", "Look", "end", "files_folder", "is_installed", "look", "start"]

DEFAULT_PACKAGE = "org.qwenedge.demo"
ACTIVITY = "BenchmarkActivity"
TAG = "qwen-edge"
START_S = 60.0
END_LINE = re.compile(r'"event"\s*:\s*"end"')
LAST_LINE_BYTES = 400  # an end line has about 110
MOST_COMPLAINT = 600


@dataclass(frozen=True, kw_only=True)
class Look:
    """How far the app is: its process, whether its stream seems whole, and what it complained of last."""

    pid: int | None
    ended: bool
    complaint: str


def files_folder(package: str) -> str:
    """The app's folder on shared storage."""
    return f"/sdcard/Android/data/{package}/files"


def is_installed(adb: Adb, package: str) -> bool:
    """Whether the phone has the app."""
    return adb.shell(f"pm path {shlex.quote(package)}").text.startswith("package:")


def start(adb: Adb, package: str, *, artifact: str, cases: str, out: str) -> None:
    """Start the benchmark mode in a fresh process; names are below the app's folder."""
    end(adb, package)
    words = ["am", "start", "-W", "-n", f"{package}/{package}.{ACTIVITY}"]
    for name, value in (("artifact", artifact), ("cases", cases), ("out", out)):
        words += ["--es", name, value]
    adb.check(" ".join(map(shlex.quote, words)), timeout_s=START_S)


def look(adb: Adb, package: str, out: str, before: int | None) -> Look:
    """One look at the app and at the end of its stream; `before` is the process that was seen the last time."""
    place = shlex.quote(f"{files_folder(package)}/{out}")
    process = adb.shell(f"pidof {shlex.quote(package)}").text.split()
    pid = int(process[0]) if process and re.fullmatch("[0-9]{1,9}", process[0]) else None
    last = adb.shell(f"tail -c {LAST_LINE_BYTES} {place} 2>/dev/null").text.strip().splitlines()
    ended = bool(last and END_LINE.search(last[-1]))
    known = before if pid is None else pid
    return Look(pid=pid, ended=ended, complaint="" if known is None else _complaint(adb, known))


def _complaint(adb: Adb, pid: int) -> str:
    """The last error that this process wrote to the log, whether it still lives or not."""
    log = adb.shell(f"logcat -d -v brief --pid={pid} -s {TAG}:E")
    said = [line for line in log.text.splitlines() if line.startswith(f"E/{TAG}")] if log.status == 0 else []
    return " ".join(said[-1].split())[:MOST_COMPLAINT] if said else ""


def end(adb: Adb, package: str) -> None:
    """End the app, if it runs."""
    adb.shell(f"am force-stop {shlex.quote(package)}")

"""What is changed on a phone while it is measured, and put back afterwards.

Each change is one command of a service, its undoing another. A phone that has not got the service is left alone: what
its state is then stands in the record as unknown.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.android.adb import Adb

__all__ = ["Changed", "make_ready", "put_back"]

STAY_ON = "settings get global stay_on_while_plugged_in"
WAKE_UP = "input keyevent KEYCODE_WAKEUP"
ALWAYS = 7  # on AC, USB and wireless power


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What was done, and the command that undoes it."""

    what: str
    undo: str


def make_ready(adb: Adb) -> list[Changed]:
    """Wake the phone, keep its screen on, keep it from dozing."""
    changed = []
    before = adb.shell(STAY_ON)
    if before.status == 0 and re.fullmatch(r"\s*(\d{1,2}|null)\s*", before.text):
        old = before.text.strip()
        if adb.shell(f"settings put global stay_on_while_plugged_in {ALWAYS}").status == 0:
            value = "0" if old == "null" else old
            undo = f"settings put global stay_on_while_plugged_in {value}"
            changed.append(Changed(what="the screen stays on", undo=undo))
    adb.shell(WAKE_UP)
    dozes = adb.shell("dumpsys deviceidle enabled deep")
    if dozes.status == 0 and dozes.text.strip() == "1" and adb.shell("dumpsys deviceidle disable deep").status == 0:
        changed.append(Changed(what="doze is off", undo="dumpsys deviceidle enable deep"))
    return changed


def put_back(adb: Adb, changed: Sequence[Changed]) -> list[str]:
    """Undo the changes, the last first; what could not be undone."""
    failed = []
    for change in reversed(changed):
        answer = adb.shell(change.undo)
        if answer.status != 0:
            failed.append(f"{change.what} still: `{change.undo}` had status {answer.status}")
    return failed

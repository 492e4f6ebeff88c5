"""Limits that end what hangs on any machine: longer where the machine is busy, never endless."""

import os
import time
from collections.abc import Callable

__all__ = ["patient", "wait_until"]

SECONDS = 20.0
POLL_SECONDS = 0.05


def patient(seconds: float) -> float:
    """A limit that is right on an idle machine, times the processes that wait for each processor of this one now."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_until(condition: Callable[[], bool], problem: str, seconds: float = SECONDS) -> None:
    """Wait until something is so, for so long on an idle machine."""
    limit = patient(seconds)
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{problem} (waited {limit:.0f} s)")
        time.sleep(POLL_SECONDS)

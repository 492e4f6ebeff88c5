"""What Linux says about a process's memory, in bytes: the Vm and Rss lines of /proc/PID/status.

VmHWM is the resident high-water mark, RssAnon the part that no file backs and that a phone can't drop. Only the
standard library, so that looking costs a worker nothing.
"""

import os
from pathlib import Path

__all__ = ["read_status"]


def read_status(pid: int | None = None) -> dict[str, int]:
    """The memory lines of one process, of this one by default; empty when the process is gone."""
    try:
        lines = Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.startswith(("Vm", "Rss")))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _unit in fields}

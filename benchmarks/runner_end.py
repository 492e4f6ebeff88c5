"""How a runner ended: which words and which exit status mean what, the same on every device.

The stream's last line decides whether there is a result. Only where it is missing is it asked how the runner ended.
"""

import signal

from benchmarks.capped import Finished
from benchmarks.devices import DeviceError, DiskFullError, KilledError, NotRunError, OutOfMemoryError
from benchmarks.errors import StreamError
from benchmarks.stream import parse_stream

__all__ = ["check_end", "is_sealed", "named_failure"]

OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "Cannot allocate memory", "out of memory", "no memory for", "ENOMEM")
NO_SPACE = ("No space left on device", "ENOSPC")
NOT_BUILT_IN = "this build lacks an operator"  # the phone's runner, of a model it was not built for
SHELL_SIGNAL = 128  # a shell adds the signal to this


def is_sealed(data: bytes) -> bool:
    """Whether a stream has its last line, and that agrees with the rest."""
    try:
        parse_stream(data)
    except StreamError:
        return False
    return True


def named_failure(what: str) -> DeviceError:
    """The error for a runner's own words."""
    if any(word.lower() in what.lower() for word in NO_SPACE):
        return DiskFullError(f"no room to write: {what}")
    if any(word.lower() in what.lower() for word in OUT_OF_MEMORY):
        return OutOfMemoryError(f"no memory: {what}")
    if NOT_BUILT_IN in what:
        return NotRunError(what)
    return DeviceError(what)


def check_end(finished: Finished, *, out_of_memory: bool) -> None:
    """Raise the error that an unsealed stream and this end stand for; a quiet 0 is left to whoever reads the stream."""
    said = finished.error_text or "it said nothing"
    number = -finished.status if finished.status < 0 else finished.status - SHELL_SIGNAL
    if number == signal.SIGKILL and out_of_memory:
        raise OutOfMemoryError("the system killed the runner for its memory")
    if finished.status == 0:
        return
    named = named_failure(said)
    if named.status != "failed":
        raise named
    if 0 < number < signal.NSIG:
        raise KilledError(f"the runner was killed by signal {number} ({signal.strsignal(number)}): {said}")
    raise DeviceError(f"the runner ended with status {finished.status}: {said}")

"""A network of this process alone: loopback and nothing else.

`adbd` hands a root shell to whoever reaches its port, so it, the adb server and this process meet where nobody else is.
Threads and children started inside stay inside. `outside` steps out again, for downloads.
"""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.devices_lane.debian import UnavailableError

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
HERE = Path("/proc/thread-self/ns/net")


class PrivateNetwork:
    """Where this thread was before, so that it can go there again."""

    def __init__(self, host: int) -> None:
        self._host = host

    @contextmanager
    def outside(self) -> Iterator[None]:
        """The machine's own network, for this thread and what it starts meanwhile."""
        inside = os.open(HERE, os.O_RDONLY)
        try:
            _enter(self._host)
            yield
        finally:
            _enter(inside)
            os.close(inside)


@contextmanager
def private_network() -> Iterator[PrivateNetwork]:
    """Move this thread into a network of its own, with loopback up; it comes back at the end."""
    host = os.open(HERE, os.O_RDONLY)
    try:
        _call("unshare", CLONE_NEWNET)
        try:
            _raise_loopback()
            yield PrivateNetwork(host)
        finally:
            _enter(host)
    finally:
        os.close(host)


def _enter(namespace: int) -> None:
    _call("setns", namespace, CLONE_NEWNET)


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        reason = os.strerror(ctypes.get_errno())
        raise UnavailableError(f"{name}: {reason}; run as root, or in a namespace of yours: `unshare --map-root-user`")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))

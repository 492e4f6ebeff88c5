"""Cold files: drop what the page cache holds of them, and look what it still holds.

Dropping is a request (`posix_fadvise`), which any user may make for files nobody has mapped; so what stayed is counted
with `mincore` and kept beside the figure that depends on it.
"""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["drop", "resident_bytes", "warm"]

PAGE = mmap.PAGESIZE
MAP_FAILED = ctypes.c_void_p(-1).value
READ_BYTES = 1024 * 1024


def drop(files: Iterable[Path]) -> None:
    """Ask the system to forget the contents of some files; dirty pages are written first."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fdatasync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def warm(files: Iterable[Path]) -> None:
    """Read files once, so that the page cache has them."""
    for file in files:
        with file.open("rb", buffering=0) as handle:
            while handle.read(READ_BYTES):
                pass


def resident_bytes(file: Path) -> int:
    """Bytes of a file that the page cache holds, in whole pages."""
    length = file.stat().st_size
    if length == 0:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    handle = os.open(file, os.O_RDONLY)
    try:
        address = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
    finally:
        os.close(handle)
    if address == MAP_FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
    pages = ctypes.create_string_buffer(-(-length // PAGE))
    try:
        if libc.mincore(address, length, pages) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))
    finally:
        libc.munmap(address, length)
    return sum(page & 1 for page in pages.raw) * PAGE

"""Writing files that runtimes map into memory and read only in places, such as an embedding table.

Linux keeps what one call writes in as few, as large pieces of page cache as it can, and maps a piece as a whole when a
byte of it is read: on ext4 (6.18) 86 rows read from a table of 127 MB that was written at once made all of it resident.
Small calls leave small pieces, and a row costs what it is.
"""

from typing import Protocol

PIECE_BYTES = 1 << 16  # what the kernel maps around a fault anyway


class Writable(Protocol):
    """What bytes go to."""

    def write(self, data: memoryview, /) -> int: ...


def write_in_pieces(file: Writable, data: memoryview) -> None:
    """Write contiguous bytes in calls of at most 64 KiB."""
    if not data.nbytes:
        return  # such a view cannot be cast
    whole = data.cast("B")
    for start in range(0, whole.nbytes, PIECE_BYTES):
        file.write(whole[start : start + PIECE_BYTES])

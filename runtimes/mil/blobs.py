"""Read `weight.bin`, the file of large constants, without trusting it.

The file is a header of 64 bytes (number of entries, version), then for each entry 64 bytes of metadata (a sentinel, the
element type, length in bytes, place of the data, padding bits) and the data. A program names an entry by the offset of
its metadata. Elements narrower than a byte are packed from the low bits up; the last byte may be padded. This reader is
our own, in numpy over a memory map: coremltools' reader is C++ that writes to the same file format, so tests hold one
against the other, and a place outside the file is an error here instead of whatever it is there.
"""

import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from runtimes.mil.errors import PackageError
from runtimes.mil.types import ELEMENTS, ElementType, TensorType

VERSION: Final = 2
SENTINEL: Final = 0xDEADBEEF
HEADER: Final = struct.Struct("<II")  # entries, version
METADATA: Final = struct.Struct("<IIQQQ")  # sentinel, element type, bytes, place of the data, padding bits
ENTRY_BYTES: Final = 64
TYPES: Final = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}


class BlobFile:
    """One file of constants, mapped into memory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        try:
            self._bytes: NDArray[np.uint8] = np.memmap(place, np.uint8, mode="c")
        except (OSError, ValueError) as error:
            raise PackageError(f"{place}: cannot be read: {error}; copy or export it again") from error
        entries, version = HEADER.unpack(self._part(0, ENTRY_BYTES, "its header").tobytes()[: HEADER.size])
        if version != VERSION:
            raise PackageError(f"{place}: version {version}; this project reads {VERSION}, export it again")
        self.entries: int = entries

    def read(self, offset: int, wanted: TensorType) -> NDArray[Any]:
        """The constant whose metadata lie at `offset`, in the shape that the program gives it; bytes are not copied."""
        return unpack(self.packed(offset, wanted), wanted.element, wanted.size).reshape(wanted.closed_shape)

    def packed(self, offset: int, wanted: TensorType) -> NDArray[np.uint8]:
        """The checked bytes of that constant as they lie in the file."""
        metadata = self._part(offset, ENTRY_BYTES, f"the metadata at {offset}").tobytes()
        sentinel, number, length, start, padding_bits = METADATA.unpack(metadata[: METADATA.size])
        if sentinel != SENTINEL:
            raise PackageError(f"{self.place}: no constant at {offset}: sentinel {sentinel:#x}; export it again")
        name = TYPES.get(number)
        if name is None or ELEMENTS[name] != wanted.element:
            found = name or f"type {number}"
            raise PackageError(
                f"{self.place}: the constant at {offset} is {found}, the program says {wanted}; export it again"
            )
        if start % ENTRY_BYTES:
            raise PackageError(f"{self.place}: the constant at {offset} begins at {start}, not at a multiple of 64")
        packed = self._part(start, length, f"the {length} bytes of the constant at {offset}")
        stored_bits = 8 * length - (padding_bits if wanted.element.bits < 8 else 0)
        if stored_bits != wanted.size * wanted.element.bits:
            raise PackageError(
                f"{self.place}: the constant at {offset} holds {stored_bits} bits, "
                f"{wanted} takes {wanted.size * wanted.element.bits}; export it again"
            )
        return packed

    def _part(self, start: int, length: int, what: str) -> NDArray[np.uint8]:
        if start + length > self._bytes.size:
            raise PackageError(
                f"{self.place}: {what} would end at {start + length}, the file has {self._bytes.size} bytes; "
                "copy or export it again"
            )
        return self._bytes[start : start + length]


def unpack(packed: NDArray[np.uint8], element: ElementType, count: int) -> NDArray[Any]:
    """Elements from their bytes, the first in the lowest bits; narrow ones become bytes of their own, (count,)."""
    if element.numpy is None:
        raise PackageError(f"{element.name} cannot lie in a file of constants; export it again")
    if element.bits >= 8:
        return packed.view(element.numpy) if element.name != "bool" else packed != 0
    codes = _split_bytes(packed, element.bits) if 8 % element.bits == 0 else _split_bits(packed, element.bits)
    codes = codes[:count]
    if element.numpy.kind == "i":
        half = 1 << (element.bits - 1)
        return ((codes ^ half).astype(np.int8) - np.int8(half)).astype(np.int8)
    return codes


def _split_bytes(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes that never cross a byte."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)


def _split_bits(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes of 3 or 6 bits, which cross bytes."""
    stream = np.unpackbits(packed, bitorder="little")
    whole = stream[: stream.size // bits * bits].reshape(-1, bits)
    return np.packbits(whole, axis=1, bitorder="little").reshape(-1)

"""Files that runtimes map are written in calls small enough that reading a row maps no more than its surroundings."""

import io

import numpy as np
import pytest

from export.mapped_file import PIECE_BYTES, write_in_pieces


class Counting(io.BytesIO):
    """A file that remembers how much each call wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def write(self, data: object, /) -> int:
        count = super().write(data)  # type: ignore[arg-type]
        self.calls.append(count)
        return count


@pytest.mark.parametrize("count", [1, PIECE_BYTES // 4, PIECE_BYTES // 4 + 1, PIECE_BYTES])
def test_every_byte_is_written_in_order_and_no_call_writes_more_than_a_piece(count: int) -> None:
    array = np.arange(count, dtype=np.int32).reshape(1, -1)
    file = Counting()
    write_in_pieces(file, array.data)
    assert file.getvalue() == array.tobytes()
    assert max(file.calls) <= PIECE_BYTES


def test_nothing_is_written_of_an_empty_array() -> None:
    file = Counting()
    write_in_pieces(file, np.zeros((0, 4), dtype=np.float32).data)
    assert file.getvalue() == b""

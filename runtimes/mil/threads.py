"""How many threads torch may use while it evaluates, without changing it for anybody else in the process."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Set torch's threads, and set them back."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def torch_version() -> str:
    """The installed torch."""
    return str(torch.__version__)

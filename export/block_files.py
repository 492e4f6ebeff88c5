"""Files of one block's tensors, written in one step: a file under its name is whole, whatever was killed."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from export.shards import ShardError, read_header


def write_block(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file and rename it when its bytes are on the disk."""
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".partial")
    os.close(descriptor)
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        with Path(temporary).open("rb") as handle:
            os.fsync(handle.fileno())
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def is_complete(file: Path) -> bool:
    """Whether a file is there and as long as its header says."""
    try:
        return file.is_file() and bool(read_header(file))
    except (ShardError, SafetensorError):
        return False

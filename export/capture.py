"""Capture the decoder with torch.export under fake tensors: a graph of any size costs no weight memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Every tensor made in the block is fake: it has a shape and a dtype and no memory."""
    with FakeTensorMode(shape_env=ShapeEnv()):
        yield


def capture(
    module: nn.Module, args: tuple[Any, ...], dynamic_shapes: tuple[Any, ...] | dict[str, Any]
) -> ExportedProgram:
    """Export `module`, built and called with fake tensors; `edge::` operators stay whole.

    The graph is not decomposed: that takes longer than the export itself, and a backend that needs it does it with its
    own table of replacements in the same pass.
    """
    return torch.export.export(module.eval(), args, dynamic_shapes=dynamic_shapes)

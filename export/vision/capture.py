"""The tower's graph, captured once for any grid, and the walk that the Apple lowerings make over it."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import Dim, ExportedProgram

from export.capture import capture, fake_tensors
from export.errors import LoweringError
from export.vision.tower import VisionTower
from export.vision.weights import TowerWeights

TRACED_TOKENS = 6

Call = Callable[[fx.Node, list[Any]], Any]


@dataclass(frozen=True, kw_only=True)
class CapturedTower:
    """The graph and the module of stand-ins that it was captured from; `weights` are its numbers."""

    program: ExportedProgram
    tower: VisionTower
    weights: TowerWeights


def capture_tower(weights: TowerWeights) -> CapturedTower:
    """Capture the tower under fake tensors: patches, then rows, weights, cos and sin of `PatchPositions`."""
    with fake_tensors():
        tower = VisionTower(weights.vision, weights.form, weights.activations)
        program = _captured(tower)
    return CapturedTower(program=program, tower=tower, weights=weights)


def walk(captured: CapturedTower, inputs: Sequence[Any], buffers: Mapping[str, Any], call: Call) -> Any:
    """Call `call` for each operator, its arguments replaced by what stands for them; what the tower puts out.

    `inputs` stand for the tower's inputs in order, `buffers` for its buffers by name.
    """
    signature = captured.program.graph_signature
    given = {spec.arg.name for spec in signature.input_specs if spec.kind.name == "USER_INPUT"}
    waiting = iter(inputs)
    environment: dict[fx.Node, Any] = {}
    for node in captured.program.graph.nodes:
        if node.op == "placeholder":
            is_given = node.name in given
            # scales go with their codes
            environment[node] = next(waiting) if is_given else buffers.get(signature.inputs_to_buffers[node.name])
            continue
        args: Any = fx.node.map_arg(node.args, lambda arg: environment[arg])
        if node.op == "output":
            return args[0][0]
        environment[node] = args[0][args[1]] if node.target is operator.getitem else call(node, list(args))
    raise LoweringError("the captured vision tower has no output; it has changed")


def _captured(tower: VisionTower) -> ExportedProgram:
    vision = tower.config
    patches = vision.merge_size**2 * Dim("tokens", min=1, max=1 << 20)
    count = vision.merge_size**2 * TRACED_TOKENS
    args = (
        torch.zeros(1, count, vision.patch_dim),
        torch.zeros(count, 4, dtype=torch.int64),
        torch.zeros(count, 4),
        torch.zeros(count, vision.head_dim // 2),
        torch.zeros(count, vision.head_dim // 2),
    )
    return capture(tower, args, ({1: patches}, {0: patches}, {0: patches}, {0: patches}, {0: patches}))

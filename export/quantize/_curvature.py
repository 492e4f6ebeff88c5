"""How much errors of a matrix's output cost the model, and which inputs make them: two second moments a matrix.

The Fisher information of a matrix W is E[(g x') (x) (g x')] over tokens, x its inputs and g the gradient at its
outputs: far too large to hold. As in YAQA (Tseng et al. 2025) it is taken as a Kronecker product B (x) A, and as in
GuidedQuant (Kim et al. 2025) each factor counts a token by how much of the other it carries: A = E[|g|^2 x x'] and
B = E[|x|^2 g g']. An error E of W then costs tr(B E A E').
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.blocks import BlockTask
from export.sequence import check_finite


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """A matrix's two factors, each up to one number: A (in, in) of its inputs, B (out, out) of its outputs."""

    inputs: Tensor
    outputs: Tensor


def block_curvature(task: BlockTask, units: Sequence[str]) -> dict[str, Curvature]:
    """The curvature of some of a block's matrices, from the float block's inputs and the gradients behind it.

    One sequence at a time; in memory the factors of all the block's matrices.
    """
    assert task.float_inputs is not None
    assert task.output_gradients is not None
    found = {unit: _zeros(*task.block.shapes[unit]) for unit in units}
    for row, hidden in enumerate(task.float_inputs):
        gradients = task.output_gradients[row : row + 1]
        check_finite(f"{task.block.name}, gradients", gradients, row)
        for unit, (x, g) in _tokens(task, hidden.unsqueeze(0), gradients).items():
            if unit in found:
                _add_(found[unit], x, g)
    return found


def _zeros(rows: int, columns: int) -> Curvature:
    return Curvature(inputs=torch.zeros(columns, columns), outputs=torch.zeros(rows, rows))


def _tokens(task: BlockTask, hidden: Tensor, by_output: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Of one sequence each matrix's inputs (T, in) and the gradients at its outputs (T, out)."""
    block, inputs = task.block, dict[str, Tensor]()
    made: list[tuple[str, Tensor | None, Tensor]] = []

    def seen(units: tuple[str, ...], x: Tensor) -> None:
        inputs.update(dict.fromkeys(units, x.detach()))

    out = block.run(
        hidden.clone().requires_grad_(), None, seen, lambda unit, rows, product: made.append((unit, rows, product))
    )
    gradients = torch.autograd.grad(out, [product for _, _, product in made], by_output)
    found = {unit: torch.zeros(len(x), block.shapes[unit][0]) for unit, x in inputs.items()}
    for (unit, rows, _), gradient in zip(made, gradients, strict=True):
        found[unit][:, slice(None) if rows is None else rows] = gradient.flatten(0, -2)
    return {unit: (x, found[unit]) for unit, x in inputs.items()}


def _add_(sums: Curvature, x: Tensor, g: Tensor) -> None:
    """Count one sequence's tokens in."""
    of_inputs, of_outputs = x.square().sum(1, keepdim=True), g.square().sum(1, keepdim=True)
    sums.inputs.addmm_((x * of_outputs).T, x)
    sums.outputs.addmm_((g * of_inputs).T, g)

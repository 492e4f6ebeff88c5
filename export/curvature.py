"""How much errors of a matrix's output cost the model, and which inputs make them: two second moments a matrix.

The Fisher information of a matrix W is E[(g x') (x) (g x')] over tokens, x its inputs and g the gradient at its
outputs: far too large to hold. As in YAQA (Tseng et al. 2025) it is taken as a Kronecker product B (x) A, and as in
GuidedQuant (Kim et al. 2025) each factor counts a token by how much of the other it carries: A = E[|g|^2 x x'] and
B = E[|x|^2 g g']. An error E of W then costs tr(B E A E').

Both come from the float model before a block is quantized. Either its flow over all tokens is kept (export/flow.py),
which grows with the text, and a block's moments are taken when it is its turn; or the text goes through the model in
parts and the moments of all blocks are kept, which grow with the square of the widths. Whichever takes less disk.
"""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from export.block_files import is_complete, write_block
from export.blocks import Block, BlockModel, Curvature, CurvatureSource
from export.flow import SEED, Flow, Progress, begin_folder, make_flow, run_forward
from export.gradients import loss_gradients
from export.sequence import SEQUENCES_AT_ONCE, check_finite

PART_TOKENS = 32_768  # that go through the model at once, in whole sequences
BANDS = 4  # of rows that a symmetric sum is taken in: 10 of 16 squares
PARTS = "parts"  # a block's file: how many it has counted


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the disk a text takes depends on: the shapes (out, in) of all matrices, blocks, channels and tokens."""

    shapes: Collection[tuple[int, int]]
    num_blocks: int
    hidden_size: int
    num_tokens: int

    @property
    def flow_bytes(self) -> int:
        """Inputs and gradients of every block, and what enters the final norm, float32."""
        return 4 * (2 * self.num_blocks + 1) * self.hidden_size * self.num_tokens

    @property
    def summed_bytes(self) -> int:
        """Both moments of every matrix, one of them twice while it is written, and the inputs of a part's blocks."""
        moments = [4 * (rows * rows + columns * columns) for rows, columns in self.shapes]
        part = 4 * (self.num_blocks + 1) * self.hidden_size * min(PART_TOKENS, self.num_tokens)
        return sum(moments) + max(moments, default=0) + part

    @property
    def least_bytes(self) -> int:
        return min(self.flow_bytes, self.summed_bytes)


@dataclass(frozen=True, kw_only=True)
class FlowCurvature:
    """Moments taken from a flow when they are asked for; in memory the factors of what is asked for."""

    flow: Flow

    def of(self, block: Block, units: Sequence[str]) -> dict[str, Curvature]:
        found = no_curvature(block, units)
        count(block, self.flow.inputs(block.name), self.flow.gradients(block.name), found)
        return found


@dataclass(frozen=True, kw_only=True)
class SummedCurvature:
    """A folder of moments, one file a block."""

    directory: Path

    def of(self, block: Block, units: Sequence[str]) -> dict[str, Curvature]:
        self.directory.touch()  # in use: see `export.flow.remove_unused`
        stored = load_file(self._file(block.name))
        return {unit: Curvature(inputs=stored[f"{unit}.A"], outputs=stored[f"{unit}.B"]) for unit in units}

    def parts(self, block: str) -> int:
        """How many parts of the text a block's file has counted."""
        file = self._file(block)
        if not is_complete(file):
            return 0
        with safe_open(file, "pt") as stored:
            return int(stored.get_tensor(PARTS))

    def put(self, block: str, found: Mapping[str, Curvature], parts: int) -> None:
        """Write a block's file in one step."""
        stored = {f"{unit}.A": one.inputs for unit, one in found.items()}
        stored |= {f"{unit}.B": one.outputs for unit, one in found.items()}
        write_block(self._file(block), {**stored, PARTS: torch.tensor(parts)})

    def _file(self, block: str) -> Path:
        return self.directory / f"{block}.safetensors"


def make_curvature(
    model: BlockModel,
    head: Callable[[], Tensor],
    tokens: Tensor,
    sizes: Sizes,
    directory: Path,
    progress: Progress,
) -> CurvatureSource:
    """Run the float model over tokens (N, T) both ways; what an interrupted run left in the folder is not made again.

    `head` reads the table of the logits (rows, C), which is in memory while labels are drawn and not after.
    """
    if sizes.flow_bytes <= sizes.summed_bytes:
        return FlowCurvature(flow=make_flow(model, head, tokens, directory, progress))
    return sum_curvature(model, head, tokens, directory, progress)


def sum_curvature(
    model: BlockModel, head: Callable[[], Tensor], tokens: Tensor, directory: Path, progress: Progress
) -> SummedCurvature:
    """The moments of every block over tokens (N, T), part by part of the text.

    An interrupted run leaves blocks one part apart at most; where a file is damaged or gone they are further, and the
    text is counted from its start.
    """
    begin_folder(directory)
    found = SummedCurvature(directory=directory)
    with FileLock(directory.with_name(f"{directory.name}.lock")):  # two exports that count one text would mix its parts
        counted = [found.parts(name) for name in model.block_names]
        if max(counted) > min(counted) + 1:
            shutil.rmtree(directory)
            directory.mkdir()
            counted = [0]
        parts = tokens.split(max(1, PART_TOKENS // tokens.shape[1]))
        for number in range(min(counted), len(parts)):
            _count_part(model, head, parts[number], number, found, progress)
    return found


def count(block: Block, hidden: Tensor, by_output: Tensor, sums: Mapping[str, Curvature]) -> Tensor:
    """Add sequences (N, T, C) to the moments of some of a block's matrices, a few sequences at a time.

    `by_output` (N, T, C) are gradients by what the block puts out; returned are those by its inputs `hidden`.
    """
    found = torch.empty_like(by_output)
    for first in range(0, len(hidden), SEQUENCES_AT_ONCE):
        part = slice(first, first + SEQUENCES_AT_ONCE)
        check_finite(f"{block.name}, gradients", by_output[part], first)
        found[part], of_units = _pulled_back(block, hidden[part], by_output[part], sums)
        for unit, (x, g) in of_units.items():
            _add_(sums[unit], x, g)
    return found


def no_curvature(block: Block, units: Iterable[str]) -> dict[str, Curvature]:
    """Moments of no tokens."""
    shapes = {unit: block.shapes[unit] for unit in units}
    return {
        unit: Curvature(inputs=torch.zeros(columns, columns), outputs=torch.zeros(rows, rows))
        for unit, (rows, columns) in shapes.items()
    }


def _count_part(
    model: BlockModel,
    head: Callable[[], Tensor],
    tokens: Tensor,
    number: int,
    found: SummedCurvature,
    progress: Progress,
) -> None:
    """Add one part to every block's file, from the last block to the first.

    A part that was interrupted is run again as a whole, since its gradients are not kept, and counted where it was not.
    """
    flow = Flow(directory=found.directory / f"part-{number}")
    flow.directory.mkdir(exist_ok=True)
    last = run_forward(model, flow, tokens, progress)
    progress("draw labels", 0)
    gradients = loss_gradients(model, head(), last, 1, torch.Generator().manual_seed(SEED + number))[0]
    for name in reversed(model.block_names):
        progress(f"{name}: run back part {number + 1}", 0)
        block = model.block(name)
        if found.parts(name) > number:
            gradients = count(block, flow.inputs(name), gradients, {})
            continue
        sums = found.of(block, list(block.shapes)) if number else no_curvature(block, block.shapes)
        gradients = count(block, flow.inputs(name), gradients, sums)
        found.put(name, sums, number + 1)
    shutil.rmtree(flow.directory)


def _pulled_back(
    block: Block, hidden: Tensor, by_output: Tensor, units: Collection[str]
) -> tuple[Tensor, Mapping[str, tuple[Tensor, Tensor]]]:
    """Of sequences (n, T, C) the gradients by the block's inputs; by unit its inputs and output gradients (n T, C)."""
    inputs = dict[str, Tensor]()
    made: list[tuple[str, Tensor | None, Tensor]] = []

    def seen(readers: tuple[str, ...], x: Tensor) -> None:
        inputs.update((unit, x.detach()) for unit in readers if unit in units)

    def gave(unit: str, rows: Tensor | None, product: Tensor) -> None:
        if unit in units:
            made.append((unit, rows, product))

    source = hidden.clone().requires_grad_()
    out = block.run(source, None, seen, gave)
    by_input, *gradients = torch.autograd.grad(out, [source, *(product for _, _, product in made)], by_output)
    found = {unit: torch.zeros(len(x), block.shapes[unit][0]) for unit, x in inputs.items()}
    for (unit, rows, _), gradient in zip(made, gradients, strict=True):
        found[unit][:, slice(None) if rows is None else rows] = gradient.flatten(0, -2)
    return by_input, {unit: (x, found[unit]) for unit, x in inputs.items()}


def _add_(sums: Curvature, x: Tensor, g: Tensor) -> None:
    """Count tokens in."""
    of_inputs, of_outputs = x.square().sum(1, keepdim=True), g.square().sum(1, keepdim=True)
    _add_products_(sums.inputs, x, of_outputs)
    _add_products_(sums.outputs, g, of_inputs)


def _add_products_(total: Tensor, rows: Tensor, weights: Tensor) -> None:
    """Add rows' products (C, C), each row's by its weight; what lies below the diagonal's bands is mirrored."""
    weighted = (rows * weights).T
    for start in range(0, len(total), step := -(-len(total) // BANDS)):
        band = slice(start, start + step)
        total[band, start:].addmm_(weighted[band], rows[:, start:])
        total[start + step :, band] = total[band, start + step :].T

"""What flows through a float model both ways, kept on disk: every block's inputs, and gradients by its outputs.

A method that weighs errors by what they do to the model's predictions needs gradients of a block before the blocks
behind it have been quantized. So the float model is run forward once and backward once before the first block, with one
block in memory, one hidden state of all tokens and its gradient; the rest lies in a folder. A pass that was
interrupted goes on behind the last file it wrote, and ends the same to the bit.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from export.block_files import is_complete, write_block
from export.blocks import Block, BlockModel
from export.gradients import loss_gradients, pulled_back
from export.sequence import check_finite, run_block

Progress = Callable[[str, int], None]

SEED = 0  # of the labels drawn
LAST = "end"  # in the place of a block's name: what enters the final norm
UNUSED_SECONDS = 86_400  # a folder that no run has read for so long may go


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A folder with the float model's hidden states and gradients, one file a block: see `make_flow`."""

    directory: Path

    def inputs(self, block: str) -> Tensor:
        """What the float model feeds a block (N, T, C)."""
        return self._read(block, "inputs")

    def gradients(self, block: str) -> Tensor:
        """Gradients (N, T, C) by a block's outputs of each sequence's summed -log p, labels drawn from the model."""
        return self._read(block, "gradients")

    def has(self, block: str, kind: str) -> bool:
        return is_complete(self._file(block, kind))

    def put(self, block: str, kind: str, x: Tensor) -> None:
        """Write a file in one step."""
        write_block(self._file(block, kind), {"x": x})

    def _read(self, block: str, kind: str) -> Tensor:
        self.directory.touch()  # in use: see `remove_unused`
        return load_file(self._file(block, kind))["x"]

    def _file(self, block: str, kind: str) -> Path:
        return self.directory / f"{block}.{kind}.safetensors"


def make_flow(
    model: BlockModel, head: Callable[[], Tensor], tokens: Tensor, directory: Path, progress: Progress
) -> Flow:
    """Run the float model over tokens (N, T) both ways and return the folder; files that are there are not made again.

    `head` reads the table of the logits (rows, C), which is in memory while labels are drawn and not after.
    """
    begin_folder(directory)
    flow = Flow(directory=directory)
    names = list(model.block_names)
    labelled = flow.has(names[-1], "gradients")
    if not labelled or not all(flow.has(name, "inputs") for name in names):
        last = run_forward(model, flow, tokens, progress)
    if not labelled:
        progress("draw labels", 0)
        generator = torch.Generator().manual_seed(SEED)
        flow.put(names[-1], "gradients", loss_gradients(model, head(), last, 1, generator)[0])
    _run_backward(model, flow, progress)
    return flow


def begin_folder(directory: Path) -> None:
    """Make a folder for work that another run may take up, and remove such as nobody does."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.touch()
    remove_unused(directory.parent)


def remove_unused(parent: Path) -> None:
    """Remove folders beside which nothing has worked for a day: they are large."""
    for directory in parent.glob("*"):
        if directory.is_dir() and time.time() - directory.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(directory, ignore_errors=True)


@torch.no_grad()
def run_forward(model: BlockModel, flow: Flow, tokens: Tensor, progress: Progress) -> Tensor:
    """Store what every block reads of tokens (N, T), where it is not stored; return what enters the final norm."""
    names = [*model.block_names, LAST]
    done = next((index for index, name in enumerate(names) if not flow.has(name, "inputs")), len(names))
    if done == 0:
        flow.put(names[0], "inputs", model.embed(tokens))
        done = 1
    hidden = flow.inputs(names[done - 1])
    for name, following in zip(names[done - 1 :], names[done:], strict=False):
        progress(f"{name}: run {tokens.numel()} tokens", 0)
        hidden = run_block(model.block(name), hidden, None)
        flow.put(following, "inputs", hidden)
    return hidden


def _run_backward(model: BlockModel, flow: Flow, progress: Progress) -> None:
    """Store the gradient by every block's outputs, given the last one's."""
    names = list(model.block_names)
    missing = [index for index, name in enumerate(names) if not flow.has(name, "gradients")]
    if not missing:
        return
    gradients = flow.gradients(names[missing[-1] + 1])
    for index in reversed(missing):
        behind = names[index + 1]
        progress(f"{behind}: run back", 0)
        gradients = _through(model.block(behind), flow.inputs(behind), gradients)
        flow.put(names[index], "gradients", gradients)


def _through(block: Block, hidden: Tensor, by_output: Tensor) -> Tensor:
    """Gradients (N, T, C) by a block's inputs."""
    found = torch.empty_like(by_output)
    for row, (one, gradient) in enumerate(zip(hidden, by_output, strict=True)):
        ((by_input,),) = pulled_back(block, one, gradient.unsqueeze(0), {})
        found[row] = by_input[0]
        check_finite(f"{block.name}, gradients", found[row : row + 1], row)
    return found

"""What rounding parts of a model to float16 does to its answers, all else being float32, in eager torch."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from export.decoder import Decoder, Matrix, Plain, text_positions
from export.quantized import QuantizedCheckpoint
from export.state import zero_state
from tests.subjects import CONTEXT, eager, relative_error

STEPS = 32
PRODUCTS = ("weights", "inputs", "outputs")


@torch.no_grad()
def rounding_errors(store: QuantizedCheckpoint, tokens: Tensor, parts: Sequence[str]) -> list[float]:
    """Relative errors of single steps where `parts` are rounded: "norms", and what PRODUCTS names of matrices."""
    exact, rounded = eager(store), eager(store)
    for module in rounded.modules():
        if isinstance(module, Plain) and "norms" in parts:
            module.value = module.value.half().float()
        if isinstance(module, Matrix) and "weights" in parts:
            module.weight = module.weight.half().float()
        if isinstance(module, Matrix) and "inputs" in parts:
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].half().float(),))
        if isinstance(module, Matrix) and "outputs" in parts:
            module.register_forward_hook(lambda _, __, output: output.half().float())
    pairs = zip(single_steps(exact, tokens), single_steps(rounded, tokens), strict=True)
    return [relative_error(found, expected) for expected, found in pairs]


def single_steps(decoder: Decoder, tokens: Tensor) -> Iterator[Tensor]:
    """Logits after each of the first STEPS tokens, one a call."""
    state = zero_state(decoder.config, CONTEXT)
    for start in range(STEPS):
        one, positions = tokens[:, start : start + 1], text_positions(start, 1)
        logits, state = decoder(one, positions, torch.tensor([start]), state)
        yield logits[0, -1]

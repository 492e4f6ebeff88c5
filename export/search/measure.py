"""The divergence of whole layouts, measured: all of them in one walk over the blocks, each block rounded once a format.

Matrices come from what the method made of the model in one format throughout (`export.search.rounding`), as they would
not quite if it quantized the layout itself: that takes minutes to hours for each, and is left for the last few.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from export.blocks import Block
from export.gradients import POSITIONS_AT_ONCE
from export.schemes import Format, Layout
from export.search.sensitivity import EMBEDDING, Progress, Subject, Trace, divergence
from export.sequence import run_block


@torch.no_grad()
def measured_klds(subject: Subject, seen: Trace, layouts: Sequence[Layout], progress: Progress) -> list[float]:
    """Mean divergence from the float model, nats a token, of each layout on the trace's tokens."""
    model = subject.model
    streams = [_embedded(subject, seen, layout) for layout in layouts]
    for name in model.block_names:
        block = model.block(name)
        rounded = _rounded(subject, seen, block, layouts)
        for index, layout in enumerate(layouts):
            replaced = {unit: rounded[unit, layout[unit]] for unit in block.shapes}
            streams[index] = run_block(block, streams[index], replaced)
        progress(name, seen.tokens.numel() * len(layouts))
    base = model.finish(seen.last).flatten(0, 1)
    table = subject.table(model.head_unit)
    heads = _tables(subject, seen, model.head_unit, layouts)
    return [
        mean_divergence((base, table), (model.finish(stream).flatten(0, 1), heads[layout[model.head_unit]]))
        for stream, layout in zip(streams, layouts, strict=True)
    ]


def _rounded(
    subject: Subject, seen: Trace, block: Block, layouts: Sequence[Layout]
) -> dict[tuple[str, Format], Tensor]:
    """Each matrix of the block in each format that some layout holds it in."""
    wanted = dict.fromkeys((unit, layout[unit]) for layout in layouts for unit in block.shapes)
    return {
        (unit, form): subject.rounded(unit, block.tensor(unit), form, seen.statistics.get(unit))
        for unit, form in wanted
    }


def _tables(subject: Subject, seen: Trace, unit: str, layouts: Sequence[Layout]) -> Mapping[Format, Tensor]:
    weight = subject.table(unit)
    wanted = dict.fromkeys(layout[unit] for layout in layouts)
    return {form: subject.rounded(unit, weight, form, seen.statistics.get(unit)) for form in wanted}


def _embedded(subject: Subject, seen: Trace, layout: Layout) -> Tensor:
    """What enters the first block: rows of the table in the layout's format, only those that the tokens name."""
    ids, places = seen.tokens.unique(return_inverse=True)
    rows = subject.table(EMBEDDING)[ids]
    return subject.rounded(EMBEDDING, rows, layout[EMBEDDING], seen.statistics.get(EMBEDDING))[places]


def mean_divergence(base: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """KL of two models' predictions, each given by what the head reads (P, C) and the head."""
    pairs = zip(base[0].split(POSITIONS_AT_ONCE), other[0].split(POSITIONS_AT_ONCE), strict=True)
    total = sum(float(divergence(one @ base[1].T, two @ other[1].T).double().sum()) for one, two in pairs)
    return total / len(base[0])

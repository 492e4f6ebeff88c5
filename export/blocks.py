"""A model as a quantizer sees it: blocks of linear units, one in memory at a time, each a function of hidden states.

Methods know nothing of Qwen3.5: they get a `Block` (export/checkpoint_blocks.py makes them from a checkpoint,
export/transformers_blocks.py from any transformers decoder, such as SmolLM2) with what flows into it, and give codes.
Two streams of hidden states run side by side: what the float model would feed a block, and what the already quantized
blocks before it really do. A method that fits the second to the first repairs what came before it.

Axis words: N sequences, T tokens, C hidden channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from export.quantize import Codes
from export.schemes import Format

Seen = Callable[[tuple[str, ...], Tensor], None]
"""Told of every matrix product: the units that read the same inputs, and these inputs (tokens, in_features)."""
Made = Callable[[str, Tensor | None, Tensor], None]
"""Told of every matrix product: its unit, which of the unit's rows (None: all), and what they gave (N, T, rows)."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A channel that may be made s times larger where it is born and s times smaller where it is read.

    `source` is a plain tensor for the two kinds of norm ("one_plus": multiplies by 1 + weight; "norm": by weight) and a
    unit for "rows" (its output channels). `repeat`: source channel c is column c of each of `repeat` equal slices of
    the readers' inputs (a norm shared by heads). `group`: each run of `group` source channels is read by `copies`
    consecutive runs (values shared by query heads).
    """

    source: str
    kind: Literal["one_plus", "norm", "rows"]
    readers: tuple[str, ...]
    repeat: int = 1
    group: int = 0
    copies: int = 1


class Block(Protocol):
    """One decoder layer with its float weights in memory.

    Names are short names as in export/weights.py; tensors are in the checkpoint's own convention (a norm's w, not
    1 + w), float32.
    """

    @property
    def name(self) -> str: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """(out_features, in_features) of each unit, in file order."""
        ...

    @property
    def folds(self) -> Sequence[Fold]: ...

    def tensor(self, name: str) -> Tensor:
        """A unit's weight (out, in), or a plain tensor."""
        ...

    def run(
        self,
        hidden: Tensor,
        replaced: Mapping[str, Tensor] | None = None,
        seen: Seen | None = None,
        made: Made | None = None,
    ) -> Tensor:
        """Hidden states (N, T, C) from state zero to hidden states (N, T, C), with some tensors replaced.

        Differentiable in `hidden` and in `replaced`; what `made` is told of lies on the way from them to the result.
        """
        ...


class BlockModel(Protocol):
    """A decoder whose blocks are loaded when asked for."""

    @property
    def block_names(self) -> Sequence[str]: ...

    @property
    def head_unit(self) -> str:
        """The unit that makes logits of `finish`: the tied embedding, or the head."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids int64 (N, T) to hidden states float32 (N, T, C)."""
        ...

    def block(self, name: str) -> Block: ...

    def finish(self, hidden: Tensor) -> Tensor:
        """The last block's output through the final norm: what the head reads."""
        ...


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What data says of a unit's inputs: mean square (in_features,), mean outer product (in, in) where asked for."""

    mean_square: Tensor
    gram: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """A matrix's two factors, each up to one number: A (in, in) of its inputs, B (out, out) of its outputs."""

    inputs: Tensor
    outputs: Tensor


class CurvatureSource(Protocol):
    """Where a block's curvature comes from."""

    def of(self, block: Block, units: Sequence[str]) -> dict[str, Curvature]:
        """The factors of some of a block's matrices."""
        ...


@dataclass(frozen=True, kw_only=True)
class BlockTask:
    """One block to quantize: formats of its units, and what flows into it (None for a method that needs no data)."""

    block: Block
    formats: Mapping[str, Format]
    float_inputs: Tensor | None = None  # (N, T, C), from the float model
    real_inputs: Tensor | None = None  # (N, T, C), from the quantized blocks before
    curvature: CurvatureSource | None = None  # what errors of the block's matrices cost: export/curvature.py
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class BlockResult:
    """Codes of every unit whose format is not float, and the tensors that had to change for these codes to be right.

    `floats` holds folded norms and float units by name, in the checkpoint's convention; `rows` (rows, 1) and `columns`
    (1, in_features) by how much folds made a unit's weights larger before they were rounded, where they did.
    """

    codes: Mapping[str, Codes]
    floats: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)


QuantizeBlock = Callable[[BlockTask], BlockResult]
QuantizeTable = Callable[[Tensor, Format, Statistics | None], Codes]
"""Rows of the embedding or the head, (rows, in_features) float32; statistics of the head's inputs, where there are."""

"""Let several versions of one model read the same text, one layer in memory at a time.

The float checkpoint, quantized ones, and the float one computed a little differently (the noise floor) go through the
text side by side: each layer is loaded once for each version, all its sequences pass, and it is dropped. What stays in
memory is the hidden states of every version, so peak memory follows the largest layer and the tokens read at once.
Logits are made a piece of the vocabulary at a time and go straight into sums (metrics.TokenSums).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from export import operators as edge
from export.decoder import Activations, Layer, Model, Part, Recipe, Rope, rope_table, text_positions
from export.materialize import Weights, load_layer, materialize
from export.quality.metrics import COLUMNS_AT_ONCE, Ints, TokenStats, TokenSums, join, with_blocks
from export.quantized import QuantizedCheckpoint
from export.schemes import Layout
from export.state import state_tensors
from export.weights import EMBEDDING, HEAD, units

SEQUENCES_AT_ONCE = 4
ROWS_AT_ONCE = 128
FEW_TOKENS = 256  # read one by one, since a table may have 250,000 rows
OWN_ERROR_SEQUENCES = 4  # enough for a curve; it costs one more pass of every layer

Progress = Callable[[str, int], None]


class ModelWeights(Weights, Protocol):
    """Weights that say in which format each matrix is."""

    @property
    def layout(self) -> Layout: ...


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to compute a model: whose weights, how activations are rounded, how a sequence is cut."""

    name: str
    weights: ModelWeights
    activations: Activations = field(default_factory=Activations)
    tokens_at_once: int | None = None  # None: a sequence is one call
    hidden_dtype: torch.dtype = torch.float32  # what hidden states between layers are rounded to


@dataclass(frozen=True, kw_only=True)
class LayerErrors:
    """Squared norms by layer, summed over tokens, so that parts of a text add up.

    `drift` is between this reading's hidden states and the reference's behind each layer; `own` is what the layer adds
    to it by itself, reading the reference's inputs; `size` and `own_size` are of the reference's hidden states.
    """

    drift: np.ndarray
    size: np.ndarray
    own: np.ndarray
    own_size: np.ndarray

    @property
    def relative(self) -> list[float]:
        """Relative error of the hidden states behind each layer."""
        return [float(value) for value in np.sqrt(self.drift / np.maximum(self.size, 1e-300))]

    @property
    def own_relative(self) -> list[float]:
        """The same for the layer alone, its inputs being the reference's."""
        return [float(value) for value in np.sqrt(self.own / np.maximum(self.own_size, 1e-300))]

    def __add__(self, other: "LayerErrors") -> "LayerErrors":
        names = ("drift", "size", "own", "own_size")
        return LayerErrors(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a head reads of some tokens, (rows, hidden), and whose head it is."""

    reading: Reading
    hidden: Tensor

    def logits(self, weight: Tensor, rows: slice) -> Tensor:
        """Logits (rows, columns) for these rows of the head's weight."""
        return self.hidden[rows] @ weight.T


@torch.no_grad()
def read(
    readings: Sequence[Reading], tokens: Tensor, scored: Tensor, progress: Progress
) -> tuple[list[Outputs], list[LayerErrors]]:
    """What each reading's head sees of the `scored` places (N, T) of `tokens` (N, T), and errors against the first."""
    config = readings[0].weights.config
    hidden = [_rounded(embed(reading.weights, tokens), reading) for reading in readings]
    errors = [_no_errors(config.num_layers) for _ in readings]
    for index in range(config.num_layers):
        before = hidden[0][:OWN_ERROR_SEQUENCES].clone()
        for place, reading in enumerate(readings):
            layer = load_reading_layer(reading, index)
            if place > 0:
                _add_own(errors[place], index, run_layer(layer, reading, index, before), hidden[0])
            hidden[place] = run_layer(layer, reading, index, hidden[place])
            if place > 0:
                errors[place].drift[index] += _square(hidden[place] - hidden[0])
                errors[place].size[index] += _square(hidden[0])
        progress(f"layer {index + 1} of {config.num_layers}", tokens.numel())
    return [outputs_of(reading, states[scored]) for reading, states in zip(readings, hidden, strict=True)], errors


def _add_own(errors: LayerErrors, index: int, found: Tensor, reference: Tensor) -> None:
    expected = reference[: found.shape[0]]
    errors.own[index] += _square(found - expected)
    errors.own_size[index] += _square(expected)


@torch.no_grad()
def compare(
    reference: Outputs, candidates: Sequence[Outputs], targets: Ints, position: Ints, block: Ints
) -> list[TokenStats]:
    """Token statistics of each candidate, the heads read one piece of the vocabulary at a time."""
    rows = range(0, targets.size, ROWS_AT_ONCE)
    sums = [[TokenSums(targets[start : start + ROWS_AT_ONCE]) for start in rows] for _ in candidates]
    for columns in _columns(reference.reading.weights.config.vocab_size):
        weight = head_weight(reference.reading.weights, columns)
        others = [head_weight(candidate.reading.weights, columns) for candidate in candidates]
        for batch, start in enumerate(rows):
            part = slice(start, start + ROWS_AT_ONCE)
            expected = reference.logits(weight, part).numpy()
            for place, candidate in enumerate(candidates):
                sums[place][batch].add(columns.start, expected, candidate.logits(others[place], part).numpy())
    found = []
    for batches in sums:
        parts = [
            one.stats(position=position[start : start + ROWS_AT_ONCE]) for one, start in zip(batches, rows, strict=True)
        ]
        found.append(with_blocks(join(parts), block))
    return found


def _columns(vocab_size: int) -> Iterator[slice]:
    for start in range(0, vocab_size, COLUMNS_AT_ONCE):
        yield slice(start, min(start + COLUMNS_AT_ONCE, vocab_size))


def embed(weights: ModelWeights, tokens: Tensor) -> Tensor:
    """Embedding rows (N, T, hidden): a few one by one, else the table block by block."""
    found = torch.empty(*tokens.shape, weights.config.hidden_size)
    wanted = tokens.unique().tolist()
    if len(wanted) <= FEW_TOKENS:
        for token in wanted:
            found[tokens == token] = table_rows(weights, EMBEDDING, slice(token, token + 1))
        return found
    for rows in _columns(weights.config.vocab_size):
        inside = (tokens >= rows.start) & (tokens < rows.stop)
        if inside.any():
            found[inside] = table_rows(weights, EMBEDDING, rows)[tokens[inside] - rows.start]
    return found


def head_weight(weights: ModelWeights, rows: slice) -> Tensor:
    """Rows of the head, float32."""
    return table_rows(weights, EMBEDDING if weights.config.tie_word_embeddings else HEAD, rows)


def table_rows(weights: ModelWeights, unit: str, rows: slice) -> Tensor:
    """Rows of a table, float32, whatever its format."""
    if isinstance(weights, QuantizedCheckpoint) and not weights.layout[unit].is_float:
        return edge.dequantize(weights.codes(unit, rows), weights.scales(unit, rows))
    return weights.weight(unit, rows)


def run_layer(layer: Layer, reading: Reading, index: int, hidden: Tensor) -> Tensor:
    """One layer over hidden states (N, T, C), each sequence from state zero."""
    config, length = reading.weights.config, hidden.shape[1]
    tables = rope_table(config, length, "cos"), rope_table(config, length, "sin")
    shapes = [tensor.shape[1:] for tensor in state_tensors(config, length)[2 * index : 2 * index + 2]]
    found = []
    for part in hidden.split(SEQUENCES_AT_ONCE):
        state = (torch.zeros(len(part), *shapes[0]), torch.zeros(len(part), *shapes[1]))
        pieces, start = [], 0
        for piece in part.split(reading.tokens_at_once or length, dim=1):
            positions = text_positions(start, piece.shape[1])
            rope = Rope(positions, torch.tensor([start]), *tables, config.mrope_section)
            update, residual, state = layer(None, piece, rope, state, False)
            pieces.append(update + residual)
            start += piece.shape[1]
        found.append(_rounded(torch.cat(pieces, dim=1), reading))
    return torch.cat(found)


def load_reading_layer(reading: Reading, index: int) -> Layer:
    """One layer of a reading, its weights in memory."""
    config = reading.weights.config
    by_name = {unit.name: unit for unit in units(config)}
    model = Model(config, reading.weights.layout, reading.activations, by_name, fuse_quantized=True)
    return load_layer(Layer(model, index), reading.weights)


def outputs_of(reading: Reading, hidden: Tensor) -> Outputs:
    """Final norm and the head's own activation quantization."""
    config, weights = reading.weights.config, reading.weights
    norm = materialize(Recipe(field="one_plus", parts=(Part(unit="norm.weight"),)), weights, 1)
    x = _rounded(edge.rms_norm(hidden, norm, config.rms_norm_eps), reading)
    form = weights.layout[EMBEDDING if config.tie_word_embeddings else HEAD]
    if not form.is_float:
        group = reading.activations.group(x.shape[-1], form.group_size)
        x = edge.quantize_activation(x, reading.activations.kind, group)
    return Outputs(reading=reading, hidden=x)


def _rounded(hidden: Tensor, reading: Reading) -> Tensor:
    return hidden.to(reading.hidden_dtype).float()


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())


def _no_errors(layers: int) -> LayerErrors:
    return LayerErrors(drift=np.zeros(layers), size=np.zeros(layers), own=np.zeros(layers), own_size=np.zeros(layers))

"""What quantization methods learn from data: how large the inputs of each matrix are when the float model reads text.

The float model runs layer by layer, read straight from the checkpoint, so peak memory is one layer and the activations.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pydoc_data.topics import topics

import torch
from torch import Tensor

from export.checkpoint import Checkpoint
from export.config import ModelConfig
from export.decoder import Activations, Layer, Matrix, Model, Part, Recipe, Rope, rope_table, text_positions
from export.materialize import load_layer, materialize
from export.operators import add_rms_norm
from export.schemes import FLOAT, Layout
from export.state import state_tensors
from export.weights import EMBEDDING, HEAD, plain_tensors, units

CALIBRATION_TOKENS = 2048
SEQUENCE_TOKENS = 512
TEXT_CHARACTERS = 60_000

Progress = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True)
class FloatWeights:
    """A checkpoint read as the decoder's float weights."""

    checkpoint: Checkpoint
    config: ModelConfig

    @property
    def layout(self) -> Layout:
        return {unit.name: FLOAT for unit in units(self.config)}

    def weight(self, unit: str, rows: slice | None = None) -> Tensor:
        tensor = next(known.tensor for known in units(self.config) if known.name == unit)
        return self.checkpoint.read(tensor, rows).float()

    def plain(self, name: str) -> Tensor:
        return self.checkpoint.read(plain_tensors(self.config)[name]).float()


def default_text() -> str:
    """Prose that every Python installation carries (PSF licence), cut to what calibration reads at most."""
    return "\n\n".join(topics[name] for name in sorted(topics))[:TEXT_CHARACTERS]


def calibration_hash(tokens: Tensor) -> str:
    """What identifies a calibration: its token ids."""
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()


def calibration_tokens(ids: list[int]) -> Tensor:
    """Whole sequences of token ids, int64 (sequences, SEQUENCE_TOKENS)."""
    count = min(len(ids), CALIBRATION_TOKENS) // SEQUENCE_TOKENS
    return torch.tensor(ids[: count * SEQUENCE_TOKENS]).view(count, SEQUENCE_TOKENS)


@torch.no_grad()
def input_importance(weights: FloatWeights, tokens: Tensor, progress: Progress) -> dict[str, Tensor]:
    """Mean square of every matrix input, float32 (in_features,) by unit name; `tokens` int64 (sequences, T)."""
    config = weights.config
    model = Model(
        config, weights.layout, Activations(), {unit.name: unit for unit in units(config)}, fuse_quantized=True
    )
    sequences, length = tokens.shape
    tables = rope_table(config, length, "cos"), rope_table(config, length, "sin")
    rope = Rope(text_positions(0, length), torch.tensor([0]), *tables, config.mrope_section)
    state = state_tensors(config, length)
    residuals = [_rows(weights, row).unsqueeze(0) for row in tokens]
    updates: list[Tensor | None] = [None] * sequences
    found: dict[str, Tensor] = {}
    for index in range(config.num_layers):
        layer = load_layer(Layer(model, index), weights)
        with _Recording(layer, found):
            for row in range(sequences):
                pair = (torch.zeros(state[2 * index].shape), torch.zeros(state[2 * index + 1].shape))
                updates[row], residuals[row], _ = layer(updates[row], residuals[row], rope, pair, False)
        progress(f"calibrate layer {index + 1} of {config.num_layers}", sequences * length)
    norm = materialize(Recipe(field="one_plus", parts=(Part(unit="norm.weight"),)), weights, 1)
    last = [
        add_rms_norm(update, residual, norm, config.rms_norm_eps)[0]
        for update, residual in zip(updates, residuals, strict=True)
    ]
    found[EMBEDDING if config.tie_word_embeddings else HEAD] = torch.cat(last).square().mean((0, 1))
    return found


class _Recording:
    """While open, each matrix of a layer adds the mean square of its inputs to `found`, under every unit it holds."""

    def __init__(self, layer: Layer, found: dict[str, Tensor]) -> None:
        self._layer, self._found = layer, found
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def __enter__(self) -> None:
        matrices = [module for module in self._layer.modules() if isinstance(module, Matrix)]
        self._handles = [matrix.register_forward_pre_hook(self._add) for matrix in matrices]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._found |= {name: total / count for name, (total, count) in self._sums.items()}

    def _add(self, module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, Matrix)
        squares = args[0].square().flatten(0, -2)  # (tokens, in_features)
        for unit in {part.unit for part in module.recipes["weight"].parts}:
            total, count = self._sums.get(unit, (torch.zeros(squares.shape[1]), 0))
            self._sums[unit] = (total + squares.sum(0), count + squares.shape[0])


def _rows(weights: FloatWeights, ids: Tensor) -> Tensor:
    """Embedding rows (T, hidden), each read on its own: a calibration needs few of a large table."""
    return torch.cat([weights.weight(EMBEDDING, slice(int(one), int(one) + 1)) for one in ids])

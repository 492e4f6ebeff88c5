"""Scales of an int8 KV cache: the largest key and the largest value that each layer makes of calibration text.

The runtime rounds keys and values as it writes them and has to know the scale before it sees them, so it is static: one
number for a layer's keys, one for its values. Keys behind their norm are bounded and hardly grow on other text;
what exceeds the range is clipped. One scale a channel was no better: it clips single channels (docs/log.md).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from export.decoder import Activations, FullAttention, cache_scale_names
from export.errors import QuantizationError
from export.quality.reading import Reading, embed, load_reading_layer, run_layer
from export.quantized import QuantizedCheckpoint

__all__ = ["with_cache_scales"]

TOKENS_AT_MOST = 2048  # maxima settle early; every token costs a pass of the whole model
LARGEST_CODE = 127

Progress = Callable[[str, int], None]


@torch.no_grad()
def with_cache_scales(store: QuantizedCheckpoint, tokens: Tensor, progress: Progress) -> QuantizedCheckpoint:
    """The store with the scales of its cache, measured on some of `tokens` int64 (N, T); one layer is in memory."""
    unscaled = {name: torch.ones(1) for name in _names(store)}
    reading = Reading(
        name="cache",
        weights=replace(store, cache_scales=unscaled),
        activations=Activations(cache="int8"),
    )
    some = tokens[: max(1, TOKENS_AT_MOST // tokens.shape[1])]
    hidden = embed(reading.weights, some)
    found: dict[str, Tensor] = {}
    for index in range(store.config.num_layers):
        layer = load_reading_layer(reading, index)
        if isinstance(layer.mixer, FullAttention):
            largest = [_Largest(), _Largest()]
            layer.mixer.round_keys, layer.mixer.round_values = largest
        hidden = run_layer(layer, reading, index, hidden)
        if isinstance(layer.mixer, FullAttention):
            found |= {name: seen.scale(name) for name, seen in zip(cache_scale_names(index), largest, strict=True)}
        progress(f"layer {index + 1} of {store.config.num_layers}", some.numel())
    return replace(store, cache_scales=found)


class _Largest(nn.Module):
    """Stands where a rounding will, changes nothing and remembers the largest magnitude."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.maximum(self.seen, x.abs().max())  # a NaN stays
        return x

    def scale(self, name: str) -> Tensor:
        """The scale (1,); raises QuantizationError where the text made something that is no number."""
        if not self.seen.isfinite():
            raise QuantizationError(
                f"{name}: the calibration text made keys or values of {float(self.seen)}; check the checkpoint with "
                "--scheme float, or give another --calibration"
            )
        return (self.seen / LARGEST_CODE if self.seen > 0 else torch.ones(())).reshape(1)


def _names(store: QuantizedCheckpoint) -> list[str]:
    types = store.config.layer_types
    return [name for layer, kind in enumerate(types) if kind == "full_attention" for name in cache_scale_names(layer)]

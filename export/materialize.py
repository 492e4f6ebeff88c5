"""Make the decoder's tensors from a quantized checkpoint, one at a time, as each recipe says."""

from typing import Protocol

import torch
from torch import Tensor

from export.config import ModelConfig
from export.decoder import Decoder, Layer, Matrix, Part, Plain, Recipe, output_grid_name, rope_table
from export.quantized import QuantizedCheckpoint
from export.weights import units


class Weights(Protocol):
    """Where float tensors come from: a quantized checkpoint, or a float one."""

    @property
    def config(self) -> ModelConfig: ...

    def weight(self, unit: str, rows: slice | None = None) -> Tensor: ...

    def plain(self, name: str) -> Tensor: ...


def materialize(recipe: Recipe, store: Weights, context_length: int) -> Tensor:
    """The tensor of one decoder buffer: int8 codes, or float32."""
    field = recipe.field
    if field == "cos" or field == "sin":
        return rope_table(store.config, context_length, field)
    if field in ("codes", "scales", "weight"):
        read = getattr(store, field)
        parts = [select_rows(read(part.unit), part, store.config) for part in recipe.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
    if field == "output_grid":
        grids = [store.plain(output_grid_name(part)).expand(num_rows(part, store.config), 2) for part in recipe.parts]
        return torch.cat(grids)
    value = store.plain(recipe.parts[0].unit)
    if field == "one_plus":
        return 1.0 + value
    if field == "negative_exp":
        return -torch.exp(value)
    if field == "conv":
        return value.squeeze(1)
    return value


def packed_codes(recipe: Recipe, store: QuantizedCheckpoint) -> Tensor:
    """The stored bytes of a `codes` recipe's rows, without unpacking: see `QuantizedCheckpoint.packed`."""
    parts = [select_rows(store.packed(part.unit), part, store.config) for part in recipe.parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def select_rows(matrix: Tensor, part: Part, config: ModelConfig) -> Tensor:
    """The rows of `matrix` (out, anything) that the part asks for; q_proj holds query and gate interleaved per head."""
    if part.rows == "all":
        return matrix
    heads = matrix.view(config.num_attention_heads, 2, config.head_dim, matrix.shape[1])
    return heads[:, 0 if part.rows == "query" else 1].reshape(-1, matrix.shape[1])


def num_rows(part: Part, config: ModelConfig) -> int:
    """How many rows of its matrix a part has."""
    (rows,) = (unit.out_features for unit in units(config) if unit.name == part.unit)
    return rows if part.rows == "all" else rows // 2


def load_layer(layer: Layer, weights: Weights) -> Layer:
    """Fill every buffer of one decoder layer and return it."""
    for module in layer.modules():
        if isinstance(module, Matrix | Plain):
            for name, recipe in module.recipes.items():
                module.get_buffer(name).copy_(materialize(recipe, weights, 1))
    return layer


def load(decoder: Decoder, store: QuantizedCheckpoint, context_length: int) -> Decoder:
    """Fill every buffer of `decoder` and return it; only for models that fit in memory unpacked."""
    for name, recipe in decoder.recipes().items():
        decoder.get_buffer(name).copy_(materialize(recipe, store, context_length))
    return decoder

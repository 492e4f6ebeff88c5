"""How many bytes a model takes in a backend's files, known before any weight is read.

Matrices are counted to the byte. The rest (norms, rotary tables, the graph, padding between tensors) is an upper bound,
under one part in a hundred of a real model, so that a layout that fits a budget on paper fits it on disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from export.config import ModelConfig
from export.schemes import Format, Layout
from export.tensors import text_tensors
from export.weights import Unit, units

FLOAT_BYTES = 4
TABLE_ENTRIES = 16


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a backend packs: bytes of a scale by bits, the block that rows are cut into (None: they are not), and bounds.

    `float_bytes` are of a weight that is not quantized, `layer_bytes` and `base_bytes` bound what the graph takes. Each
    tensor is preceded by at most `padding_bytes`, or `page_bytes` if it takes `paged_from_bytes` or more.
    """

    scale_bytes: Mapping[int, int]
    row_block: int | None
    layer_bytes: int = 0
    base_bytes: int = 0
    padding_bytes: int = 0
    page_bytes: int = 0
    paged_from_bytes: int = 1 << 62
    float_bytes: int = FLOAT_BYTES

    def unit_bytes(self, unit: Unit, form: Format) -> int:
        """Codes and scales of one matrix, or its floats."""
        if form.table_rows is not None:
            tables = unit.out_features // form.table_rows
            return unit.num_weights // 2 + tables * TABLE_ENTRIES * self.float_bytes
        if form.is_float:
            return unit.num_weights * self.float_bytes
        return unit.num_weights * form.bits // 8 + self._scales_bytes(unit, form)

    def fixed_bytes(self, config: ModelConfig, context_length: int) -> int:
        """At most what the model files hold beside matrices, whatever their formats."""
        plain = sum(prod(shape) for shape in text_tensors(config).values() if len(shape) != 2) * FLOAT_BYTES
        tables = 2 * context_length * (config.rotary_dim // 2) * FLOAT_BYTES
        padding = 2 * sum(self._padding(unit) for unit in units(config))  # codes and scales
        return plain + tables + padding + config.num_layers * self.layer_bytes + self.base_bytes

    def file_bytes(self, layout: Layout, config: ModelConfig, context_length: int) -> int:
        """At most what the model files take."""
        matrices = sum(self.unit_bytes(unit, layout[unit.name]) for unit in units(config))
        return matrices + self.fixed_bytes(config, context_length)

    def _scales_bytes(self, unit: Unit, form: Format) -> int:
        group = form.group_size or self.row_block or unit.in_features
        return unit.num_weights // group * self.scale_bytes[form.bits]

    def _padding(self, unit: Unit) -> int:
        """Before one tensor of the matrix, in the format that makes it largest."""
        return self.page_bytes if unit.num_weights * FLOAT_BYTES >= self.paged_from_bytes else self.padding_bytes


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How long a weight takes in a one-token product: relative to one format, and that one's time on one machine."""

    relative: Mapping[Format, float]
    ns_per_weight: float

    def unit_ns(self, unit: Unit, form: Format) -> float:
        """Predicted time of one matrix."""
        return unit.num_weights * self.relative[form] * self.ns_per_weight


def model_bytes(layout: Layout, config: ModelConfig, scale_bytes: int, row_block: int | None) -> int:
    """Weights of the text model: codes, scales of `scale_bytes` each, floats; rows in blocks of `row_block`, if any."""
    return Packing(scale_bytes=dict.fromkeys((4, 8), scale_bytes), row_block=row_block).file_bytes(layout, config, 0)

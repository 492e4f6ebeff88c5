"""How many bytes a model takes in a backend's packing, known before any weight is read."""

from export.config import ModelConfig
from export.schemes import Layout
from export.tensors import text_tensors
from export.weights import units

FLOAT_BYTES = 4


def model_bytes(layout: Layout, config: ModelConfig, scale_bytes: int, row_block: int | None) -> int:
    """Weights of the text model: codes, scales of `scale_bytes` each, floats; rows in blocks of `row_block`, if any."""
    total = sum(_product(shape) for shape in text_tensors(config).values() if len(shape) != 2) * FLOAT_BYTES
    for unit in units(config):
        form = layout[unit.name]
        if form.is_float:
            total += unit.num_weights * FLOAT_BYTES
            continue
        group = form.group_size or row_block or unit.in_features
        total += unit.num_weights * form.bits // 8 + unit.num_weights // group * scale_bytes
    return total


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count

"""kmeans: 4-bit tables for the Neural Engine; the values of least squared error of a matrix's output.

Made from the float weights, not from a grid's codes: a table per 16 rows has no room for a scale each 32 weights.
Errors are weighted by the mean squares of inputs, as in `weighted`, which also makes the codes of what the scheme does
not keep in tables.
"""

from export.blocks import BlockResult, BlockTask
from export.quantize._matrix import block_statistics
from export.quantize._palette import snap
from export.quantize.weighted import quantize_table

__all__ = ["quantize_table"]  # as `weighted` does it

SUMMARY = "for the scheme palettized: weighted k-means of values in tables; a little text, minutes at 0.8B"
NEEDS_CALIBRATION = True
NEEDS_FLOAT_INPUTS = False


def quantize_block(task: BlockTask) -> BlockResult:
    """Every matrix on its own; those in tables come back as floats of few values."""
    statistics = block_statistics(task, gram=False)
    codes, floats = {}, {}
    for unit, form in task.formats.items():
        weight, seen = task.block.tensor(unit), statistics[unit]
        if form.table_rows is not None:
            floats[unit] = snap(weight, form.table_rows, seen.mean_square).half()
        elif not form.is_float:
            codes[unit] = quantize_table(weight, form, seen)
    return BlockResult(codes=codes, floats=floats)

"""palettized: 4-bit tables, which every Neural Engine streams compressed; for Core ML.

Blocks with a scale each are decompressed ahead on older Neural Engines (docs/coreml.md); a table of 16 values for 16
rows is not. Embedding and head have 8 bits with one scale a row, as in `mixed`: their damage is the largest.
"""

from export.schemes import FLOAT_BITS, INT8_ROW, KEEP_GATES, Format, Rule, Scheme
from export.weights import EMBEDDING, HEAD

SCHEME = Scheme(
    summary="4-bit tables of values for 16 rows each, 8-bit embedding and head; for the Neural Engine",
    rules=(
        *KEEP_GATES,
        Rule(pattern=EMBEDDING, format=INT8_ROW),
        Rule(pattern=HEAD, format=INT8_ROW),
        Rule(pattern="*", format=Format(bits=FLOAT_BITS, table_rows=16)),
    ),
)

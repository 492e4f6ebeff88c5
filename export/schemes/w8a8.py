"""w8a8: the weights of `int8`, and 8-bit activations whose grids are known beforehand where that costs little.

One calibration learns a scale and a zero point for each input (export/static_grids.py); inputs without a grid of use
are rounded as they come, as in `int8`. Faster than `int8` on many tokens at once, and as faithful but for a little
(docs/quantization.md).
"""

from export.schemes import INT8_FINEST, INT8_ROW, KEEP_GATES, Rule, Scheme

SCHEME = Scheme(
    summary="8-bit weights, one scale a row, static 8-bit activations where they cost little",
    rules=(
        *KEEP_GATES,
        Rule(pattern="embed_tokens", format=INT8_FINEST),
        Rule(pattern="lm_head", format=INT8_FINEST),
        Rule(pattern="*", format=INT8_ROW),
    ),
    activations="int8_static",
)

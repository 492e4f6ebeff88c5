"""int8: 8-bit codes with one scale a row; twice int4's bytes, close to the float model."""

from export.schemes import INT8_ROW, KEEP_GATES, Rule, Scheme

SCHEME = Scheme(summary="8-bit weights, one scale a row", rules=(*KEEP_GATES, Rule(pattern="*", format=INT8_ROW)))

"""int4: 4-bit codes in groups of 32 for every matrix, embedding and head included; the smallest and fastest."""

from export.schemes import KEEP_GATES, Format, Rule, Scheme

SCHEME = Scheme(
    summary="4-bit weights in groups of 32, embedding and head included",
    rules=(*KEEP_GATES, Rule(pattern="*", format=Format(bits=4, group_size=32))),
)

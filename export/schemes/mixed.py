"""mixed: 4-bit codes in groups of 64, embedding and head in 8 bits as fine as the backend holds them.

A head of many rows decides between near-equal logits and is read once a token, an embedding row enters every layer
above it; both are cheap to hold well next to what 4 bits cost there. The layout that `auto` improves on at the same
bytes (docs/search.md).
"""

from export.schemes import INT8_FINEST, KEEP_GATES, Format, Rule, Scheme

SCHEME = Scheme(
    summary="4-bit weights in groups of 64, 8-bit embedding and head",
    rules=(
        *KEEP_GATES,
        Rule(pattern="embed_tokens", format=INT8_FINEST),
        Rule(pattern="lm_head", format=INT8_FINEST),
        Rule(pattern="*", format=Format(bits=4, group_size=64)),
    ),
)

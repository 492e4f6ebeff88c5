"""w8a16: 8-bit weights as fine as the backend holds, multiplied with float activations: next to the float model."""

from export.schemes import INT8_FINEST, KEEP_GATES, Rule, Scheme

SCHEME = Scheme(
    summary="8-bit weights, float activations",
    rules=(*KEEP_GATES, Rule(pattern="*", format=INT8_FINEST)),
    activations="float",
)

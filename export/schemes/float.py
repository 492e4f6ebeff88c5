"""float: no quantization; weights in the precision that the runtime computes in (float32 on the CPU backends)."""

from export.schemes import FLOAT, Rule, Scheme

SCHEME = Scheme(summary="float32 weights, for reference and debugging", rules=(Rule(pattern="*", format=FLOAT),))

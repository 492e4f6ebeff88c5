"""w4a16: the weights of `mixed`, multiplied with float activations; slower than int8 ones, and without their error.

The name is the usual one for weights alone; on the CPU floats are 32 bits.
"""

from dataclasses import replace

from export.schemes import Scheme
from export.schemes.mixed import SCHEME as MIXED

SCHEME: Scheme = replace(
    MIXED, summary="4-bit weights in groups of 64, 8-bit embedding and head, float activations", activations="float"
)

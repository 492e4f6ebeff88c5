"""mixed-kv8: the scheme mixed with keys and values of earlier tokens in int8, a quarter of the cache's memory.

For long contexts on phones with little memory. It costs a little fidelity, and prefill speed in ONNX Runtime 1.31: its
attention over an int8 cache is slow for many tokens at once (docs/quantization.md).
"""

from dataclasses import replace

from export.schemes.mixed import SCHEME as MIXED

SCHEME = replace(MIXED, summary="mixed, and an int8 KV cache", cache="int8")

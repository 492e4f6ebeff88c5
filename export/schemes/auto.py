"""auto: each matrix in the format that measurement and a byte budget give it (export/search).

The rules are the default budget: with nothing said, the layout found takes no more bytes than this one.
"""

from dataclasses import replace

from export.schemes import Scheme
from export.schemes.mixed import SCHEME as MIXED

SCHEME: Scheme = replace(
    MIXED, summary="formats found by measurement within --budget (default: the bytes of mixed)", is_searched=True
)

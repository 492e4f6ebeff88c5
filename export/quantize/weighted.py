"""weighted: the scale of least squared error of a matrix's *output*, each input weighted by its mean square.

What a rounding error costs depends on what it is multiplied with: E[(w - w')^2 x^2]. The mean squares come from running
the float model over a little text (export/calibrate.py). The same idea as llama.cpp's importance matrix and
auto-round's "opt-RTN"; inputs are taken as uncorrelated, which GPTQ does not.
"""

from torch import Tensor

from export.quantize import Codes
from export.quantize._search import search_scales
from export.schemes import Format

SUMMARY = "least squared error weighted by measured inputs: a little text, a few minutes at 0.8B"
NEEDS_CALIBRATION = True


def quantize(weight: Tensor, form: Format, importance: Tensor | None) -> Codes:
    """Quantize float32 `weight` (rows, in_features); `importance` (in_features,) is the inputs' mean square."""
    return search_scales(weight, form, importance)

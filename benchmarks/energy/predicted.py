"""A prediction, not a measurement: bytes read and operations done times stated costs.

A decoded token moves the model's weights, its fixed state and the keys and values so far through memory, and multiplies
each weight once. With a cost for a byte and one for an operation that gives an order between artifacts and a figure to
hold measurements against. It knows nothing of the device: no idle power, no caches, no clocks.

The costs are published ones for 45 nm (M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC
2014), taken from works that quote them: 10 pJ a bit from low-power DRAM with a good interface; an instruction of 70 pJ
that does 16 multiply-adds of 8 bits (Arm's SDOT on 128 bits), each 0.2 pJ for the product and 0.1 pJ for the 32-bit
sum. Today's chips take less for both; published figures for LPDDR run from 4 to 14 pJ a bit. Nobody has compared the
outcome with a phone.
"""

import re
from dataclasses import asdict, dataclass

from benchmarks.record import PredictedEnergy
from runtimes.artifact import Manifest

__all__ = ["Costs", "predict"]

FLOAT_BITS = 16  # the narrowest that a runtime reads where a matrix is not quantized


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Joules by what is done."""

    joules_per_byte: float = 8 * 10e-12
    joules_per_operation: float = 70e-12 / 16 + 0.2e-12 + 0.1e-12


def predict(manifest: Manifest, *, position: float, costs: Costs | None = None) -> PredictedEnergy:
    """Joules that decoding one token takes with `position` tokens in the cache.

    The manifest doesn't count weights: operations are the bytes by the narrowest format of any matrix, so at most that
    many. They are a tenth of the outcome.
    """
    rates = costs or Costs()
    fixed = manifest.bytes_read_per_decoded_token
    moved = round(fixed + _cached_bytes(manifest, position))
    operations = fixed * 8 // _narrowest_bits(manifest)
    return PredictedEnergy(
        joules_per_token=moved * rates.joules_per_byte + operations * rates.joules_per_operation,
        model="bytes and operations times stated costs",
        bytes_per_token=moved,
        operations_per_token=operations,
        costs=asdict(rates),
    )


def _cached_bytes(manifest: Manifest, position: float) -> float:
    """Keys and values of the tokens so far."""
    return sum(
        entry.bytes / entry.shape[entry.token_axis] * position
        for entry in manifest.state
        if entry.token_axis is not None
    )


def _narrowest_bits(manifest: Manifest) -> int:
    formats = {} if manifest.quantization is None else manifest.quantization.formats
    widths = (re.match(r"int(\d+)", name) for name in formats.values())
    return min((int(width[1]) for width in widths if width is not None), default=FLOAT_BITS)

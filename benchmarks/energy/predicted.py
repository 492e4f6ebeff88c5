"""A prediction, not a measurement: bytes read and operations done times stated costs.

A decoded token moves its weights and state from memory and multiplies each weight once. With a cost for a byte and for
an operation that gives a floor to compare measurements with, and an order between artifacts on one kind of device. The
defaults are round assumptions without a source: 4 pJ for a bit from LPDDR5 with its interface, 2 pJ for an int8
multiply-add in a CPU's vector unit with its instruction. Nobody has compared them with a phone; they are good for
ratios between artifacts, and a user who knows a device's costs gives those.
"""

from dataclasses import dataclass

from benchmarks.record import PredictedEnergy

__all__ = ["Costs", "predict"]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Joules by what is done; `static_w` flows as long as a token takes."""

    joules_per_byte: float = 32e-12
    joules_per_operation: float = 2e-12
    static_w: float = 0.0


def predict(
    *, bytes_per_token: int, operations_per_token: int, seconds_per_token: float = 0.0, costs: Costs | None = None
) -> PredictedEnergy:
    """Joules a decoded token by the costs; `operations_per_token` counts multiply-adds."""
    rates = costs or Costs()
    joules = bytes_per_token * rates.joules_per_byte
    joules += operations_per_token * rates.joules_per_operation
    joules += seconds_per_token * rates.static_w
    return PredictedEnergy(
        joules_per_token=joules,
        model="bytes and operations times stated costs",
        costs={
            "joules_per_byte": rates.joules_per_byte,
            "joules_per_operation": rates.joules_per_operation,
            "static_w": rates.static_w,
        },
    )

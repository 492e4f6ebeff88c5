"""The battery's own gauge: current times voltage, in whatever unit and sign its driver uses.

`BatteryManager.CURRENT_NOW` and the kernel's `current_now` promise microamperes; phones answer with microamperes or
milliamperes, and with either sign while they discharge. So the name of a field proves nothing. What proves it:

* unit of voltage: a pack of one or two lithium cells has 2.5 to 9.5 V, and volts, millivolts and microvolts of that do
  not overlap;
* unit of current: a phone at work draws 30 mA to 12 A; the largest figure seen lies in one of two ranges;
* both, against the charge counter where there is one: current over time must be the charge that went;
* sign: nothing was plugged in, so the battery was discharging; whatever sign the current had is the sign of that.

Where the evidence is mixed, there is no figure.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.energy.source import EnergyUnavailableError, PowerSamples, Window

__all__ = ["BatteryGauge", "BatterySample"]

RANK = 3
VOLTS = (2.5, 9.5)
AMPERES = (0.03, 12.0)
# 100 mAh to 20 Ah: a watch to a large tablet
CHARGE_AH = (0.1, 20.0)
FACTORS = (1.0, 1e-3, 1e-6)
CURRENT_FACTORS = (1e-3, 1e-6)
# of the samples under load that may point the other way before the sign is in doubt
MAX_CONTRARY = 0.02
# current over time against the change of the charge counter: gauges disagree by tens of per cent, units by a thousand
CHARGE_AGREES = (0.3, 3.0)
# changes of the charge counter that make it a witness
MIN_CHARGE_STEPS = 5
WRAP = 2**64


@dataclass(frozen=True, kw_only=True)
class BatterySample:
    """One look at the gauge, figures as they came; `charge` is what the charge counter said."""

    at_ns: int
    current: float
    voltage: float
    charge: float | None = None


@dataclass(frozen=True, kw_only=True)
class BatteryGauge:
    """Looks at a gauge whose unit and sign are not known yet."""

    name: str
    samples: Sequence[BatterySample]
    rank: int = RANK
    external: bool = False

    def judged(self, windows: Sequence[Window]) -> PowerSamples:
        """Watts drawn, positive; unit and sign are judged by `windows`, in which nothing was plugged in."""
        ordered = _distinct(sorted(self.samples, key=lambda sample: sample.at_ns))
        seen = [one for one in ordered if any(window.start_ns <= one.at_ns <= window.end_ns for window in windows)]
        if not seen:
            raise EnergyUnavailableError(f"{self.name}: no sample of the battery lies in the measured windows")
        currents = [_unwrapped(sample.current) for sample in seen]
        volts = _voltage_factor(self.name, [sample.voltage for sample in seen])
        sign = _discharge_sign(self.name, currents)
        amperes = _current_factor(self.name, currents)
        witnessed = [_check_charge(self.name, _within(seen, window), amperes, sign) for window in windows]
        said = f"current in units of {amperes:g} A, voltage of {volts:g} V, discharge is {'+' if sign > 0 else '-'}"
        return PowerSamples(
            name=self.name,
            rank=self.rank,
            times_ns=[sample.at_ns for sample in ordered],
            watts=[sign * _unwrapped(sample.current) * sample.voltage * amperes * volts for sample in ordered],
            step_w=_step(currents) * amperes * statistics.median(sample.voltage for sample in seen) * volts,
            unit_factor=amperes * volts,
            sign=sign,
            notes=(said, *dict.fromkeys(witnessed)),
        )


def _within(samples: Sequence[BatterySample], window: Window) -> list[BatterySample]:
    return [sample for sample in samples if window.start_ns <= sample.at_ns <= window.end_ns]


def _distinct(samples: Sequence[BatterySample]) -> list[BatterySample]:
    """One sample a moment: the last said."""
    return list({sample.at_ns: sample for sample in samples}.values())


def _unwrapped(current: float) -> float:
    """iOS prints a negative current as an unsigned 64-bit number."""
    return current - WRAP if current >= WRAP / 2 else current


def _voltage_factor(name: str, voltages: Sequence[float]) -> float:
    middle = statistics.median(voltages)
    fitting = [factor for factor in FACTORS if VOLTS[0] <= middle * factor <= VOLTS[1]]
    if not fitting:
        raise EnergyUnavailableError(f"{name}: a voltage of {middle:g} is that of no battery in V, mV or uV")
    if any(not VOLTS[0] <= voltage * fitting[0] <= VOLTS[1] for voltage in voltages):
        raise EnergyUnavailableError(f"{name}: voltages from {min(voltages):g} to {max(voltages):g} change their unit")
    return fitting[0]


def _discharge_sign(name: str, currents: Sequence[float]) -> int:
    down = sum(current < 0 for current in currents)
    up = sum(current > 0 for current in currents)
    if down + up == 0:
        raise EnergyUnavailableError(f"{name}: the current is 0 throughout; this gauge does not measure it")
    if min(down, up) > MAX_CONTRARY * (down + up):
        raise EnergyUnavailableError(
            f"{name}: the current is negative in {down} samples and positive in {up} while nothing is plugged in; "
            "which of them is discharge cannot be known"
        )
    return -1 if down > up else 1


def _current_factor(name: str, currents: Sequence[float]) -> float:
    # single spikes say nothing: the largest that at least one sample in ten reaches
    strong = sorted(map(abs, currents))[-max(1, len(currents) // 10)]
    fitting = [factor for factor in CURRENT_FACTORS if AMPERES[0] <= strong * factor <= AMPERES[1]]
    if len(fitting) != 1:
        raise EnergyUnavailableError(
            f"{name}: a current of {strong:g} under load is that of no phone in mA or uA; the unit cannot be known"
        )
    return fitting[0]


def _check_charge(name: str, samples: Sequence[BatterySample], amperes: float, sign: int) -> str:
    """Hold current over time against the charge counter; what it said, or why it says nothing."""
    held = [(sample.at_ns, sample.charge) for sample in samples if sample.charge is not None]
    steps = sum(before[1] != after[1] for before, after in itertools.pairwise(held))
    if steps < MIN_CHARGE_STEPS:
        return "the charge counter changed too rarely to check the unit"
    lost = held[0][1] - held[-1][1]
    if lost <= 0:
        raise EnergyUnavailableError(f"{name}: the charge counter rose by {-lost:g} while nothing was plugged in")
    factor = _fitting(lambda unit: CHARGE_AH[0] <= abs(held[0][1]) * unit <= CHARGE_AH[1], (1e-3, 1e-6))
    if factor is None:
        return f"a charge counter at {held[0][1]:g} is in no known unit"
    span = [sample for sample in samples if held[0][0] <= sample.at_ns <= held[-1][0]]
    flowed_ah = sum(
        sign * (_unwrapped(before.current) + _unwrapped(after.current)) / 2 * amperes * (after.at_ns - before.at_ns)
        for before, after in itertools.pairwise(span)
    ) / (1e9 * 3600)
    ratio = flowed_ah / (lost * factor)
    if not CHARGE_AGREES[0] <= ratio <= CHARGE_AGREES[1]:
        raise EnergyUnavailableError(
            f"{name}: current over time is {ratio:.3g} times what the charge counter lost; one of them is not in the "
            "unit it seems to be in"
        )
    return f"current over time is {ratio:.2f} times what the charge counter lost"


def _fitting(test: Callable[[float], bool], factors: Sequence[float]) -> float | None:
    return next((factor for factor in factors if test(factor)), None)


def _step(currents: Sequence[float]) -> float:
    """The smallest difference between two figures that differ."""
    levels = sorted(set(currents))
    return min((high - low for low, high in itertools.pairwise(levels)), default=0.0)

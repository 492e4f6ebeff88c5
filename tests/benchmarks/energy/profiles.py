"""Known loads: power as a function of time with its true integral, sampled into what some phone's gauge would say."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.energy.battery import BatterySample
from benchmarks.energy.measure import Run
from benchmarks.energy.source import PluggedSample, Window

SECOND = 1_000_000_000
IDLE_A, IDLE_S, BUSY_S = 0.15, 40.0, 60.0
IDLE = Window(start_ns=0, end_ns=round(IDLE_S * SECOND))
BUSY = Window(start_ns=round((IDLE_S + 5) * SECOND), end_ns=round((IDLE_S + 5 + BUSY_S) * SECOND))
RUN = Run(busy=BUSY, idle=IDLE, tokens=500)
UNPLUGGED = [PluggedSample(at_ns=second * SECOND, plugged=False) for second in range(0, 111, 5)]
VOLTS = 3.87


@dataclass(frozen=True, kw_only=True)
class Load:
    """Amperes over seconds of work, and their integral over all of it."""

    amperes: Callable[[float], float]
    coulombs: float


LOADS = {
    "constant": Load(amperes=lambda _: 0.9, coulombs=0.9 * BUSY_S),
    "ramp": Load(amperes=lambda t: 0.4 + 0.01 * t, coulombs=0.4 * BUSY_S + 0.01 * BUSY_S**2 / 2),
    "waves": Load(amperes=lambda t: 0.8 + 0.3 * math.sin(2 * math.pi * t / 20), coulombs=0.8 * BUSY_S),
    "steps": Load(amperes=lambda t: 0.6 if int(t // 10) % 2 else 1.2, coulombs=0.9 * BUSY_S),
    "decay": Load(amperes=lambda t: 0.3 + math.exp(-t / 15), coulombs=0.3 * BUSY_S + 15 * (1 - math.exp(-BUSY_S / 15))),
}


def joules_above_idle(load: Load) -> float:
    """What the work cost more than idling for as long."""
    return (load.coulombs - IDLE_A * BUSY_S) * VOLTS


def gauge(
    load: Load,
    *,
    ampere_units: float = 1e6,
    sign: int = -1,
    volt_units: float = 1e6,
    charge_units: float | None = None,
    period_s: float = 0.25,
) -> list[BatterySample]:
    """What a gauge says of idling and then of a load: whole numbers of its unit, every `period_s`."""
    samples, lost_c = [], 0.0
    for index in range(round(110 / period_s)):
        second = index * period_s
        busy_s = second - BUSY.start_ns / SECOND
        amperes = load.amperes(busy_s) if 0 <= busy_s <= BUSY_S else IDLE_A
        lost_c += amperes * period_s
        samples.append(
            BatterySample(
                at_ns=round(second * SECOND),
                current=sign * round(amperes * ampere_units),
                voltage=round(VOLTS * volt_units) if volt_units > 1 else VOLTS,
                charge=round((4.0 - lost_c / 3600) * charge_units) if charge_units else None,
            )
        )
    return samples

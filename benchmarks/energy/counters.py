"""The battery in an event stream: the samples of kind `battery` that a runner took beside its work.

A runner names its values by power supply, `<supply>_current_ua` and so on, as the kernel does. A battery is a supply
with current and voltage; `<supply>_online` of any other says whether something is plugged in. `ios.py` and the driver
of Android's `dumpsys battery` name theirs alike.
"""

from collections.abc import Iterable

from benchmarks.energy.battery import BatterySample
from benchmarks.energy.source import EnergyUnavailableError, PluggedSample
from benchmarks.stream_events import Sample

__all__ = ["battery_samples", "plugged_samples"]

CURRENT, VOLTAGE, CHARGE, ONLINE, PLUGGED = "_current_ua", "_voltage_uv", "_charge_counter_uah", "_online", "plugged"


def battery_samples(samples: Iterable[Sample]) -> list[BatterySample]:
    """Each look at the one battery that these samples show, or none where they show no battery."""
    looks = [sample for sample in samples if sample.kind == "battery"]
    names = {name.removesuffix(CURRENT) for look in looks for name in look.values if name.endswith(CURRENT)}
    batteries = sorted(name for name in names if any(f"{name}{VOLTAGE}" in look.values for look in looks))
    if len(batteries) > 1:
        raise EnergyUnavailableError(
            f"the device shows {len(batteries)} batteries, {', '.join(batteries)}; which of them feeds it is not known"
        )
    return [
        BatterySample(
            at_ns=look.at_ns,
            current=look.values[f"{battery}{CURRENT}"],
            voltage=look.values[f"{battery}{VOLTAGE}"],
            charge=look.values.get(f"{battery}{CHARGE}"),
        )
        for battery in batteries
        for look in looks
        if {f"{battery}{CURRENT}", f"{battery}{VOLTAGE}"} <= look.values.keys()
    ]


def plugged_samples(samples: Iterable[Sample]) -> list[PluggedSample]:
    """Whether anything was plugged in, at each look that says so."""
    found = []
    for look in samples:
        states = [value for name, value in look.values.items() if name.endswith(ONLINE) or name == PLUGGED]
        if look.kind == "battery" and states:
            found.append(PluggedSample(at_ns=look.at_ns, plugged=any(states)))
    return found

"""An iPhone's gauge as `pymobiledevice3 diagnostics battery` prints it: the registry entry `IOPMPowerSource` as JSON.

`InstantAmperage` is in mA, negative while discharging and printed as an unsigned number by some versions; `Voltage` is
in mV. Both are judged by evidence like any other gauge. The entry carries no monotonic clock, so whoever reads it says
when; the host's clock will do, if the run's windows are on it too. Over a cable an iPhone charges: read it by wireless.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.energy.battery import BatterySample
from benchmarks.energy.source import EnergyUnavailableError, PluggedSample

__all__ = ["read_entry"]


def read_entry(entry: Mapping[str, Any], at_ns: int) -> tuple[BatterySample, PluggedSample]:
    """What one registry entry says about the battery and about external power."""
    current = entry.get("InstantAmperage", entry.get("Amperage"))
    voltage, external = entry.get("Voltage"), entry.get("ExternalConnected")
    if not isinstance(current, int | float) or not isinstance(voltage, int | float) or external is None:
        raise EnergyUnavailableError(
            "iOS diagnostics: the entry lacks InstantAmperage, Voltage or ExternalConnected; "
            f"it has {', '.join(sorted(entry)[:20]) or 'nothing'}"
        )
    charge = entry.get("AppleRawCurrentCapacity")
    sample = BatterySample(
        at_ns=at_ns, current=current, voltage=voltage, charge=charge if isinstance(charge, int | float) else None
    )
    return sample, PluggedSample(at_ns=at_ns, plugged=bool(external) or bool(entry.get("IsCharging")))

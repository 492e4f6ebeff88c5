"""`dumpsys batterystats`: what Android's power profile says an app should have drawn. Modelled, never measured.

The figure is the vendor's table of currents by state times the time in each; it follows the clock frequencies, not the
silicon. It has no error of its own to state, so a tenth is stated, and the last rank keeps it below every measurement.
The format is `BatteryStats.dumpCheckinLocked` in AOSP: comma-separated, one line `pwi,uid` with mAh for each user id.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.energy.source import EnergyUnavailableError, Integral, Window

__all__ = ["Modelled", "read_checkin"]

RANK = 4
RELATIVE_UNCERTAINTY = 0.1
COULOMBS_PER_MAH = 3.6


@dataclass(frozen=True, kw_only=True)
class Modelled:
    """The charge that an app is said to have drawn in one reset-to-dump period."""

    milliampere_hours: float
    volts: float
    period: Window
    name: str = "batterystats (modelled)"
    rank: int = RANK
    external: bool = False
    sign: int = 1
    unit_factor: float = COULOMBS_PER_MAH

    @property
    def notes(self) -> tuple[str, ...]:
        """What the figure is."""
        return ("modelled by the vendor's power profile, not measured", f"at {self.volts:g} V")

    def integral(self, window: Window) -> Integral:
        """The period's energy, for the window that is that period."""
        if abs(window.start_ns - self.period.start_ns) + abs(window.end_ns - self.period.end_ns) > 2_000_000_000:
            raise EnergyUnavailableError(f"{self.name}: it covers another time; reset it before a window, dump after")
        joules = self.milliampere_hours * COULOMBS_PER_MAH * self.volts
        return Integral(joules=joules, uncertainty_j=joules * RELATIVE_UNCERTAINTY, samples=1, median_interval_s=None)


def read_checkin(text: str, user_id: int) -> float:
    """The milliampere-hours of one user id in the output of `dumpsys batterystats --checkin`."""
    found = [row for row in csv.reader(io.StringIO(text)) if _is_power_item(row) and row[1] == str(user_id)]
    if not found:
        raise EnergyUnavailableError(f"batterystats: no power item for user id {user_id}; was the app's period dumped?")
    try:
        return float(found[-1][5])
    except ValueError as error:
        raise EnergyUnavailableError(f"batterystats: {found[-1][5]!r} is not a number of mAh") from error


def _is_power_item(row: Sequence[str]) -> bool:
    return len(row) > 5 and row[3] == "pwi" and row[4] == "uid"

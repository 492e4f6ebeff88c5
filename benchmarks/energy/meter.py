"""An external meter's CSV: the best source, since it sees what the device draws and not what the device believes.

Columns are found by their names, with the unit in the name as meters write them: a time in `s`, `ms`, `us` or `ns`, and
power in `W` or `mW`, or current in `A`, `mA` or `uA` with voltage in `V` or `mV`. A meter's clock is not the device's,
so its offset must be given: the run begins with a marker that both see, such as a known load or a trigger line.
"""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.energy.source import EnergyUnavailableError, PowerSamples

__all__ = ["read_meter"]

RANK = 1
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
WATTS = {"w": 1.0, "mw": 1e-3, "uw": 1e-6, "µw": 1e-6}
AMPERES = {"a": 1.0, "ma": 1e-3, "ua": 1e-6, "µa": 1e-6, "na": 1e-9}
VOLTS = {"v": 1.0, "mv": 1e-3, "uv": 1e-6}
HEADER = re.compile(r"^\W*(?P<what>[a-z ]*?)\W*[_ (\[]\s*(?P<unit>[a-zµ]{1,2})\s*[)\]]?\s*$", re.IGNORECASE)
MAX_ROWS = 20_000_000
Column = tuple[str, float]  # its name in the file, and the factor to SI units


def read_meter(place: Path, *, offset_ns: int) -> PowerSamples:
    """The power in a meter's CSV; `offset_ns` is the device's monotonic clock when the meter's read 0."""
    with place.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = _columns(place.name, rows.fieldnames or ())
        times, watts = [], []
        for number, row in enumerate(rows, start=2):
            if number > MAX_ROWS:
                raise EnergyUnavailableError(f"{place.name}: more than {MAX_ROWS} rows; have the meter average them")
            values = {what: _number(place.name, number, row, column) for what, column in columns.items()}
            times.append(offset_ns + round(values["time"] * 1e9))
            watts.append(values["power"] if "power" in values else values["current"] * values["voltage"])
    factor = math.prod(columns[what][1] for what in columns if what != "time")
    return PowerSamples(
        name="external meter",
        rank=RANK,
        times_ns=times,
        watts=watts,
        unit_factor=factor,
        external=True,
        notes=(f"{place.name}, columns {', '.join(name for name, _ in columns.values())}",),
    )


def _columns(name: str, header: Iterable[str]) -> dict[str, Column]:
    """Time, and power or else current and voltage, each with its factor."""
    found: dict[str, Column] = {}
    for title in header:
        match = HEADER.match(title.strip())
        if not match:
            continue
        words, unit = match["what"].lower(), match["unit"].lower()
        for what, units in (("time", SECONDS), ("power", WATTS), ("current", AMPERES), ("voltage", VOLTS)):
            if what in words and unit in units and what not in found:
                found[what] = (title, units[unit])
    if "time" not in found or ("power" not in found and not {"current", "voltage"} <= found.keys()):
        raise EnergyUnavailableError(
            f"{name}: needs a column of time, and power or current and voltage, with units, such as 'time (s)' and "
            f"'power (mW)'; it has {', '.join(map(repr, header))}"
        )
    return {what: column for what, column in found.items() if "power" not in found or what in ("time", "power")}


def _number(name: str, line: int, row: Mapping[str, str | None], column: Column) -> float:
    title, factor = column
    try:
        value = float(row[title] or "")
    except ValueError as error:
        raise EnergyUnavailableError(f"{name}, line {line}: {row[title]!r} in {title!r} is not a number") from error
    if not math.isfinite(value):
        raise EnergyUnavailableError(f"{name}, line {line}: {value} in {title!r} is not a measurement")
    return value * factor

"""Perfetto traces of Android's `android.power` data source: battery counters and power rails (ODPM).

The packets are read with Perfetto's own protocol definitions; its trace processor, a program that it downloads on first
use, is not needed. Rail names differ from device to device and Google says to assume nothing of them, so a sum over
rails names what it adds up: those of a list made for the device, or all.

A trace's default clock is boot time; a clock snapshot in the trace carries it to the monotonic clock of our events.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from perfetto.protos.perfetto.trace import perfetto_trace_pb2

from benchmarks.energy.battery import BatterySample
from benchmarks.energy.source import EnergyCounter, EnergyUnavailableError

__all__ = ["battery_samples", "power_rails", "read_trace"]

RAILS_RANK = 2
MAX_TRACE_BYTES = 512 * 2**20
MICROWATT_SECONDS = 1e-6
CLOCKS = perfetto_trace_pb2.BuiltinClock
Packet = Any  # perfetto's generated modules carry no types that mypy reads


def read_trace(place: Path) -> list[Packet]:
    """The packets of a trace file."""
    size = place.stat().st_size
    if size > MAX_TRACE_BYTES:
        raise EnergyUnavailableError(f"{place.name}: {size} bytes; a trace may have {MAX_TRACE_BYTES}; trace less")
    trace = perfetto_trace_pb2.Trace()
    try:
        trace.ParseFromString(place.read_bytes())
    except DecodeError as error:
        raise EnergyUnavailableError(f"{place.name}: not a Perfetto trace: {error}") from error
    return list(trace.packet)


def battery_samples(packets: Sequence[Packet]) -> list[BatterySample]:
    """The battery packets that hold current and voltage, on the monotonic clock."""
    offsets = _offsets(packets)
    return [
        BatterySample(
            at_ns=_monotonic_ns(packet, offsets),
            current=packet.battery.current_ua,
            voltage=packet.battery.voltage_uv,
            charge=packet.battery.charge_counter_uah if packet.battery.HasField("charge_counter_uah") else None,
        )
        for packet in packets
        if packet.HasField("battery")
        and packet.battery.HasField("current_ua")
        and packet.battery.HasField("voltage_uv")
    ]


def power_rails(packets: Sequence[Packet], wanted: Sequence[str] | None = None) -> EnergyCounter:
    """The sum of the wanted rails, or of all, as one counter of joules."""
    names: dict[int, str] = {}
    totals: dict[int, dict[int, int]] = {}
    offsets = _offsets(packets)
    for packet in packets:
        if not packet.HasField("power_rails"):
            continue
        for rail in packet.power_rails.rail_descriptor:
            names[rail.index] = rail.rail_name
        moment = _monotonic_ns(packet, offsets)
        for reading in packet.power_rails.energy_data:
            totals.setdefault(moment, {})[reading.index] = reading.energy
    chosen = _chosen(names, wanted)
    times = sorted(moment for moment, readings in totals.items() if chosen <= readings.keys())
    return EnergyCounter(
        name="power rails",
        rank=RAILS_RANK,
        times_ns=times,
        joules=[sum(totals[moment][index] for index in chosen) * MICROWATT_SECONDS for moment in times],
        unit_factor=MICROWATT_SECONDS,
        notes=(
            f"{'all' if wanted is None else 'listed'} rails: {', '.join(sorted(names[index] for index in chosen))}",
        ),
    )


def _chosen(names: Mapping[int, str], wanted: Sequence[str] | None) -> set[int]:
    if not names:
        raise EnergyUnavailableError("power rails: the trace has none; this device has no ODPM, or it was not asked")
    missing = sorted(set(wanted or ()) - set(names.values()))
    if missing:
        raise EnergyUnavailableError(
            f"power rails: no rail {missing[0]!r}; there are {', '.join(sorted(names.values()))}"
        )
    return {index for index, name in names.items() if wanted is None or name in wanted}


def _offsets(packets: Sequence[Packet]) -> dict[int, int]:
    """What to add to a time on each clock, in nanoseconds, to have it on the monotonic clock: by the first snapshot."""
    offsets = {CLOCKS.BUILTIN_CLOCK_MONOTONIC: 0}
    for packet in packets:
        if packet.HasField("clock_snapshot"):
            readings = {reading.clock_id: reading.timestamp for reading in packet.clock_snapshot.clocks}
            if CLOCKS.BUILTIN_CLOCK_MONOTONIC in readings:
                now = readings[CLOCKS.BUILTIN_CLOCK_MONOTONIC]
                return offsets | {clock: int(now - reading) for clock, reading in readings.items()}
    return offsets


def _monotonic_ns(packet: Packet, offsets: Mapping[int, int]) -> int:
    clock = packet.timestamp_clock_id or CLOCKS.BUILTIN_CLOCK_BOOTTIME
    if clock not in offsets:
        raise EnergyUnavailableError(f"the trace has no snapshot that ties clock {clock} to the monotonic clock")
    return int(packet.timestamp) + offsets[clock]

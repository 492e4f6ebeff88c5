"""Energy on the virtual phone: a current and voltage that are injected live, sampled over adb, and integrated.

The truth is what was written to the battery's driver and when, by the phone's own monotonic clock; the figure comes
from what `/sys` said, through the same code as for any phone.
"""

import itertools
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from adbutils._utils import adb_path

from benchmarks.energy.battery import BatteryGauge, BatterySample
from benchmarks.energy.measure import Run, measure
from benchmarks.energy.source import PluggedSample, Window
from tests.devices_lane.phone import BATTERY, PARAMETERS, Phone
from tests.waiting import patient

pytestmark = pytest.mark.devices

IDLE_S, BUSY_S = 8, 24
LOOK = f"""
end=$(($(cut -d. -f1 /proc/uptime) + $0))
cd {BATTERY}
while read up rest < /proc/uptime; do
  read current < current_now; read voltage < voltage_now
  read usb < ../test_usb/online; read ac < ../test_ac/online
  echo look $up $current $voltage $usb $ac
  [ ${{up%.*}} -ge $end ] && break
  usleep 40000
done
"""


@dataclass(frozen=True)
class Change:
    """One set of figures written to the driver, and when."""

    at_s: float
    amperes: float
    volts: float


def adb_shell(phone: Phone, *words: str) -> str:
    command = [adb_path(), "-s", phone.serial, "shell", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=patient(180)).stdout


def set_and_stamp(phone: Phone, amperes: float, volts: float, units: tuple[float, float, int]) -> Change:
    """Write a current and a voltage; the moment is the middle of the phone's clock before and after."""
    current, voltage = units[2] * round(amperes * units[0]), round(volts * units[1])
    said = adb_shell(
        phone,
        f"cut -d' ' -f1 /proc/uptime; echo {current} > {PARAMETERS}/battery_current; "
        f"echo {voltage} > {PARAMETERS}/battery_voltage; cut -d' ' -f1 /proc/uptime",
    )
    before, after = map(float, said.split())
    return Change(at_s=(before + after) / 2, amperes=amperes, volts=volts)


def watch(phone: Phone, seconds: int, into: list[str]) -> threading.Thread:
    """Look at the battery for some seconds, from a shell on the phone."""
    thread = threading.Thread(target=lambda: into.append(adb_shell(phone, f"sh -c '{LOOK}' {seconds}")))
    thread.start()
    return thread


def true_joules(changes: Sequence[Change], start_s: float, end_s: float) -> float:
    """The integral of what was injected, each change holding until the next."""
    moments = [max(start_s, change.at_s) for change in changes] + [end_s]
    return sum(
        change.amperes * change.volts * max(0.0, min(after, end_s) - before)
        for change, (before, after) in zip(changes, itertools.pairwise(moments), strict=True)
    )


def inject(phone: Phone, units: tuple[float, float, int]) -> tuple[list[Change], float]:
    """Idle, then a load that rises and falls in small steps; the changes, and when the load began."""
    changes = [set_and_stamp(phone, 0.2, 3.9, units)]
    time.sleep(IDLE_S)
    began = time.monotonic()
    busy_at_s = None
    while (elapsed := time.monotonic() - began) < BUSY_S:
        share = elapsed / BUSY_S
        level = 0.5 + 0.9 * (share if share < 0.5 else 1 - share)
        changes.append(set_and_stamp(phone, level, 3.9 - 0.1 * share, units))
        busy_at_s = busy_at_s or changes[-1].at_s
        time.sleep(0.2)
    assert busy_at_s is not None
    return changes, busy_at_s


@pytest.mark.parametrize(
    "units",
    [(1e6, 1e6, -1), (1e6, 1e6, 1), (1e3, 1e3, -1), (1e3, 1e6, 1)],
    ids=["uA negative", "uA positive", "mA negative", "mA in a uA field"],
)
def test_an_injected_profile_is_integrated_within_one_per_cent(phone: Phone, units: tuple[float, float, int]) -> None:
    text: list[str] = []
    watching = watch(phone, IDLE_S + BUSY_S + 6, text)
    time.sleep(1)
    changes, busy_at_s = inject(phone, units)
    watching.join(120)
    looks = [tuple(map(float, line.split()[1:])) for line in text[0].splitlines() if re.match(r"look [\d.]+ ", line)]
    assert len(looks) > 100, "the phone was too slow to be looked at"
    samples = [BatterySample(at_ns=round(up * 1e9), current=one, voltage=two) for up, one, two, _, _ in looks]
    plugged = [PluggedSample(at_ns=round(up * 1e9), plugged=bool(usb or ac)) for up, _, _, usb, ac in looks]
    start_s, end_s = busy_at_s + 1, changes[-1].at_s - 1
    idle = Window(start_ns=round((changes[0].at_s + 1) * 1e9), end_ns=round((busy_at_s - 1) * 1e9))
    run = Run(busy=Window(start_ns=round(start_s * 1e9), end_ns=round(end_s * 1e9)), idle=idle, tokens=100)
    energy, reason = measure(run, [BatteryGauge(name="gauge", samples=samples)], plugged)
    assert energy is not None, reason
    above_idle = true_joules(changes, start_s, end_s) - 0.2 * 3.9 * (end_s - start_s)
    assert energy.joules == pytest.approx(above_idle, rel=0.01)
    assert energy.sign == units[2]
    assert energy.baseline_w == pytest.approx(0.2 * 3.9, rel=0.01)

"""What phones say of themselves. Texts are constructed after AOSP's dump formats; none was recorded on a device."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.android.adb import Answer
from benchmarks.android.state import COMMANDS, parse_environment
from benchmarks.ios import answers
from benchmarks.record import Environment

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: {usb}
  Wireless powered: false
  Dock powered: false
  Max charging current: 0
  status: 3
  present: true
  level: {level}
  scale: 100
  voltage: 4127
  temperature: 287
"""
THERMAL = """IsStatusOverride: false
ThermalEventListeners:
	callbacks: 2
Thermal Status: {status}
Cached temperatures:
	Temperature{{mValue=99.0, mType=3, mName=skin, mStatus=0}}
HAL Ready: true
Current temperatures from HAL:
	Temperature{{mValue=31.5, mType=0, mName=CPU0, mStatus=0}}
	Temperature{{mValue=33.25, mType=3, mName=VIRTUAL-SKIN, mStatus=0}}
Current cooling devices from HAL:
"""


ENTRY = ["ExternalConnected", "CurrentCapacity", "Temperature"]
ENTRIES = st.dictionaries(st.sampled_from(ENTRY), st.integers() | st.text())


def said(**texts: str) -> dict[str, Answer]:
    silent = {name: Answer(status=127, text=f"/system/bin/sh: {name}: not found") for name in COMMANDS}
    return silent | {name: Answer(status=0, text=text) for name, text in texts.items()}


def test_a_whole_phone_is_read() -> None:
    found = parse_environment(
        said(
            battery=BATTERY.format(usb="true", level=83),
            power="mWakefulness=Awake\nDisplay Power: state=ON",
            low_power="0",
            thermal=THERMAL.format(status=2),
            cpuset="/foreground",
            affinity="Cpus_allowed_list:\t0-3,7",
            governor="policy0/scaling_governor:schedutil\npolicy4/scaling_governor:walt",
        )
    )
    assert found == Environment(
        plugged=True,
        battery_percent=83,
        temperature_c=33.25,
        thermal_status="moderate",
        low_power=False,
        screen="Awake",
        cpuset="/foreground",
        governor="policy0=schedutil,policy4=walt",
        affinity=(0, 1, 2, 3, 7),
    )


def test_the_kernel_answers_where_android_is_not() -> None:
    supplies = "battery/type:Battery\nbattery/capacity:50\nbattery/temp:260\nac/type:Mains\nac/online:0\nusb/online:0"
    found = parse_environment(said(supplies=supplies, zones="thermal_zone0/temp:41000"))
    assert (found.plugged, found.battery_percent, found.temperature_c) == (False, 50, 26.0)
    assert "not found" in found.unknown["thermal_status"]


def test_zones_are_the_last_resort_and_the_hottest_counts() -> None:
    zones = "thermal_zone0/type:soc\nthermal_zone0/temp:41000\nthermal_zone1/temp:52500\nthermal_zone2/temp:junk"
    assert parse_environment(said(zones=zones)).temperature_c == 52.5


def test_a_battery_saver_that_was_never_set_is_off() -> None:
    assert parse_environment(said(low_power="null")).low_power is False
    assert parse_environment(said(low_power="1")).low_power is True


def test_a_silent_phone_is_unknown_with_reasons() -> None:
    found = parse_environment({})
    assert set(found.unknown) == set(Environment.model_fields) - {"unknown", "threads"}


@pytest.mark.parametrize("level", ["900", "-1", "9" * 400, "1e9", "8٣"])
def test_an_impossible_charge_is_unknown(level: str) -> None:
    assert parse_environment(said(battery=BATTERY.format(usb="false", level=level))).battery_percent is None


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from(sorted(COMMANDS)), st.text() | st.sampled_from(["\0", "Cpus_allowed_list: 0-"])))
def test_no_answer_breaks_the_parser(texts: dict[str, str]) -> None:
    Environment.model_validate_json(parse_environment(said(**texts)).model_dump_json())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([*string.digits, "-", ","])).map("".join))
def test_no_list_of_cpus_breaks_the_parser(cpus: str) -> None:
    found = parse_environment(said(affinity=f"Cpus_allowed_list:\t{cpus}")).affinity
    assert found is None or all(0 <= cpu < 4096 for cpu in found)


def test_an_iphones_answers_are_read() -> None:
    entry = {"ExternalConnected": False, "CurrentCapacity": 71, "Temperature": 2949, "Voltage": 4012}
    found = answers.battery_environment(entry)
    assert (found.plugged, found.battery_percent, found.temperature_c) == (False, 71, 29.49)
    device = answers.describe(
        "udid", {"ProductType": "iPhone16,1", "ProductVersion": "19.1", "HardwarePlatform": "t8130"}
    )
    assert (device.model, device.soc, device.kind) == ("iPhone16,1", "t8130", "physical")


def test_a_jetsam_report_names_the_app() -> None:
    report = (
        b'{"bug_type":"298","timestamp":"2026-11-22 07:15:30.00 +0000"}\n'
        b'{"largestProcess":"demo","processes":[{"name":"other"},{"name":"demo","reason":"per-process-limit"}]}'
    )
    assert answers.killed_for_memory(report, "demo") == "per-process-limit"
    assert answers.killed_for_memory(report, "other") is None


@settings(deadline=None, max_examples=60)
@given(st.binary())
def test_no_answer_of_an_iphone_breaks_the_parser(data: bytes) -> None:
    answers.udids(data)
    answers.process_id(data)
    answers.killed_for_memory(data, "app")
    answers.killed_for_memory(b"{}\n" + data, "app")
    answers.battery_environment(answers.json_object(data))


@settings(deadline=None, max_examples=60)
@given(ENTRIES)
def test_no_entry_breaks_the_parser(entry: dict[str, object]) -> None:
    answers.battery_environment(entry)

"""The virtual phone is one: its own processor and kernel, a battery and a thermal zone that follow what a test sets."""

import adbutils
import pytest

from tests.devices_lane.phone import BATTERY, Phone

pytestmark = pytest.mark.devices


@pytest.fixture
def device(phone: Phone) -> adbutils.AdbDevice:
    return adbutils.adb.device(serial=phone.serial)


def test_the_phone_is_an_arm_machine_of_its_own(device: adbutils.AdbDevice) -> None:
    assert device.shell("uname -m") == "aarch64"
    assert "0xd0b" in device.shell("cat /proc/cpuinfo")


def test_the_battery_follows_what_a_test_sets(phone: Phone, device: adbutils.AdbDevice) -> None:
    phone.set_power(battery_current=-412000, battery_voltage=3900000, battery_status="charging", usb_online="on")
    files = f"{BATTERY}/current_now {BATTERY}/voltage_now {BATTERY}/status /sys/class/power_supply/test_usb/online"
    read = device.shell(f"cat {files}")
    assert read.split() == ["-412000", "3900000", "Charging", "1"]


def test_the_thermal_zone_follows_the_battery(phone: Phone, device: adbutils.AdbDevice) -> None:
    phone.set_power(battery_temp=455)
    assert device.shell("cat /sys/class/thermal/thermal_zone0/temp") == "45500"

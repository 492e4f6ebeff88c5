"""Whatever unit and sign a gauge uses, the energy is the same; where the evidence is mixed there is none."""

from dataclasses import replace

import pytest

from benchmarks.energy.battery import BatteryGauge, BatterySample
from benchmarks.energy.measure import measure
from benchmarks.energy.source import EnergyUnavailableError, PluggedSample
from tests.benchmarks.energy.profiles import BUSY, IDLE, LOADS, RUN, SECOND, UNPLUGGED, gauge, joules_above_idle


def judged(samples: list[BatterySample]) -> object:
    return BatteryGauge(name="gauge", samples=samples).judged((BUSY, IDLE))


@pytest.mark.parametrize("load", LOADS)
def test_the_energy_of_a_known_load_is_found_within_one_per_cent(load: str) -> None:
    energy, reason = measure(RUN, [BatteryGauge(name="gauge", samples=gauge(LOADS[load]))], UNPLUGGED)
    assert energy is not None, reason
    assert energy.joules == pytest.approx(joules_above_idle(LOADS[load]), rel=0.01)
    assert energy.joules_per_token == pytest.approx(energy.joules / 500)
    assert abs(energy.joules - joules_above_idle(LOADS[load])) <= 3 * energy.uncertainty_j + 1e-3
    assert energy.baseline_w == pytest.approx(0.15 * 3.87, rel=0.01)
    assert energy.plugged is False


@pytest.mark.parametrize("volt_units", [1.0, 1e3, 1e6], ids=["V", "mV", "uV"])
@pytest.mark.parametrize("sign", [-1, 1], ids=["negative", "positive"])
@pytest.mark.parametrize("ampere_units", [1e3, 1e6], ids=["mA", "uA"])
@pytest.mark.parametrize("charge_units", [None, 1e3, 1e6], ids=["no charge", "mAh", "uAh"])
def test_every_unit_and_sign_gives_the_same_energy(
    ampere_units: float, sign: int, volt_units: float, charge_units: float | None
) -> None:
    samples = gauge(
        LOADS["ramp"], ampere_units=ampere_units, sign=sign, volt_units=volt_units, charge_units=charge_units
    )
    energy, reason = measure(RUN, [BatteryGauge(name="gauge", samples=samples)], UNPLUGGED)
    assert energy is not None, reason
    assert energy.joules == pytest.approx(joules_above_idle(LOADS["ramp"]), rel=0.01)
    assert energy.unit_factor == pytest.approx(1 / (ampere_units * volt_units))
    assert energy.sign == sign


def test_an_unsigned_64_bit_current_is_a_negative_one() -> None:
    samples = [replace(one, current=one.current + 2**64) for one in gauge(LOADS["constant"], ampere_units=1e3)]
    energy, reason = measure(RUN, [BatteryGauge(name="gauge", samples=samples)], UNPLUGGED)
    assert energy is not None, reason
    assert energy.joules == pytest.approx(joules_above_idle(LOADS["constant"]), rel=0.01)
    assert energy.sign == -1


@pytest.mark.parametrize("second", [0, 20, 44, 45, 70, 104, 106])
def test_plugged_in_during_any_part_is_refused(second: int) -> None:
    plugged = [replace(look, plugged=look.at_ns == nearest(second)) for look in UNPLUGGED]
    energy, reason = measure(RUN, [BatteryGauge(name="gauge", samples=gauge(LOADS["constant"]))], plugged)
    assert energy is None
    assert "plugged in" in str(reason)


def nearest(second: int) -> int:
    return min((look.at_ns for look in UNPLUGGED), key=lambda at_ns: abs(at_ns - second * SECOND))


@pytest.mark.parametrize(
    "looks",
    [[], UNPLUGGED[:4], UNPLUGGED[-4:], [*UNPLUGGED[:4], *UNPLUGGED[-1:]]],
    ids=["never", "before", "after", "with a gap"],
)
def test_without_knowing_whether_it_was_plugged_in_there_is_no_figure(looks: list[PluggedSample]) -> None:
    energy, reason = measure(RUN, [BatteryGauge(name="gauge", samples=gauge(LOADS["constant"]))], looks)
    assert energy is None
    assert "is not known" in str(reason)


def test_a_current_of_both_signs_is_refused() -> None:
    samples = [
        replace(one, current=-one.current if index % 5 else one.current)
        for index, one in enumerate(gauge(LOADS["ramp"]))
    ]
    with pytest.raises(EnergyUnavailableError, match="which of them is discharge"):
        judged(samples)


def test_a_gauge_that_does_not_measure_current_is_refused() -> None:
    with pytest.raises(EnergyUnavailableError, match="0 throughout"):
        judged([replace(one, current=0) for one in gauge(LOADS["ramp"])])


@pytest.mark.parametrize("current", [5.0, 20_000.0, 2e8])
def test_a_current_that_fits_no_unit_or_two_is_refused(current: float) -> None:
    with pytest.raises(EnergyUnavailableError, match="the unit cannot be known"):
        judged([replace(one, current=-current) for one in gauge(LOADS["constant"])])


@pytest.mark.parametrize("voltage", [0.0, 12.0, 387_000.0])
def test_a_voltage_of_no_battery_is_refused(voltage: float) -> None:
    with pytest.raises(EnergyUnavailableError, match="no battery"):
        judged([replace(one, voltage=voltage) for one in gauge(LOADS["constant"])])


def test_a_voltage_that_changes_its_unit_is_refused() -> None:
    samples = gauge(LOADS["constant"])
    with pytest.raises(EnergyUnavailableError, match="change their unit"):
        judged([*samples[:-30], *(replace(one, voltage=one.voltage / 1e3) for one in samples[-30:])])


def test_a_charge_counter_that_rises_contradicts_the_discharge() -> None:
    samples = [replace(one, charge=2e6 + index * 100) for index, one in enumerate(gauge(LOADS["constant"]))]
    with pytest.raises(EnergyUnavailableError, match="rose by"):
        judged(samples)


def test_a_charge_counter_that_lost_something_else_contradicts_the_unit() -> None:
    samples = [replace(one, charge=2e6 - index * 5000) for index, one in enumerate(gauge(LOADS["constant"]))]
    with pytest.raises(EnergyUnavailableError, match="times what the charge counter lost"):
        judged(samples)


def test_two_samples_of_one_moment_count_once() -> None:
    samples = gauge(LOADS["constant"])
    energy, reason = measure(RUN, [BatteryGauge(name="gauge", samples=samples + samples)], UNPLUGGED)
    assert energy is not None, reason
    assert energy.joules == pytest.approx(joules_above_idle(LOADS["constant"]), rel=0.01)


def test_a_gap_in_the_samples_is_refused() -> None:
    samples = [one for one in gauge(LOADS["constant"]) if not 60 * SECOND < one.at_ns < 75 * SECOND]
    energy, reason = measure(RUN, [BatteryGauge(name="gauge", samples=samples)], UNPLUGGED)
    assert energy is None
    assert "no sample for" in str(reason)


def test_a_slow_gauge_states_a_larger_uncertainty_and_keeps_to_it() -> None:
    found = {}
    for period_s in (0.25, 1.0, 4.0):
        energy, reason = measure(
            RUN, [BatteryGauge(name="gauge", samples=gauge(LOADS["steps"], period_s=period_s))], UNPLUGGED
        )
        assert energy is not None, reason
        assert abs(energy.joules - joules_above_idle(LOADS["steps"])) <= 3 * energy.uncertainty_j
        found[period_s] = energy.uncertainty_j
    assert found[0.25] < found[1.0] < found[4.0]


def test_work_that_draws_no_more_than_idling_is_marked() -> None:
    samples = [replace(one, current=-150_000) for one in gauge(LOADS["constant"])]
    energy, reason = measure(RUN, [BatteryGauge(name="gauge", samples=samples)], UNPLUGGED)
    assert energy is not None, reason
    assert energy.joules == pytest.approx(0, abs=1e-6)
    assert any("not told apart from idle" in note for note in energy.notes)

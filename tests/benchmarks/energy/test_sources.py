"""The other sources, and the order in which they are believed.

Traces are built here with Perfetto's own protocol definitions after AOSP's description of `android.power`; none was
recorded on a phone, and none by a real `traced`.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2

from benchmarks.energy.battery import BatteryGauge
from benchmarks.energy.ios import read_entry
from benchmarks.energy.measure import Run, measure, measure_case
from benchmarks.energy.meter import read_meter
from benchmarks.energy.modelled import Modelled, read_checkin
from benchmarks.energy.percent import PercentSteps
from benchmarks.energy.perfetto_trace import battery_samples, power_rails, read_trace
from benchmarks.energy.predicted import Costs, predict
from benchmarks.energy.source import EnergyCounter, EnergyUnavailableError, PowerSamples, Window
from benchmarks.stream_events import Event, event_adapter
from benchmarks.timeline import read_timeline
from runtimes.artifact import Artifact, Manifest, Quantization
from tests.benchmarks.energy.profiles import BUSY, IDLE, LOADS, RUN, SECOND, UNPLUGGED, gauge, joules_above_idle
from tests.benchmarks.streams import at, case, generation
from tests.runtimes.tiny_onnx import write_artifact

BOOT_AHEAD_NS = 7_000_000_000  # a phone that slept: boot time runs ahead of monotonic time


def write_trace(place: Path, *, rails: bool = False, snapshot: bool = True) -> Path:
    trace = perfetto_trace_pb2.Trace()
    if snapshot:
        clocks = trace.packet.add().clock_snapshot
        for clock, moment in ((3, 50 * SECOND), (6, 50 * SECOND + BOOT_AHEAD_NS)):
            reading = clocks.clocks.add()
            reading.clock_id, reading.timestamp = clock, moment
    joules = {1: 0.0, 2: 0.0}
    names = {1: "S1M_VDD_CPU", 2: "L9S_GNSS"}
    for index, sample in enumerate(gauge(LOADS["waves"])):
        packet = trace.packet.add()
        packet.timestamp = sample.at_ns + BOOT_AHEAD_NS
        if not rails:
            packet.battery.current_ua, packet.battery.voltage_uv = round(sample.current), round(sample.voltage)
            continue
        joules[1] += -sample.current / 1e6 * sample.voltage / 1e6 * 0.25
        joules[2] += 0.1 * 0.25
        for number, name in names.items():
            if index == 0:
                rail = packet.power_rails.rail_descriptor.add()
                rail.index, rail.rail_name = number, name
            reading = packet.power_rails.energy_data.add()
            reading.index, reading.energy = number, round(joules[number] * 1e6)
    place.write_bytes(trace.SerializeToString())
    return place


def test_battery_packets_of_a_trace_give_the_energy_on_the_monotonic_clock(tmp_path: Path) -> None:
    samples = battery_samples(read_trace(write_trace(tmp_path / "trace")))
    energy, reason = measure(RUN, [BatteryGauge(name="Perfetto battery counters", samples=samples)], UNPLUGGED)
    assert energy is not None, reason
    assert energy.joules == pytest.approx(joules_above_idle(LOADS["waves"]), rel=0.01)


def test_a_trace_without_a_snapshot_of_its_clocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnergyUnavailableError, match="no snapshot"):
        battery_samples(read_trace(write_trace(tmp_path / "trace", snapshot=False)))


def test_rails_are_summed_over_a_list_or_over_all(tmp_path: Path) -> None:
    packets = read_trace(write_trace(tmp_path / "trace", rails=True))
    for wanted, extra_w in ((["S1M_VDD_CPU"], 0.0), (None, 0.1)):
        counter = power_rails(packets, wanted)
        busy, idle = counter.integral(BUSY), counter.integral(IDLE)
        assert idle.joules / IDLE.seconds == pytest.approx(0.15 * 3.87 + extra_w, rel=0.01)
        assert busy.joules == pytest.approx((LOADS["waves"].coulombs * 3.87) + extra_w * BUSY.seconds, rel=0.01)
        assert "S1M_VDD_CPU" in counter.notes[0]


def test_a_rail_that_the_device_lacks_is_named(tmp_path: Path) -> None:
    packets = read_trace(write_trace(tmp_path / "trace", rails=True))
    with pytest.raises(EnergyUnavailableError, match="no rail 'VDD_NPU'; there are L9S_GNSS, S1M_VDD_CPU"):
        power_rails(packets, ["VDD_NPU"])


def test_a_trace_without_rails_says_so(tmp_path: Path) -> None:
    with pytest.raises(EnergyUnavailableError, match="no ODPM"):
        power_rails(read_trace(write_trace(tmp_path / "trace")))


def test_bytes_that_are_no_trace_are_refused(tmp_path: Path) -> None:
    (tmp_path / "trace").write_bytes(b"\xff" * 100)
    with pytest.raises(EnergyUnavailableError, match="not a Perfetto trace"):
        read_trace(tmp_path / "trace")


@pytest.mark.parametrize(
    ("header", "time_unit", "columns"),
    [
        ("Time(s),Power(mW)", 1.0, lambda watts: f"{watts * 1e3}"),
        ("time_ms,power_w", 1e3, lambda watts: f"{watts}"),
        ("time (us),Main Current (mA),Voltage (V)", 1e6, lambda watts: f"{watts / 3.87 * 1e3},3.87"),
        ("time [ns],current [uA],voltage [mV]", 1e9, lambda watts: f"{watts / 3.87 * 1e6},3870"),
        ("time (s),main current (A),main voltage (V),power (W)", 1.0, lambda watts: f"9,9,{watts}"),
    ],
)
def test_a_meter_is_read_in_the_units_of_its_header(tmp_path: Path, header: str, time_unit: float, columns) -> None:  # type: ignore[no-untyped-def]
    place = tmp_path / "meter.csv"
    lines = [header]
    for sample in gauge(LOADS["ramp"]):
        second = sample.at_ns / SECOND * time_unit
        lines.append(f"{second},{columns(-sample.current / 1e6 * 3.87)}")
    place.write_text("\n".join(lines))
    energy, reason = measure(RUN, [read_meter(place, offset_ns=0)], [])  # a meter does not care what is plugged in
    assert energy is not None, reason
    assert energy.joules == pytest.approx(joules_above_idle(LOADS["ramp"]), rel=0.01)
    assert energy.plugged is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b\n1,2\n", "needs a column of time"),
        ("time (s),current (A)\n1,2\n", "needs a column of time"),
        ("time (s),power (W)\n1,x\n", "line 2: 'x' in 'power (W)' is not a number"),
        ("time (s),power (W)\n1,nan\n", "not a measurement"),
        ("time (s),power (W)\n1\n", "is not a number"),
    ],
)
def test_a_meter_file_that_says_something_else_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "meter.csv").write_text(text)
    with pytest.raises(EnergyUnavailableError, match=problem.replace("(", r"\(").replace(")", r"\)")):
        read_meter(tmp_path / "meter.csv", offset_ns=0)


def percents(watts: float, capacity_wh: float, minutes: float, every_s: float = 10) -> PercentSteps:
    times = [round(second * every_s) for second in range(round(minutes * 60 / every_s) + 1)]
    levels = [int(80.6 - watts * second / 36 / capacity_wh) for second in times]
    return PercentSteps(times_ns=[second * SECOND for second in times], percent=levels, capacity_wh=capacity_wh)


def test_steps_of_a_per_cent_are_counted_from_fall_to_fall() -> None:
    window = Window(start_ns=0, end_ns=20 * 60 * SECOND)
    found = percents(watts=4.0, capacity_wh=13.0, minutes=20).integral(window)
    assert found.joules == pytest.approx(4.0 * 1200, rel=0.02)
    assert abs(found.joules - 4.0 * 1200) <= 3 * found.uncertainty_j


def test_too_few_steps_of_a_per_cent_are_no_figure() -> None:
    with pytest.raises(EnergyUnavailableError, match="2 falls .* quarter of an hour"):
        percents(watts=4.0, capacity_wh=13.0, minutes=5).integral(Window(start_ns=0, end_ns=300 * SECOND))


def test_a_level_that_rises_is_a_charge() -> None:
    steps = PercentSteps(times_ns=[0, SECOND, 2 * SECOND], percent=[50, 49, 51], capacity_wh=13)
    with pytest.raises(EnergyUnavailableError, match="the battery was charged"):
        steps.integral(Window(start_ns=0, end_ns=2 * SECOND))


def test_an_iphone_s_entry_is_a_sample_in_its_own_units() -> None:
    entry = {"InstantAmperage": 2**64 - 812, "Voltage": 3921, "ExternalConnected": False, "IsCharging": False}
    sample, look = read_entry(entry, 5)
    assert (sample.current, sample.voltage, look.plugged) == (2**64 - 812, 3921, False)
    assert read_entry({**entry, "ExternalConnected": True}, 5)[1].plugged


def test_an_entry_without_the_current_is_refused() -> None:
    with pytest.raises(EnergyUnavailableError, match="it has Voltage"):
        read_entry({"Voltage": 1}, 0)


CHECKIN = "9,0,i,vers,36,2,AP,AP\n9,10123,l,pwi,uid,12.5,0,0,0\n9,1000,l,pwi,uid,90.1,0,0,0\n"


def test_batterystats_is_labelled_as_modelled_and_comes_last() -> None:
    source = Modelled(milliampere_hours=read_checkin(CHECKIN, 10123), volts=3.87, period=BUSY)
    assert source.integral(BUSY).joules == pytest.approx(12.5 * 3.6 * 3.87)
    assert "modelled" in source.name
    assert source.rank > 3


def test_batterystats_without_the_app_is_refused() -> None:
    with pytest.raises(EnergyUnavailableError, match="no power item for user id 7"):
        read_checkin(CHECKIN, 7)


def flat(name: str, rank: int, watts: float, **other: bool) -> PowerSamples:
    times = [index * SECOND for index in range(110)]
    busy = [BUSY.start_ns <= moment <= BUSY.end_ns for moment in times]
    return PowerSamples(name=name, rank=rank, times_ns=times, watts=[watts if on else 1.0 for on in busy], **other)


def test_the_best_source_that_can_say_is_believed() -> None:
    sources = [flat("rails", 2, 4.0), flat("meter", 1, 5.0, external=True), flat("gauge", 3, 3.0)]
    energy, _ = measure(RUN, sources, UNPLUGGED)
    assert energy is not None
    assert energy.source == "meter"


def test_a_source_that_cannot_say_gives_way_to_the_next() -> None:
    short = EnergyCounter(name="rails", rank=2, times_ns=[0, SECOND], joules=[0.0, 1.0])
    energy, _ = measure(RUN, [short, flat("gauge", 3, 3.0)], UNPLUGGED)
    assert energy is not None
    assert energy.source == "gauge"


def test_when_nobody_can_say_each_reason_is_kept() -> None:
    short = EnergyCounter(name="rails", rank=2, times_ns=[0, SECOND], joules=[0.0, 1.0])
    energy, reason = measure(RUN, [short, BatteryGauge(name="gauge", samples=[])], UNPLUGGED)
    assert energy is None
    assert "rails: " in str(reason)
    assert "gauge: no sample" in str(reason)


def test_no_source_at_all_is_said() -> None:
    assert measure(RUN, [], UNPLUGGED) == (None, "no source of energy was read")


def test_a_short_run_has_no_figure() -> None:
    run = Run(busy=Window(start_ns=BUSY.start_ns, end_ns=BUSY.start_ns + 2 * SECOND), idle=IDLE, tokens=5)
    energy, reason = measure(run, [flat("gauge", 3, 3.0)], UNPLUGGED)
    assert energy is None
    assert "2.0 s of work" in str(reason)


def test_a_counter_that_was_reset_is_refused() -> None:
    times = [index * SECOND for index in range(110)]
    counter = EnergyCounter(name="rails", rank=2, times_ns=times, joules=[float(index % 60) for index in range(110)])
    with pytest.raises(EnergyUnavailableError, match="ran backwards"):
        counter.integral(BUSY)


def stream_events(*, plugged_at: float | None = None, markers: bool = True) -> list[Event]:
    """A stream as the phone's runner writes it: idle between markers, then one long generation, the battery beside."""
    lines = case("sustained", *generation(45_000, [(45_000, 46_000, 32)], range(47_000, 105_001, 200)), name="long")
    for sample in gauge(LOADS["constant"]):
        plugged = plugged_at is not None and sample.at_ns >= plugged_at * SECOND
        values = {"test_battery_current_ua": sample.current, "test_battery_voltage_uv": sample.voltage}
        lines.append(
            at(
                sample.at_ns / 1e6,
                "sample",
                kind="battery",
                source="/sys/class/power_supply",
                values={**values, "test_usb_online": int(plugged)},
            )
        )
    if markers:
        lines += [at(0, "marker", name="idle_start"), at(40_000, "marker", name="idle_end")]
    ordered = sorted(lines, key=lambda line: line["at_ns"])
    return [event_adapter.validate_python(line) for line in ordered]  # type: ignore[misc]


def test_a_stream_alone_gives_the_energy_of_a_case() -> None:
    timeline = read_timeline(stream_events())
    energy, reason = measure_case(timeline, timeline.cases[0])
    assert energy is not None, reason
    assert energy.joules == pytest.approx(joules_above_idle(LOADS["constant"]), rel=0.01)
    assert energy.joules_per_token == pytest.approx(energy.joules / 291)


def test_plugging_in_during_a_case_takes_its_energy_away() -> None:
    timeline = read_timeline(stream_events(plugged_at=80))
    energy, reason = measure_case(timeline, timeline.cases[0])
    assert energy is None
    assert "plugged in during the run" in str(reason)


def test_a_stream_without_an_idle_window_has_no_energy() -> None:
    timeline = read_timeline(stream_events(markers=False))
    assert "no idle window" in str(measure_case(timeline, timeline.cases[0])[1])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Artifact.open(write_artifact(tmp_path_factory.mktemp("artifact"))).manifest


def test_a_prediction_is_bytes_and_operations_times_stated_costs(manifest: Manifest) -> None:
    formats = {"a": "int8_g32", "b": "int4_g64", "c": "float"}
    quantized = replace(
        manifest,
        bytes_read_per_decoded_token=10**9,
        quantization=Quantization(formats=formats, activations="none"),
    )
    found = predict(quantized, position=0, costs=Costs(joules_per_byte=32e-12, joules_per_operation=2e-12))
    assert (found.bytes_per_token, found.operations_per_token) == (10**9, 2 * 10**9)
    assert found.joules_per_token == pytest.approx(0.032 + 0.004)
    assert found.costs == {"joules_per_byte": 32e-12, "joules_per_operation": 2e-12}


def test_a_prediction_counts_the_keys_and_values_so_far(manifest: Manifest) -> None:
    cached = [entry for entry in manifest.state if entry.token_axis is not None]
    assert cached
    whole = manifest.context_length
    grown = predict(manifest, position=whole).bytes_per_token - predict(manifest, position=0).bytes_per_token
    assert grown == sum(entry.bytes for entry in cached)

"""Runs on this machine: real processes, a real artifact, and each way in which a runner can end."""

import os
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import page_cache
from benchmarks.devices import DeviceError, DeviceOptions, TooHotError, known_devices, open_device
from benchmarks.devices.host import HostDevice
from benchmarks.farms.collected import NOTHING_TO_CHECK
from benchmarks.record import Environment, RunRecord
from runtimes.artifact import Artifact, Measured
from tests.benchmarks.device_runs import run_on, warm_case
from tests.runtimes.tiny_onnx import write_artifact

Faulty = Callable[..., RunRecord]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Artifact.open(write_artifact(tmp_path_factory.mktemp("artifact")))


@pytest.fixture(scope="module")
def made(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """One run of every kind of case."""
    cases = [
        warm_case("cold-1", kind="cold", drop_page_cache=True, warm_ups=0, repeats=1),
        warm_case("warm"),
        # long enough that some of its samples fall between the tokens of a generation, on a crowded machine too
        warm_case("memory", sample_interval_ms=10, samples=["memory", "cpu"], duration_ms=2000),
        warm_case("sustained", kind="sustained", duration_ms=300, sample_interval_ms=50, samples=["cpu"]),
    ]
    record, warnings = run_on(HostDevice(), artifact, tmp_path_factory.mktemp("store") / "s.sqlite", cases)
    assert not warnings
    return record


@pytest.fixture
def faulty(artifact: Artifact, made: RunRecord, tmp_path: Path) -> Faulty:
    """Return a function from a Python runner's text to the record of its run; `out` is where it should write."""

    def run(script: str, **changes: float) -> RunRecord:
        place = tmp_path / "runner.py"
        given = tmp_path / "stream"
        given.write_bytes(next(case for case in made.cases if case.case_id == "warm").stream_bytes)
        head = f"import os, sys\nout = sys.argv[-1]\nstream = open({str(given)!r}, 'rb').read()\n"
        place.write_text(head + textwrap.dedent(script))
        record, _ = run_on(HostDevice([sys.executable, str(place)]), artifact, tmp_path / "s.sqlite", **changes)
        return record

    return run


def test_every_case_of_a_host_run_is_ok_and_right(made: RunRecord) -> None:
    assert [case.status for case in made.cases] == ["ok"] * 4, [case.reason for case in made.cases]
    assert all(case.parity is not None and case.parity.first_difference is None for case in made.cases)
    assert made.validity.valid, made.validity.violations
    assert made.series == "host"
    assert made.device.kind == "host"


def test_threads_and_cpus_are_those_that_the_runner_had(made: RunRecord) -> None:
    assert made.environment.threads == 1
    assert all(case.environment is not None and case.environment.threads == 1 for case in made.cases)
    assert made.environment.affinity == tuple(sorted(os.sched_getaffinity(0)))


def test_the_quality_that_the_exporter_measured_stands_in_the_record(artifact: Artifact, tmp_path: Path) -> None:
    figures = {"mean_kld": {"value": 0.01, "standard_error": 0.001}, "max_kld": {"value": 0.5}, "odd": {"value": None}}
    measured = Measured(parity=None, quality={"how": "eager", "figures": figures})
    known = replace(artifact, manifest=replace(artifact.manifest, measured=measured))
    made, _ = run_on(HostDevice(), known, tmp_path / "s.sqlite", [], oracle=NOTHING_TO_CHECK)
    assert made.artifact.quality == {"mean_kld": 0.01, "max_kld": 0.5}


def test_a_cold_load_is_measured_with_the_files_out_of_the_page_cache(made: RunRecord) -> None:
    cold = made.cases[0]
    assert cold.metrics["load_cold_ms"].value is not None, cold.metrics["load_cold_ms"].reason
    assert cold.metrics["load_warm_ms"].value is None


def test_a_warm_case_has_speeds_and_a_case_of_memory_has_steady_memory(made: RunRecord) -> None:
    _, warm, memory, sustained = made.cases
    for name in ("load_warm_ms", "ttft_ms", "prefill_tok_s", "decode_tok_s", "tpot_p90_ms", "peak_pss_bytes"):
        assert warm.metrics[name].value, name
    assert memory.metrics["steady_pss_bytes"].value
    assert sustained.metrics["sustained_tok_s"].reason, "300 ms are no sustained figure"


def test_warm_ups_are_not_among_the_generations(made: RunRecord) -> None:
    tokens = [line for line in made.cases[1].events if '"token"' in line and '"index"' in line]
    assert len(tokens) == 2 * 12


def test_what_is_unknown_has_a_reason(made: RunRecord) -> None:
    assert all(reason for reason in made.environment.unknown.values())
    assert made.environment.thermal_status is None
    assert "thermal_status" in made.environment.unknown


def test_pages_that_were_dropped_are_counted_as_gone(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(4 * 2**20))
    page_cache.warm([file])
    assert page_cache.resident_bytes(file) == file.stat().st_size
    page_cache.drop([file])
    if page_cache.resident_bytes(file) == file.stat().st_size:
        pytest.skip("this file system keeps its pages (tmpfs)")
    assert page_cache.resident_bytes(file) == 0


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ("sys.exit('no such operator')", "failed", "status 1: no such operator"),
        ("os.kill(os.getpid(), 9)", "killed", "signal 9"),
        ("os.kill(os.getpid(), 11)", "killed", "signal 11"),
        ("raise MemoryError", "oom", "no memory"),
        ("sys.exit('write: No space left on device')", "disk_full", "no room"),
        ("", "corrupt", "the stream is empty"),
        ("open(out, 'wb').write(stream[:-200])", "corrupt", "no result"),
        ("open(out, 'wb').write(stream.replace(b'warm', b'cold'))", "corrupt", "no result"),
        ("open(out, 'wb').write(os.urandom(5000))", "corrupt", "no result"),
        ("open(out, 'wb').write(b'{}' * 100 + bytes([10]))", "corrupt", "no result"),
        ("import time; time.sleep(60)", "timeout", "after 2 s"),
        ("while True: sys.stdout.write('x' * 65536)", "corrupt", "bytes of output"),
    ],
)
def test_each_end_of_a_runner_is_a_row(faulty: Faulty, script: str, status: str, reason: str) -> None:
    began = time.monotonic()
    row = faulty(script, timeout_s=2 if status == "timeout" else 60).cases[0]
    assert (row.status, reason in str(row.reason)) == (status, True), row.reason
    assert not row.metrics
    assert time.monotonic() - began < 120


def test_a_sealed_stream_counts_even_where_the_runner_fails_afterwards(faulty: Faulty) -> None:
    assert faulty("open(out, 'wb').write(stream); os.abort()").cases[0].status == "ok"


def test_another_backend_than_asked_for_makes_the_run_invalid(faulty: Faulty) -> None:
    script = """
        import hashlib
        lines = stream.replace(b'"effective":{"backend":"onnx"', b'"effective":{"backend":"cpu"').splitlines(True)[:-1]
        seal = hashlib.sha256(b''.join(lines)).hexdigest()
        end = '{"event":"end","lines":%d,"sha256":"%s"}' % (len(lines), seal)
        open(out, 'wb').write(b''.join(lines) + end.encode() + bytes([10]))
    """
    made = faulty(script)
    assert made.cases[0].status == "ok", made.cases[0].reason
    assert made.cases[0].effective_backend == "cpu"
    assert any("'cpu' ran" in violation for violation in made.validity.violations)


def test_an_error_in_the_stream_is_the_rows_reason(artifact: Artifact, tmp_path: Path) -> None:
    too_long = warm_case(new_tokens=300)
    made, _ = run_on(HostDevice(), artifact, tmp_path / "s.sqlite", [too_long], new_tokens=300)
    assert made.cases[0].status in ("failed", "corrupt")
    assert made.cases[0].reason


def test_an_altered_artifact_makes_rows_of_all_cases(artifact: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in artifact.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    damaged = bytearray(artifact.model_file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (copy / artifact.manifest.model_file).write_bytes(damaged)
    made, _ = run_on(HostDevice(), Artifact.open(copy), tmp_path / "s.sqlite", [warm_case(), warm_case("second")])
    assert [case.status for case in made.cases] == ["corrupt", "corrupt"]
    assert "sha256" in str(made.cases[0].reason)


class HotDevice(HostDevice):
    """This machine, with temperatures that are handed to it one by one."""

    def __init__(self, temperatures_c: list[float], status: str | None = None) -> None:
        super().__init__()
        self.left = temperatures_c
        self.status = status

    def environment(self) -> Environment:
        """The next temperature, the last one for ever."""
        now = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return Environment(temperature_c=now, thermal_status=self.status)


def test_a_device_that_stays_hot_is_too_hot(artifact: Artifact, tmp_path: Path) -> None:
    made, _ = run_on(HotDevice([45.0]), artifact, tmp_path / "s.sqlite", max_start_temperature_c=37, cool_down_s=0.3)
    assert made.cases[0].status == "too_hot"
    assert "45.0 C" in str(made.cases[0].reason)
    assert TooHotError.status == "too_hot"


def test_a_device_that_throttles_does_not_start(artifact: Artifact, tmp_path: Path) -> None:
    made, _ = run_on(HotDevice([20.0], "severe"), artifact, tmp_path / "s.sqlite", cool_down_s=0.3)
    assert made.cases[0].status == "too_hot"


def test_a_device_that_cools_down_is_waited_for(artifact: Artifact, tmp_path: Path) -> None:
    cooling = HotDevice([45.0, 45.0, 45.0, 36.0], "none")
    made, _ = run_on(cooling, artifact, tmp_path / "s.sqlite", max_start_temperature_c=37, cool_down_s=30)
    assert made.cases[0].status == "ok"
    assert made.cases[0].environment is not None
    assert made.cases[0].environment.temperature_c == 36.0
    assert made.cases[0].throttled is False


def test_devices_are_found_by_their_files() -> None:
    assert {"host", "android", "ios"} <= set(known_devices())
    with pytest.raises(DeviceError, match="known: .*host"):
        open_device("fridge", DeviceOptions())

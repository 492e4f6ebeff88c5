"""Records that no device made: shaped like a team's store after years of nights, for the tests of the report.

Every record says so (`tools.synthetic`), and the dashboard repeats it on top of the page. Figures are drawn with the
noise that phones have: a level a device and a format, a drift, a step where a runtime was updated, log-normal scatter.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from benchmarks.metrics import METRICS
from benchmarks.record import (
    Artifact,
    CaseRecord,
    CaseStatus,
    Device,
    DeviceKind,
    Energy,
    Environment,
    Git,
    Metric,
    Parity,
    PredictedEnergy,
    Protocol,
    RunRecord,
    Validity,
    device_id,
)
from benchmarks.stream_events import CaseKind, Series

END = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
PROTOCOL = Protocol(
    name="nightly", prompt_tokens=(512,), new_tokens=128, warm_ups=2, repeats=5, sustained_s=600, settle_s=30,
    sample_hz=1, timeout_s=1800,
)  # fmt: skip
CASES: tuple[tuple[str, CaseKind], ...] = (
    ("cold-512", "cold"),
    ("warm-512", "warm"),
    ("memory-512", "warm"),
    ("sustained-512", "sustained"),
)
# metric: level for a phone of speed 1 with int4, how it scales with speed, relative scatter
LEVELS = {
    "ttft_ms": (2400, -1, 0.06),
    "prefill_tok_s": (215, 1, 0.06),
    "tpot_ms": (58, -1, 0.04),
    "tpot_p50_ms": (57, -1, 0.04),
    "tpot_p90_ms": (64, -1, 0.06),
    "tpot_p99_ms": (85, -1, 0.15),
    "decode_tok_s": (17.2, 1, 0.04),
    "peak_pss_bytes": (760e6, 0, 0.02),
    "steady_pss_bytes": (655e6, 0, 0.02),
    "peak_vm_hwm_bytes": (905e6, 0, 0.02),
    "peak_temperature_c": (41, 0, 0.05),
}
PREDICTED = PredictedEnergy(
    joules_per_token=0.043, model="synthetic", bytes_per_token=475 * 10**6, operations_per_token=10**9, costs={}
)
UNKNOWN = Metric(value=None, reason="no sample of this kind")
MB = 1_000_000
FORMATS = {  # backend, scheme: relative speed, bytes, divergence from the float model
    ("onnx", "int4"): (1.0, 475 * MB, 0.061),
    ("onnx", "mixed"): (0.9, 571 * MB, 0.024),
    ("onnx", "int8"): (0.7, 822 * MB, 0.0012),
    ("executorch", "int4"): (1.08, 429 * MB, 0.064),
    ("executorch", "mixed"): (1.02, 525 * MB, 0.025),
    ("executorch", "int8"): (0.75, 810 * MB, None),
}
FAULTS: tuple[tuple[CaseStatus, str], ...] = (
    ("too_hot", "44.1 °C and not falling after 900 s of cooling; the gate is 37 °C"),
    ("lost_device", "adb: the device went offline during sustained-512, 212 s after its start"),
    ("oom", "lowmemorykiller ended the runner at 1,422 MB"),
    ("timeout", "no end line within 1800 s"),
    ("corrupt", "the end line speaks of 1,204 lines, 988 are here; the stream was cut on its way"),
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A pretended device and the speed it has."""

    name: str
    kind: DeviceKind
    series: Series
    soc: str
    speed: float


MACHINES = (
    Machine(name="Pixel 8", kind="physical", series="adb-shell", soc="Tensor G3", speed=1.0),
    Machine(name="Pixel 8", kind="physical", series="app", soc="Tensor G3", speed=0.93),
    Machine(name="Galaxy S24", kind="physical", series="adb-shell", soc="Snapdragon 8 Gen 3", speed=1.6),
    Machine(name="iPhone 15 Pro", kind="physical", series="app", soc="A17 Pro", speed=1.7),
    Machine(name="Moto G Power 5G (2024)", kind="physical", series="adb-shell", soc="Dimensity 7020", speed=0.42),
    Machine(name="build machine", kind="host", series="host", soc="Xeon", speed=1.3),
    Machine(name="virtual phone", kind="vm", series="adb-shell", soc="qemu cortex-a76", speed=0.01),
    Machine(name="Android emulator", kind="emulator", series="app", soc="ranchu", speed=0.2),
)


def records(count: int, *, seed: int = 7, machines: tuple[Machine, ...] = MACHINES) -> Iterator[RunRecord]:
    """So many records, oldest first, each night every machine with every format."""
    chance = random.Random(seed)
    night_runs = [(machine, pair) for machine in machines for pair in FORMATS]
    nights = -(-count // len(night_runs))
    for index in range(count):
        night, place = divmod(index, len(night_runs))
        started = END - timedelta(days=nights - 1 - night, seconds=-420 * place)
        machine, pair = night_runs[place]
        newest = index >= count - len(night_runs)
        yield record(machine, pair, started, chance, night=night, traced=newest)


def repeated(count: int, *, distinct: int = 1000) -> Iterator[RunRecord]:
    """So many records, of which that many differ in more than their name and time: they are made faster."""
    made = list(records(distinct))
    span = made[-1].started_at - made[0].started_at + timedelta(days=1)
    for index in range(count):
        like, round_before_last = made[index % distinct], (count - 1 - index) // distinct
        started = like.started_at - round_before_last * span
        yield like.model_copy(update={"started_at": started, "run_id": f"{like.run_id}-{index}"})


def record(
    machine: Machine, pair: tuple[str, str], started: datetime, chance: random.Random, *, night: int, traced: bool
) -> RunRecord:
    """One run of one format on one machine."""
    speed, size, kld = FORMATS[pair]
    backend, scheme = pair
    drift = 1 + 0.0002 * night + (0.06 if night > 60 and backend == "onnx" else 0)
    violations = ("battery saver was on",) if chance.random() < 0.03 else ()
    if chance.random() < 0.02:
        violations += ("the screen went dark during warm-512",)
    cases = tuple(
        _case(machine, kind_of_case, speed * machine.speed * drift, chance, backend=backend, traced=traced)
        for kind_of_case in CASES
    )
    return RunRecord(
        run_id=f"{started:%Y%m%dt%H%M%Sz}-{chance.getrandbits(32):08x}",
        session_id=f"{started:%Y%m%d}-{device_id(machine.name)[:6]}",
        started_at=started,
        git=Git(commit=hashlib.sha1(str(night).encode()).hexdigest(), dirty=False),
        tools={"synthetic": "tests/benchmarks/report/synthetic.py"},
        artifact=Artifact(
            sha256=hashlib.sha256(f"{pair}{night // 7}".encode()).hexdigest(),
            model="qwen3.5-0.8b", backend=backend, scheme=scheme, context_length=4096, weights="trained",
            runtime="onnxruntime 1.31.1" if backend == "onnx" else "executorch 1.5.1",
            size_bytes=size, bytes_read_per_token=size, quality={} if kld is None else {"mean_kld": kld},
        ),
        device=Device(id=device_id(machine.name), kind=machine.kind, model=machine.name, soc=machine.soc),
        series=machine.series,
        protocol=PROTOCOL,
        environment=Environment(plugged=True, battery_percent=91, temperature_c=29.5),
        cases=cases,
        validity=Validity(violations=violations, valid=not violations),
    )  # fmt: skip


def _case(
    machine: Machine, case: tuple[str, CaseKind], speed: float, chance: random.Random, *, backend: str, traced: bool
) -> CaseRecord:
    name, kind = case
    requested, effective = backend, backend
    if machine.name == "Galaxy S24" and backend == "executorch" and chance.random() < 0.3:
        effective = "executorch portable"
    if chance.random() < 0.012:
        status, reason = chance.choice(FAULTS)
        return CaseRecord(
            case_id=name, kind=kind, status=status, reason=reason, requested_backend=requested, energy_reason=reason
        )
    measured = machine.name == "Galaxy S24"
    joules = 0.21 / speed * chance.lognormvariate(0, 0.08)
    return CaseRecord(
        case_id=name,
        kind=kind,
        status="ok",
        events=stream_lines(machine, speed, chance) if traced and kind == "sustained" else ('{"event":"none"}',),
        metrics=_metrics(kind, speed, chance, sampled=name.startswith("memory")),
        parity=Parity(oracle="eager", compared_tokens=128, first_difference=None),
        energy=_energy(joules) if measured else None,
        energy_reason=None if measured else "the phone was charging: its counter shows what goes in",
        predicted_energy=PREDICTED,
        requested_backend=requested,
        effective_backend=effective,
    )


def _metrics(kind: CaseKind, speed: float, chance: random.Random, *, sampled: bool) -> dict[str, Metric]:
    luck = chance.lognormvariate(0, 0.5) * 0.4  # the scatter of one night is shared by its figures
    found: dict[str, Metric] = {}  # values not validated one by one: there are a million of them
    for name in METRICS:
        if name in LEVELS and (sampled or "_pss_" not in name):
            level, power, scatter = LEVELS[name]
            slower = 0.78 if kind == "sustained" and power > 0 else 1.0
            value = level * speed**power * slower * (1 + scatter * (chance.gauss() - power * luck))
            found[name] = Metric.model_construct(value=max(value, 1e-3))
        elif name == f"load_{kind}_ms":
            found[name] = Metric.model_construct(
                value=(2100 if kind == "cold" else 380) * chance.lognormvariate(0, 0.07)
            )
        elif name.startswith("sustained") and kind == "sustained":
            found[name] = Metric.model_construct(value=0.78 * 17.2 * speed * (1 + 0.03 * chance.gauss()))
        else:
            found[name] = UNKNOWN
    return found


def _energy(joules_per_token: float) -> Energy:
    return Energy(
        source="battery counters", joules=joules_per_token * 640, joules_per_token=joules_per_token, baseline_w=0.41,
        uncertainty_j=3.2, samples=212, median_interval_s=1.0, unit_factor=1e-6, sign=-1, plugged=False,
    )  # fmt: skip


def stream_lines(machine: Machine, speed: float, chance: random.Random) -> tuple[str, ...]:
    """Ten minutes of samples and tokens of a phone that warms up and slows down; no whole stream."""
    lines: list[dict[str, object]] = []
    rise_c, limit_c = chance.uniform(9, 14), 41
    for second in range(0, 600, 5):
        heat = 31 + rise_c * (1 - 2.7 ** (-second / 180)) + chance.gauss(0, 0.15)
        at_ns = second * 1_000_000_000
        values = {"battery_temp_millicelsius": int(1000 * (heat - 3)), "zone0_temp_millicelsius": int(1000 * heat)}
        lines.append({"event": "sample", "kind": "thermal", "source": "sysfs", "values": values, "at_ns": at_ns})
        rate = 17.2 * speed * (1.0 if heat < limit_c else 0.78) * (1 + 0.02 * chance.gauss())
        for step in range(8):
            at = at_ns + int((step + 1) * 1e9 / rate)
            lines.append({"event": "token", "index": step, "token": 11, "at_ns": at})
    return tuple(json.dumps(line) for line in lines)

"""Records for tests, made through the real stream and the real metrics."""

from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.metrics import case_metrics, token_ids
from benchmarks.record import (
    Artifact,
    CaseRecord,
    Device,
    Environment,
    Git,
    Parity,
    Protocol,
    RunRecord,
    Validity,
    device_id,
    token_ids_sha256,
)
from benchmarks.stream import parse_stream
from tests.benchmarks.streams import case, generation, load, memory, sealed

BEGAN = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)
ARTIFACT = Artifact(
    sha256="a" * 64,
    model="tiny",
    backend="onnx",
    runtime="onnxruntime 1.31.1",
    scheme="int4",
    context_length=512,
    weights="trained",
    size_bytes=1_000_000,
)
PROTOCOL = Protocol(
    prompt_tokens=(8,), new_tokens=3, warm_ups=1, repeats=1, sustained_s=0, settle_s=1, sample_hz=1, timeout_s=60
)
DEVICE = Device(id=device_id("ABC123"), kind="physical", model="Pixel 9", soc="Tensor G4", os="Android 16", build="B1")


def warm_case(name: str = "warm-p8", *, step_ms: float = 20, **fields: Any) -> CaseRecord:
    """A case of one generation, a token every so many milliseconds."""
    tokens = [200, 200 + step_ms, 200 + 2 * step_ms]
    lines = case("warm", *load(10, 60), *generation(100, [(110, 190, 8)], tokens), memory(500, Pss_kb=5000), name=name)
    data = sealed(lines)
    found = parse_stream(data).timeline.cases[0]
    made: dict[str, Any] = {
        "case_id": name,
        "kind": "warm",
        "status": "ok",
        "events": tuple(data.decode().split("\n")[:-1]),
        "metrics": case_metrics(found),
        "token_ids_sha256": token_ids_sha256(token_ids(found)),
        "parity": Parity(oracle="host", compared_tokens=3, first_difference=None),
        "energy_reason": "no source of energy was asked for",
        "requested_backend": "cpu",
        "effective_backend": "cpu",
    }
    return CaseRecord(**{**made, **fields})


def run_record(number: int = 0, *cases: CaseRecord, **fields: Any) -> RunRecord:
    """A run of its own session, an hour after the one before it."""
    made: dict[str, Any] = {
        "run_id": f"run-{number:04}",
        "session_id": f"session-{number:04}",
        "started_at": BEGAN + timedelta(hours=number),
        "finished_at": BEGAN + timedelta(hours=number, minutes=5),
        "git": Git(commit="c" * 40, dirty=False),
        "tools": {"adb": "36.0.0"},
        "artifact": ARTIFACT,
        "device": DEVICE,
        "series": "adb-shell",
        "protocol": PROTOCOL,
        "environment": Environment(plugged=False, battery_percent=80, temperature_c=31.5, threads=4),
        "cases": cases or (warm_case(),),
        "validity": Validity(valid=True),
    }
    return RunRecord(**{**made, **fields})

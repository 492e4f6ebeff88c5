"""Records as others read them: PyTorch's OSS benchmark rows (v3) and CSV.

A v3 row has the columns of the table `oss_ci_benchmark_v3` (pytorch/test-infra, clickhouse_db_schema): one row a
metric, extra facts as text. The table knows no null and no validity, so only what was measured in a valid run on a real
device goes there, each figure from the pass that was made for it. CSV has everything, with status and reason beside
each value.
"""

import csv
from collections.abc import Iterable, Iterator
from typing import IO, Any

from benchmarks.passes import quotable
from benchmarks.record import CaseRecord, Metric, RunRecord

__all__ = ["CSV_COLUMNS", "oss_v3_rows", "write_csv"]

NAME = "qwen-edge device lab"
REAL_KINDS = ("host", "physical")
GIGABYTE = 2**30
CSV_COLUMNS = (
    "run_id",
    "session_id",
    "started_at",
    "device_id",
    "device_model",
    "device_kind",
    "series",
    "model",
    "backend",
    "scheme",
    "artifact_sha256",
    "git_commit",
    "valid",
    "violations",
    "case_id",
    "kind",
    "status",
    "case_reason",
    "effective_backend",
    "metric",
    "value",
    "reason",
)
# what a spreadsheet would take for a formula
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def oss_v3_rows(record: RunRecord, *, repo: str = "", branch: str = "") -> Iterator[dict[str, Any]]:
    """A row for every metric with a value; none of a run that isn't valid or of a device that isn't real."""
    if not record.validity.valid or record.device.kind not in REAL_KINDS:
        return
    shared = _shared(record, repo, branch)
    for case in record.cases:
        if case.status != "ok":
            continue
        for name, metric in _with_energy(case, quotable(case)).items():
            if metric.value is not None:
                extra = {"case": case.case_id, "kind": case.kind}
                value = {"name": name, "benchmark_values": [metric.value], "target_value": 0.0, "extra_info": extra}
                yield {**shared, "metric": value}


def write_csv(records: Iterable[RunRecord], file: IO[str]) -> int:
    """Write a header and a line for every metric of every case, and one for a case without any; gives their number."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    lines = 0
    for record in records:
        for case in record.cases:
            metrics = _with_energy(case, case.metrics) or {"": Metric(value=None, reason=case.reason)}
            for name, metric in metrics.items():
                writer.writerow([_cell(value) for value in _csv_line(record, case, name, metric)])
                lines += 1
    return lines


def _shared(record: RunRecord, repo: str, branch: str) -> dict[str, Any]:
    artifact, device = record.artifact, record.device
    return {
        "timestamp": int(record.started_at.timestamp()),
        "schema_version": "v3",
        "name": NAME,
        "repo": repo,
        "head_branch": branch,
        "head_sha": "" if record.git is None else record.git.commit,
        "workflow_id": 0,
        "run_attempt": 1,
        "job_id": 0,
        "runners": [_runner(record)],
        "benchmark": {
            "name": NAME,
            "mode": "inference",
            "dtype": artifact.scheme,
            "extra_info": _texts(
                {
                    "run_id": record.run_id,
                    "session_id": record.session_id,
                    "series": record.series,
                    "protocol": record.protocol.model_dump_json(),
                    "environment": record.environment.model_dump_json(exclude_none=True),
                }
            ),
        },
        "model": {
            "name": artifact.model,
            "type": "language model",
            "backend": artifact.backend,
            "origins": [],
            "extra_info": _texts(
                {
                    "artifact_sha256": artifact.sha256,
                    "context_length": artifact.context_length,
                    "weights": artifact.weights,
                    "method": artifact.method,
                    "device_build": device.build,
                }
            ),
        },
        "inputs": {
            "prompt": {
                "dtype": "int64",
                "extra_info": _texts({"tokens": ",".join(map(str, record.protocol.prompt_tokens))}),
            }
        },
        "dependencies": {
            name: {"repo": "", "branch": "", "sha": "", "version": version, "extra_info": {}}
            for name, version in {**record.tools, "runtime": artifact.runtime or ""}.items()
        },
    }


def _runner(record: RunRecord) -> dict[str, Any]:
    device = record.device
    return {
        "name": device.id,
        "type": device.model or device.kind,
        "cpu_info": device.soc or "",
        "cpu_count": 0,
        "mem_info": "",
        "avail_mem_in_gb": (device.ram_bytes or 0) // GIGABYTE,
        "gpu_info": "",
        "gpu_count": 0,
        "gpu_mem_info": "",
        "avail_gpu_mem_in_gb": 0,
        "extra_info": _texts({"kind": device.kind, "os": device.os, "build": device.build}),
    }


def _texts(values: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _with_energy(case: CaseRecord, metrics: dict[str, Metric]) -> dict[str, Metric]:
    """Metrics of the case, with its measured energy as one of them."""
    per_token = None if case.energy is None else case.energy.joules_per_token
    return metrics if per_token is None else {**metrics, "joules_per_token": Metric(value=per_token)}


def _csv_line(record: RunRecord, case: CaseRecord, name: str, metric: Metric) -> list[object]:
    return [
        record.run_id,
        record.session_id,
        record.started_at.isoformat(),
        record.device.id,
        record.device.model,
        record.device.kind,
        record.series,
        record.artifact.model,
        record.artifact.backend,
        record.artifact.scheme,
        record.artifact.sha256,
        None if record.git is None else record.git.commit,
        record.validity.valid,
        "; ".join(record.validity.violations),
        case.case_id,
        case.kind,
        case.status,
        case.reason,
        case.effective_backend,
        name,
        metric.value,
        metric.reason,
    ]


def _cell(value: object) -> object:
    """A cell that a spreadsheet shows instead of computing it."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value

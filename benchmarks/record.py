"""What one run leaves behind: the record, read and written as JSON, validated like anything else from outside.

A record holds the raw streams of all its cases; its metrics are a convenience, computed from them and computable again.
What was not measured is null with a reason, never zero and never absent. `record.schema.json` is this module's schema.

A run is one `RunRecord`. A session is one reservation of one device: runs that share a `session_id` are one observation
when runs are compared.
"""

import hashlib
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from benchmarks.errors import RecordError, RecordVersionError
from benchmarks.stream import MAX_LINES, MAX_STREAM_BYTES
from benchmarks.stream_events import CaseKind, Series
from benchmarks.text import Label, Name, Sha256, Text

__all__ = [
    "SCHEMA_FILE",
    "SCHEMA_VERSION",
    "Artifact",
    "CaseRecord",
    "CaseStatus",
    "Device",
    "DeviceKind",
    "Energy",
    "Environment",
    "Git",
    "Metric",
    "Parity",
    "PredictedEnergy",
    "Protocol",
    "RunRecord",
    "Validity",
    "device_id",
    "new_run_id",
    "read_record",
    "schema",
    "token_ids_sha256",
]

SCHEMA_VERSION: Final = 1
MAX_RECORD_BYTES = 512 * 1024 * 1024
SCHEMA_FILE = Path(__file__).parent / "record.schema.json"

CaseStatus = Literal[
    "ok", "not_run", "failed", "lost_device", "oom", "disk_full", "too_hot", "timeout", "killed", "corrupt"
]
DeviceKind = Literal["host", "physical", "vm", "emulator"]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Notes = Annotated[tuple[Text, ...], Field(max_length=256)]
EventLine = Annotated[str, StringConstraints(pattern=r"^[^\n]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Git(_Part):
    """The commit of this project that the run was started from."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    dirty: bool


class Artifact(_Part):
    """What was run, as its manifest says; `sha256` is the artifact's own hash."""

    sha256: Sha256
    model: Label
    backend: Label
    runtime: Label | None = None
    scheme: Label
    method: Label | None = None
    context_length: Annotated[int, Field(ge=1)]
    weights: Literal["trained", "random"]
    size_bytes: Count | None = None
    bytes_read_per_token: Count | None = None
    quality: dict[Name, Finite] = {}


class Device(_Part):
    """One physical (or pretended) device; `id` is `device_id` of its serial number, which keeps it private."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    kind: DeviceKind
    model: Label | None = None
    soc: Label | None = None
    ram_bytes: Count | None = None
    os: Label | None = None
    build: Label | None = None


class Protocol(_Part):
    """What every case was asked to do; runs of different protocols are never compared."""

    name: Name = "default"
    prompt_tokens: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=64)]
    new_tokens: Annotated[int, Field(ge=1)]
    warm_ups: Count
    repeats: Annotated[int, Field(ge=1)]
    sustained_s: Annotated[float, Field(ge=0)]
    settle_s: Annotated[float, Field(ge=0)]
    cool_down_s: Annotated[float, Field(ge=0)] = 0
    max_start_temperature_c: Finite | None = None
    sample_hz: Annotated[float, Field(ge=0)]
    timeout_s: Positive
    details: Annotated[dict[Name, Label | Finite], Field(max_length=64)] = {}


class Environment(_Part):
    """The device's state right before what it is attached to; null is unknown, with the reason in `unknown`."""

    plugged: bool | None = None
    battery_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    temperature_c: Finite | None = None
    thermal_status: Label | None = None
    low_power: bool | None = None
    screen: Label | None = None
    cpuset: Label | None = None
    governor: Label | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    affinity: tuple[Count, ...] | None = None
    unknown: Annotated[dict[Name, Text], Field(max_length=64)] = {}


class Metric(_Part):
    """A figure, or null with the reason; the unit is in the metric's name."""

    value: Finite | None
    reason: Text | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.value is None) != bool(self.reason):
            raise ValueError("a metric has a value, or null and a reason")
        return self


class Parity(_Part):
    """Chosen tokens against those of the oracle on the same prompts, in the same run."""

    oracle: Label
    compared_tokens: Count
    first_difference: Count | None
    reason: Text | None = None


class Energy(_Part):
    """Energy above the idle baseline, integrated from a stated source; `uncertainty_j` is one standard deviation."""

    source: Label
    joules: Finite
    joules_per_token: Finite | None
    baseline_w: Finite
    uncertainty_j: Annotated[float, Field(ge=0)]
    samples: Count
    median_interval_s: Positive | None
    unit_factor: Finite
    sign: Literal[-1, 1]
    plugged: bool | None
    notes: Notes = ()


class PredictedEnergy(_Part):
    """Not measured: what a decoded token moves and computes, times stated costs. Operations are multiply-adds."""

    joules_per_token: Annotated[float, Field(ge=0)]
    model: Label
    bytes_per_token: Count
    operations_per_token: Count
    costs: dict[Name, Finite]


class CaseRecord(_Part):
    """One case: its stream as it came, and what was made of it."""

    case_id: Name
    kind: CaseKind
    status: CaseStatus
    reason: Text | None = None
    events: Annotated[tuple[EventLine, ...], Field(max_length=MAX_LINES)] = ()
    metrics: Annotated[dict[Name, Metric], Field(max_length=256)] = {}
    token_ids_sha256: Sha256 | None = None
    parity: Parity | None = None
    parity_reason: Text | None = None
    energy: Energy | None = None
    energy_reason: Text | None = None
    predicted_energy: PredictedEnergy | None = None
    requested_backend: Label | None = None
    effective_backend: Label | None = None
    environment: Environment | None = None
    throttled: bool | None = None
    attachments: Annotated[dict[Name, Sha256], Field(max_length=64)] = {}

    @field_validator("events")
    @classmethod
    def _not_endless(cls, events: tuple[str, ...]) -> tuple[str, ...]:
        if sum(len(line.encode()) + 1 for line in events) > MAX_STREAM_BYTES:
            raise ValueError(f"events of more than {MAX_STREAM_BYTES} bytes are no stream")
        return events

    @model_validator(mode="after")
    def _reason_for_what_is_missing(self) -> Self:
        if (self.status == "ok") == bool(self.reason):
            raise ValueError(f"case {self.case_id!r}: a status other than 'ok', and only such a one, has a reason")
        if self.status == "ok" and not self.events:
            raise ValueError(f"case {self.case_id!r}: 'ok' without the events it was made of")
        if self.status == "ok" and self.energy is None and not self.energy_reason:
            raise ValueError(f"case {self.case_id!r}: neither energy nor the reason why there is none")
        if self.status == "ok" and self.parity is None and not self.parity_reason:
            raise ValueError(f"case {self.case_id!r}: neither parity nor the reason why there is none")
        return self

    @property
    def stream_bytes(self) -> bytes:
        """The stream as the runner wrote it."""
        return "".join(f"{line}\n" for line in self.events).encode()


class Validity(_Part):
    """Whether the run's figures may be reported and compared, and what forbids it."""

    violations: Notes = ()
    valid: bool

    @model_validator(mode="after")
    def _valid_without_violations(self) -> Self:
        if self.valid == bool(self.violations):
            raise ValueError("valid is exactly: no violations")
        return self


class RunRecord(_Part):
    """One run of one artifact on one device."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: Name
    session_id: Name
    started_at: AwareDatetime
    finished_at: AwareDatetime | None = None
    git: Git | None
    tools: Annotated[dict[Name, Label], Field(max_length=64)]
    artifact: Artifact
    device: Device
    farm: Label | None = None
    series: Series
    protocol: Protocol
    environment: Environment
    cases: Annotated[tuple[CaseRecord, ...], Field(max_length=1024)]
    validity: Validity

    @model_validator(mode="after")
    def _case_ids_differ(self) -> Self:
        names = [case.case_id for case in self.cases]
        if len(set(names)) != len(names):
            raise ValueError("two cases have the same case_id")
        return self


def read_record(data: bytes | str, *, source: str = "record") -> RunRecord:
    """Parse a record from outside, or raise the `RecordError` that says what is wrong with it."""
    if len(data) > MAX_RECORD_BYTES:
        raise RecordError(f"{source}: {len(data)} bytes; a record has at most {MAX_RECORD_BYTES}")
    try:
        return RunRecord.model_validate_json(data)
    except ValidationError as error:
        found = _version(data)
        if found is not None and found > SCHEMA_VERSION:
            raise RecordVersionError(
                f"{source}: schema_version {found} is newer than {SCHEMA_VERSION}, all this program knows; update it"
            ) from None
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise RecordError(
            f"{source}: {ascii(place)[:200]}: {ascii(first['msg'])[:300]}; "
            f"it is not a record of schema {SCHEMA_VERSION}"
        ) from None


def _version(data: bytes | str) -> int | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    version = found.get("schema_version") if isinstance(found, dict) else None
    return version if isinstance(version, int) else None


def schema() -> dict[str, Any]:
    """The JSON Schema of a record, as `record.schema.json` holds it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunRecord.model_json_schema()}


def new_run_id() -> str:
    """A name for a run that sorts by time and is never given twice."""
    return f"{datetime.now(UTC):%Y%m%dt%H%M%Sz}-{secrets.token_hex(4)}"


def device_id(serial: str) -> str:
    """A device's name in records: the same for the same serial number, which it does not tell."""
    return hashlib.sha256(f"qwen-edge device {serial}".encode()).hexdigest()[:16]


def token_ids_sha256(generations: list[list[int]]) -> str:
    """One hash over the token ids of all generations of a case, in order."""
    return hashlib.sha256(json.dumps(generations, separators=(",", ":")).encode()).hexdigest()

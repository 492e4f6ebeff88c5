"""Records as columns: what the dashboard is drawn from.

One pass over the records, so that a store of any size is read once and no record is held. A group is what may share a
curve: one device, one series, one model in one format, one protocol. Only records of real machines (`host`, `physical`)
make groups; those of virtual machines and emulators are counted for correctness alone. A figure is taken from the pass
that was made for it and from no other (`benchmarks.passes`); what is predicted has a list of its own.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from benchmarks.passes import is_timed, quotable
from benchmarks.record import CaseRecord, Metric, PredictedEnergy, Protocol, RunRecord
from benchmarks.report.labels import ORDER, label_of
from benchmarks.report.traces import pace, read_events, temperature
from benchmarks.roofline import bandwidth_share

__all__ = ["Group", "Trouble", "collect"]

K = TypeVar("K")
V = TypeVar("V")
REAL_KINDS = ("host", "physical")
DIGITS = 5
# what a page shows at most of each; the counts beside them are of all
MOST_FAILURES = 2000
MOST_TEXT = 400


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that may stand on one curve."""

    device: str
    series: str
    model: str
    backend: str
    scheme: str
    weights: str
    protocol: str


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One case that did not run to its end."""

    time: int
    device: str
    device_kind: str
    artifact: str
    case: str
    status: str
    reason: str
    run: str


@dataclass(kw_only=True)
class _Case:
    """All runs of one case: their places among the runs, and one column a metric."""

    run: list[int] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Columns:
    bandwidths: Mapping[str, float] = field(default_factory=dict)
    groups: dict[Group, int] = field(default_factory=dict)
    runs: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    cases: dict[str, _Case] = field(default_factory=lambda: defaultdict(_Case))
    reasons: dict[tuple[int, str, str], tuple[int, str | None]] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    backends: dict[tuple[str, str, str, str], tuple[int, int]] = field(default_factory=dict)
    violations: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    virtual: dict[tuple[str, str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    latest: dict[tuple[int, str], tuple[int, CaseRecord]] = field(default_factory=dict)
    predicted: dict[tuple[int, str], tuple[int, PredictedEnergy]] = field(default_factory=dict)
    synthetic: bool = False


def collect(records: Iterable[RunRecord], bandwidths: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Everything that the page shows, ready for JSON.

    `bandwidths` says how many bytes a second devices of a model can read, for their share of the roofline.
    """
    columns = _Columns(bandwidths=bandwidths or {})
    for record in records:
        _add(columns, record)
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "synthetic": columns.synthetic,
        "groups": [asdict(group) for group in columns.groups],
        "runs": columns.runs,
        "cases": {name: {"run": case.run, "values": case.values} for name, case in sorted(columns.cases.items())},
        "metrics": _described({name for case in columns.cases.values() for name in case.values}),
        "reasons": [
            {"group": group, "case": case, "metric": metric, "reason": _cut(reason)}
            for (group, case, metric), (_, reason) in columns.reasons.items()
            if reason is not None
        ],
        "predicted": [
            {"group": group, "case": case, **made.model_dump(mode="json")}
            for (group, case), (_, made) in columns.predicted.items()
        ],
        "failures": [asdict(trouble) for trouble in _newest(columns.troubles)],
        "statuses": dict(columns.statuses),
        "backends": _counted(columns.backends, ("device", "artifact", "requested", "effective")),
        "violations": _counted(columns.violations, ("device", "violation")),
        "virtual": [
            {"device": device, "artifact": artifact, "kind": kind, **counts}
            for (device, artifact, kind), counts in columns.virtual.items()
        ],
        "traces": [trace for key, (_, case) in columns.latest.items() if (trace := _trace(key, case)) is not None],
    }


def _add(columns: _Columns, record: RunRecord) -> None:
    columns.synthetic |= "synthetic" in record.tools
    columns.statuses.update(case.status for case in record.cases)
    columns.troubles.extend(_troubles(record))
    if record.device.kind in REAL_KINDS:
        _add_run(columns, record)
    else:
        _add_virtual(columns, record)


def _add_run(columns: _Columns, record: RunRecord) -> None:
    started, device, artifact = _time(record), _device(record), _artifact(record)
    group = columns.groups.setdefault(_group(record), len(columns.groups))
    run = len(columns.runs["id"])
    values = {
        "id": record.run_id,
        "time": started,
        "group": group,
        "valid": int(record.validity.valid),
        "commit": "" if record.git is None else record.git.commit[:10] + ("+" if record.git.dirty else ""),
        "runtime": record.artifact.runtime or "",
        "size": record.artifact.size_bytes,
        "quality": _quality(record),
    }
    for name, value in values.items():
        columns.runs[name].append(value)
    for violation in record.validity.violations:
        _count(columns.violations, (device, _cut(violation)), started)
    for case in record.cases:
        if case.effective_backend is not None or (case.status == "ok" and case.requested_backend is not None):
            key = (device, artifact, case.requested_backend or "not said", case.effective_backend or "not said")
            _count(columns.backends, key, started)
        if case.status == "ok":
            _add_case(columns, record, run, group, case)


def _add_case(columns: _Columns, record: RunRecord, run: int, group: int, case: CaseRecord) -> None:
    started = _time(record)
    column = columns.cases[case.case_id]
    column.run.append(run)
    for name, metric in {**quotable(case), **_derived(record, case, columns.bandwidths)}.items():
        _keep_newest(columns.reasons, (group, case.case_id, name), started, metric.reason)
        if metric.value is not None:
            values = column.values.setdefault(name, [])
            values.extend([None] * (len(column.run) - 1 - len(values)))
            values.append(float(f"{metric.value * label_of(name).scale:.{DIGITS}g}"))
    key = (group, case.case_id)
    _keep_newest(columns.latest, key, started, case)
    if case.predicted_energy is not None and is_timed(case):
        _keep_newest(columns.predicted, key, started, case.predicted_energy)


def _derived(record: RunRecord, case: CaseRecord, bandwidths: Mapping[str, float]) -> dict[str, Metric]:
    """What follows from a timed case's figures together with its energy, its artifact and its device."""
    if not is_timed(case):
        return {}
    rate, size = case.metrics.get("decode_tok_s"), record.artifact.bytes_read_per_token
    read = None if rate is None or rate.value is None or size is None else rate.value * size
    limit = bandwidths.get(record.device.model or "")
    per_token = None if case.energy is None else case.energy.joules_per_token
    unlimited = f"the read bandwidth of {record.device.model!r} is not known; give it with --bandwidth"
    return {
        "joules_per_token": _metric(per_token, case.energy_reason or "no token to divide by"),
        "decode_read_bytes_per_s": _metric(read, "speed, or the bytes that a token reads, is not known"),
        "bandwidth_share": _metric(
            None if read is None or limit is None else bandwidth_share(read, 1, limit), unlimited
        ),
    }


def _metric(value: float | None, otherwise: str) -> Metric:
    return Metric(value=None, reason=otherwise) if value is None else Metric(value=value)


def _keep_newest(kept: dict[K, tuple[int, V]], key: K, time: int, value: V) -> None:
    if key not in kept or kept[key][0] <= time:
        kept[key] = (time, value)


def _add_virtual(columns: _Columns, record: RunRecord) -> None:
    counts = columns.virtual[_device(record), _artifact(record), record.device.kind]
    for case in record.cases:
        counts["ok" if case.status == "ok" else "other"] += 1
        if case.parity is None:
            counts["unknown"] += 1
        else:
            counts["same" if case.parity.first_difference is None else "differ"] += 1


def _troubles(record: RunRecord) -> list[Trouble]:
    return [
        Trouble(
            time=_time(record),
            device=_device(record),
            device_kind=record.device.kind,
            artifact=_artifact(record),
            case=case.case_id,
            status=case.status,
            reason=_cut(case.reason or ""),
            run=record.run_id,
        )
        for case in record.cases
        if case.status != "ok"
    ]


def _trace(key: tuple[int, str], case: CaseRecord) -> dict[str, Any] | None:
    """The curves of a group's newest run of one case, where there is anything to see."""
    events = read_events(case.events)
    warmth = temperature(events)
    if len(warmth) < 2:
        return None
    return {"group": key[0], "case": key[1], "temperature": warmth, "pace": pace(events)}


def _group(record: RunRecord) -> Group:
    artifact = record.artifact
    return Group(
        device=_device(record),
        series=record.series,
        model=artifact.model,
        backend=artifact.backend,
        scheme=artifact.scheme,
        weights=artifact.weights,
        protocol=_protocol(record.protocol, artifact.context_length),
    )


def _protocol(protocol: Protocol, context_length: int) -> str:
    """A protocol's name, with a mark that differs where anything in it does."""
    mark = hashlib.sha256(f"{context_length} {protocol.model_dump_json(exclude={'name'})}".encode()).hexdigest()[:4]
    return f"{protocol.name}-{mark}"


def _device(record: RunRecord) -> str:
    """A device by its model's name and the start of its id: two phones of one model stay apart."""
    return f"{record.device.model or record.device.kind} #{record.device.id[:4]}"


def _artifact(record: RunRecord) -> str:
    return f"{record.artifact.model} {record.artifact.backend} {record.artifact.scheme}"


def _quality(record: RunRecord) -> float | None:
    """The mean divergence from the float model, where the artifact's manifest has it."""
    return record.artifact.quality.get("mean_kld")


def _time(record: RunRecord) -> int:
    return int(record.started_at.timestamp())


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def _newest(troubles: list[Trouble]) -> list[Trouble]:
    return sorted(troubles, key=lambda trouble: trouble.time, reverse=True)[:MOST_FAILURES]


def _count(counts: dict[Any, tuple[int, int]], key: tuple[str, ...], time: int) -> None:
    number, last = counts.get(key, (0, 0))
    counts[key] = (number + 1, max(last, time))


def _counted(counts: dict[Any, tuple[int, int]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = sorted(counts.items(), key=lambda item: item[1][1], reverse=True)
    return [{**dict(zip(names, key, strict=True)), "count": number, "last": last} for key, (number, last) in rows]


def _described(names: set[str]) -> list[dict[str, str]]:
    """Known metrics first, in their order; then the rest by name."""
    order = {name: place for place, name in enumerate(ORDER)}
    described = [(name, label_of(name)) for name in sorted(names, key=lambda name: (order.get(name, len(order)), name))]
    return [{"name": name, "text": label.text, "unit": label.unit, "better": label.better} for name, label in described]

"""Records are read as untrusted, and say why anything is missing."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks import record as record_module
from benchmarks.errors import RecordError, RecordVersionError
from benchmarks.record import SCHEMA_FILE, CaseRecord, Metric, RunRecord, Validity, device_id, read_record, schema
from tests.benchmarks.records import run_record, warm_case

WHOLE = json.loads(run_record().model_dump_json())


def changed(path: str, value: Any) -> str:
    record = json.loads(json.dumps(WHOLE))
    *parents, last = path.split(".")
    place = record
    for name in parents:
        place = place[int(name)] if name.isdigit() else place[name]
    place[last] = value
    return json.dumps(record)


def test_a_record_survives_json() -> None:
    record = run_record()
    assert read_record(record.model_dump_json()) == record


def test_the_schema_beside_the_module_is_the_modules_own() -> None:
    assert json.loads(SCHEMA_FILE.read_text()) == schema(), "run `python -m benchmarks store schema --write`"


def test_a_record_meets_its_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(WHOLE, schema())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("run_id", "../../etc/passwd", "run_id"),
        ("run_id", "a..b", "not allowed in a name"),
        ("run_id", "x" * 81, "run_id"),
        ("session_id", "", "session_id"),
        ("device.model", "\x1b[2J", "U+001B"),
        ("device.model", "a\u202eb", "U+202E"),
        ("device.model", "two\nlines", "more than one line"),
        ("device.id", "ABC123", "device.id"),
        ("artifact.sha256", "a" * 63, "artifact.sha256"),
        ("cases.0.case_id", "a/b", "case_id"),
        ("cases.0.metrics.ttft_ms", {"value": None, "reason": None}, "a value, or null and a reason"),
        ("cases.0.metrics.ttft_ms", {"value": 1, "reason": "both"}, "a value, or null and a reason"),
        ("cases.0.reason", "why", "status other than 'ok'"),
        ("cases.0.status", "oom", "status other than 'ok'"),
        ("cases.0.events", [], "without the events"),
        ("cases.0.events", ["a\nb"], "events"),
        ("cases.0.energy_reason", None, "neither energy nor the reason"),
        ("cases.0.parity", None, "neither parity nor the reason"),
        ("validity", {"valid": True, "violations": ["x"]}, "exactly: no violations"),
        ("validity", {"valid": False, "violations": []}, "exactly: no violations"),
        ("started_at", "2026-11-22T06:00:00", "started_at"),
        ("environment.battery_percent", 101, "battery_percent"),
        ("invented", 1, "invented"),
        ("schema_version", 0, "schema_version"),
    ],
)
def test_a_record_that_is_wrong_is_refused_with_its_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(RecordError) as raised:
        read_record(changed(path, value), source="farm.json")
    assert message in str(raised.value)
    assert str(raised.value).startswith("farm.json: ")
    assert str(raised.value).isascii()


def test_a_record_of_the_future_is_refused_as_such() -> None:
    with pytest.raises(RecordVersionError, match="schema_version 2 is newer than 1, all this program knows"):
        read_record(changed("schema_version", 2))


def test_a_value_that_is_not_a_number_is_refused() -> None:
    for text in ("NaN", "Infinity", "1e999"):
        with pytest.raises(RecordError):
            read_record(changed("cases.0.metrics.ttft_ms.value", 123.5).replace("123.5", text))


def test_two_cases_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="same case_id"):
        run_record(0, warm_case(), warm_case())


def test_a_failed_case_needs_no_measurements() -> None:
    case = CaseRecord(case_id="cold-1", kind="cold", status="oom", reason="killed by lmkd")
    assert run_record(0, case).cases == (case,)


def test_a_device_keeps_its_name_but_not_its_serial() -> None:
    assert device_id("R58M") == device_id("R58M") != device_id("R58N")
    assert "R58M" not in device_id("R58M")


def test_endless_events_are_refused() -> None:
    line = "x" * 60_000
    with pytest.raises(ValidationError, match="are no stream"):
        CaseRecord(case_id="a", kind="warm", status="failed", reason="r", events=(line,) * 1200)


def test_metric_and_validity_say_what_they_are() -> None:
    assert Metric(value=1.5).reason is None
    assert Validity(valid=False, violations=("charging",)).violations == ("charging",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def read_or_refusal(data: str) -> RunRecord | str:
    try:
        return read_record(data)
    except RecordError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(places(WHOLE)), JSON)
def test_any_part_may_be_anything_and_is_read_or_refused_by_name(path: tuple[Any, ...], value: Any) -> None:
    record = json.loads(json.dumps(WHOLE))
    if path:
        place = record
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    else:
        record = value
    read = read_or_refusal(json.dumps(record))
    if isinstance(read, str):
        assert len(read) < 1000
        assert read.isascii()
    else:
        assert read_record(read.model_dump_json()) == read


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | st.integers(0, 5000).map(lambda n: b"[" * n))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(RecordError):
        read_record(data)


def test_the_record_type_is_what_the_reader_returns() -> None:
    assert isinstance(read_record(json.dumps(WHOLE)), RunRecord)


def test_a_record_of_endless_size_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "MAX_RECORD_BYTES", 100)
    with pytest.raises(RecordError, match="a record has at most 100"):
        read_record(json.dumps(WHOLE))

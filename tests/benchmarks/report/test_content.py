"""Records become columns: what may share a curve, what is left out of every figure, and what is said of the rest."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.record import Metric, RunRecord, Validity
from benchmarks.report.content import collect
from benchmarks.report.labels import label_of
from benchmarks.report.traces import pace, read_events, temperature
from tests.benchmarks.report.synthetic import END, FORMATS, MACHINES, PROTOCOL, record, records, stream_lines

FORMAT = ("onnx", "int4")


def one(machine: int = 2, *, seed: int = 3, **changes: Any) -> RunRecord:
    made = record(MACHINES[machine], FORMAT, END, random.Random(seed), night=0, traced=False)
    return made.model_copy(update=changes)


def with_metric(run: RunRecord, metric: str, value: Metric) -> RunRecord:
    case = next(case for case in run.cases if case.status == "ok" and case.case_id == "warm-512")
    changed = case.model_copy(update={"metrics": {metric: value}})
    return run.model_copy(update={"cases": (changed,)})


def test_a_virtual_machine_and_an_emulator_have_no_figure_anywhere() -> None:
    kinds = {machine.kind for machine in MACHINES}
    assert {"vm", "emulator"} <= kinds
    content = collect(
        one(index, seed=index) for index, machine in enumerate(MACHINES) if machine.kind in ("vm", "emulator")
    )
    assert not content["groups"]
    assert not content["runs"]
    assert not content["cases"]
    assert not content["metrics"]
    assert {row["kind"] for row in content["virtual"]} == {"vm", "emulator"}
    assert all(row["same"] == row["ok"] for row in content["virtual"])


def test_their_failures_are_told() -> None:
    content = collect(records(1200))
    assert {"vm", "emulator", "physical"} <= {row["device_kind"] for row in content["failures"]}
    assert len(content["failures"]) == sum(count for status, count in content["statuses"].items() if status != "ok")
    assert all(row["reason"] for row in content["failures"])


def other_protocol(run: RunRecord) -> RunRecord:
    return run.model_copy(update={"protocol": PROTOCOL.model_copy(update={"new_tokens": 64})})


@pytest.mark.parametrize(
    "other",
    [one(1), one(4), other_protocol(one()), one(artifact=one().artifact.model_copy(update={"weights": "random"}))],
    ids=["series", "device", "protocol", "weights"],
)
def test_what_is_not_comparable_never_shares_a_curve(other: RunRecord) -> None:
    content = collect([one(), other])
    assert len(content["groups"]) == 2
    assert content["runs"]["group"] == [0, 1]


def test_the_same_again_shares_a_curve() -> None:
    assert len(collect([one(), one(seed=8)])["groups"]) == 1


def test_values_stand_beside_the_run_they_belong_to_even_where_some_are_missing() -> None:
    missing = Metric(value=None, reason="no token was generated")
    runs = [with_metric(one(), "ttft_ms", value) for value in (missing, Metric(value=7.0), missing, Metric(value=9.5))]
    content = collect(runs)
    (case,) = content["cases"].values()
    assert case["run"] == [0, 1, 2, 3]
    assert case["values"]["ttft_ms"] == [None, 7.0, None, 9.5]


def test_the_reason_is_that_of_the_newest_run() -> None:
    later = END.replace(month=12)
    runs = [
        with_metric(one(started_at=later), "ttft_ms", Metric(value=None, reason="the newest reason")),
        with_metric(one(), "ttft_ms", Metric(value=None, reason="an older reason")),
    ]
    reasons = [row["reason"] for row in collect(runs)["reasons"] if row["metric"] == "ttft_ms"]
    assert reasons == ["the newest reason"]
    cured = [*runs, with_metric(one(started_at=later.replace(day=25)), "ttft_ms", Metric(value=1.0))]
    assert not [row for row in collect(cured)["reasons"] if row["metric"] == "ttft_ms"]


def test_the_share_of_the_roofline_is_bytes_times_speed_over_what_the_device_can_read() -> None:
    run = with_metric(one(), "decode_tok_s", Metric(value=20.0))
    assert run.artifact.bytes_read_per_token == 475_000_000
    (case,) = collect([run], {"Galaxy S24": 76e9})["cases"].values()
    assert case["values"]["bandwidth_share"] == [12.5]
    assert case["values"]["decode_read_bytes_per_s"] == [9.5]
    content = collect([run])
    assert "bandwidth_share" not in next(iter(content["cases"].values()))["values"]
    (reason,) = [row["reason"] for row in content["reasons"] if row["metric"] == "bandwidth_share"]
    assert "--bandwidth" in reason


def test_invalid_runs_are_flagged_and_their_violations_counted() -> None:
    bad = one(validity=Validity(valid=False, violations=("the screen was on",)))
    content = collect([bad, one(seed=4), bad])
    assert content["runs"]["valid"] == [0, 1, 0]
    assert [(row["violation"], row["count"]) for row in content["violations"]] == [("the screen was on", 2)]


def test_a_backend_other_than_the_requested_one_is_found() -> None:
    content = collect(records(600))
    differing = {
        (row["device"][:10], row["effective"]) for row in content["backends"] if row["requested"] != row["effective"]
    }
    assert differing == {("Galaxy S24", "executorch portable")}


def test_only_what_was_generated_says_so() -> None:
    assert collect([one()])["synthetic"]
    assert not collect([one(tools={"python": "3.11"})])["synthetic"]


def test_an_empty_store_is_a_page_without_figures() -> None:
    content = collect([])
    assert (content["groups"], content["failures"], content["cases"]) == ([], [], {})


def test_there_is_one_trace_a_group_and_case_and_it_is_the_newest() -> None:
    count = 3 * len(MACHINES) * len(FORMATS)
    content = collect(records(count))
    keys = [(trace["group"], trace["case"]) for trace in content["traces"]]
    assert len(keys) == len(set(keys)) > 20
    assert {case for _, case in keys} == {"sustained-512"}


def test_a_trace_shows_the_hottest_zone_and_leaves_out_pauses_between_generations() -> None:
    lines = stream_lines(MACHINES[0], 1.0, random.Random(1))
    events = read_events(lines)
    warmth, speed = temperature(events), pace(events)
    assert warmth[0][0] == 0.0
    assert warmth[-1][0] > 500
    assert 30 < warmth[0][1] < 33 < 38 < warmth[-1][1] < 46
    # eight tokens every five seconds at 13 to 17 tokens a second: pauses counted in would give 1.6
    assert all(12 < rate < 19 for _, rate in speed)


def test_a_sensor_that_reads_nonsense_is_left_out() -> None:
    def sample(**values: int) -> str:
        told = ", ".join(f'"{name}": {value}' for name, value in values.items())
        return f'{{"event":"sample","kind":"thermal","source":"sysfs","values":{{{told}}},"at_ns":5}}'

    assert temperature(read_events([sample(a_temp_millicelsius=41500, b_temp_millicelsius=32767000)])) == [(0.0, 41.5)]
    assert temperature(read_events([sample(a_temp_millicelsius=-273150)])) == []


def test_reading_events_ends_at_a_line_that_is_none() -> None:
    good = '{"event":"marker","name":"a","at_ns":1}'
    assert len(read_events([good, "<script>", good])) == 1


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("decode_tok_s", ("decode", "tokens/s", 1, "more")),
        ("peak_pss_bytes", ("peak PSS", "MB", 1e-6, "less")),
        ("joules_per_token", ("energy", "mJ/token", 1e3, "less")),
        ("a_metric_of_tomorrow_ms", ("a metric of tomorrow", "ms", 1, "open")),
    ],
)
def test_a_label_has_the_unit_of_the_name(metric: str, expected: Sequence[object]) -> None:
    label = label_of(metric)
    assert (label.text, label.unit, label.scale, label.better) == tuple(expected)

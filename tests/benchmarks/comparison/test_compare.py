"""Records in, verdict and exit status out: what may be compared, and what is said where it may not."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.comparison.compare import Comparison, compare
from benchmarks.comparison.sessions import gates_of, pool_name
from benchmarks.record import CaseRecord, Energy, Environment, RunRecord, Validity
from benchmarks.store import open_store
from tests.benchmarks.records import ARTIFACT, DEVICE, PROTOCOL, run_record, warm_case


def runs(
    count: int, *, slower: float = 0, cv: float = 0.05, start: int = 0, seed: int = 0, **fields: Any
) -> list[RunRecord]:
    """Runs of a session each, whose steps between tokens are lognormal around 20 ms."""
    rng = np.random.default_rng([seed, 1000 + start])
    steps = 20 * (1 + slower) * np.exp(rng.normal(size=count) * math.sqrt(math.log1p(cv**2)))
    return [run_record(start + number, warm_case(step_ms=float(step)), **fields) for number, step in enumerate(steps)]


def changed_case(records: list[RunRecord], **fields: Any) -> list[RunRecord]:
    return [
        record.model_copy(update={"cases": tuple(case.model_copy(update=fields) for case in record.cases)})
        for record in records
    ]


def verdicts(found: Comparison) -> dict[str, str]:
    return {one.figure.metric: one.judged.verdict for one in found.compared}


def reasons(found: Comparison) -> str:
    return "\n".join(reason for one in found.refused for reason in one.reasons)


def test_like_with_like_is_no_change() -> None:
    found = compare(runs(8), runs(8, start=100))
    assert found.exit_status == 0
    assert verdicts(found) == {"decode_tok_s": "no change", "prefill_tok_s": "no change", "ttft_ms": "no change"}


def test_ten_percent_at_a_cv_of_five_is_found_with_eight_sessions() -> None:
    """Mostly: with 96 % power, that fewer than five of six find it happens in 2 % of all sets of seeds."""
    found = [
        compare(runs(8, seed=seed), runs(8, slower=0.1, start=100, seed=seed), metrics=["decode_tok_s"])
        for seed in range(6)
    ]
    assert sum(one.exit_status == 1 for one in found) >= 5
    for one in found:
        [compared] = one.compared
        assert compared.change == pytest.approx(1 / 1.1 - 1, abs=0.09)
        assert compared.interval[0] < compared.change < compared.interval[1]


def test_metrics_where_less_is_better_and_where_more_is_better_both_work() -> None:
    for metric in ("tpot_ms", "decode_tok_s"):
        slow = compare(runs(8), runs(8, slower=0.3, start=100), metrics=[metric])
        fast = compare(runs(8), runs(8, slower=-0.3, start=100), metrics=[metric])
        assert (slow.exit_status, verdicts(slow)) == (1, {metric: "regression"})
        assert (fast.exit_status, verdicts(fast)) == (0, {metric: "improvement"})
        assert (slow.compared[0].change > 0) == (metric == "tpot_ms")
        assert slow.compared[0].judged.effect_size > 3


def test_twenty_seven_percent_of_noise_asks_for_more_sessions_instead_of_crying_wolf() -> None:
    found = compare(runs(5, cv=0.27), runs(5, cv=0.27, slower=0.1, start=100), metrics=["decode_tok_s"])
    [one] = found.compared
    assert found.exit_status == 0
    assert one.judged.needed is not None
    assert one.judged.needed > 50
    assert one.judged.detectable > 0.4


@pytest.mark.parametrize("counts", [(4, 8), (8, 4), (1, 1)])
def test_under_five_sessions_is_not_comparable(counts: tuple[int, int]) -> None:
    found = compare(runs(counts[0]), runs(counts[1], slower=1, start=100))
    assert found.exit_status == 2
    assert f"{counts[0]} sessions of the base and {counts[1]} of the candidate; each needs 5" in reasons(found)


def test_runs_of_one_session_are_one_observation() -> None:
    many = [record.model_copy(update={"session_id": f"s{number % 2}"}) for number, record in enumerate(runs(20))]
    found = compare(many, runs(8, start=100))
    assert found.exit_status == 2
    assert "2 sessions of the base" in reasons(found)


def test_sides_that_share_sessions_are_compared_in_pairs() -> None:
    """Sessions differ by a factor of ten, the sides by a tenth: only pairs can see it."""
    base, candidate = [], []
    for number in range(8):
        step = 20 * 10 ** (number / 8)
        base.append(run_record(number, warm_case(step_ms=step)))
        slower = warm_case(step_ms=step * 1.1 * (1 + 0.01 * math.sin(number)))
        candidate.append(run_record(100 + number, slower, session_id=f"session-{number:04}"))
    found = compare(base, candidate, metrics=["decode_tok_s"])
    assert found.exit_status == 1
    assert found.compared[0].paired
    assert found.compared[0].sessions == (8, 8)
    apart = [record.model_copy(update={"session_id": f"other-{record.run_id}"}) for record in candidate]
    assert compare(base, apart, metrics=["decode_tok_s"]).exit_status == 0


def test_devices_are_compared_each_with_itself() -> None:
    other = DEVICE.model_copy(update={"id": "f" * 16, "model": "Galaxy"})
    base = [*runs(8), *runs(8, start=200, device=other)]
    candidate = [*runs(8, start=100), *runs(8, start=300, slower=0.4, device=other)]
    found = compare(base, candidate, metrics=["decode_tok_s"])
    assert {one.device: one.judged.verdict for one in found.compared} == {
        f"Pixel 9 #{DEVICE.id[:4]}": "no change",
        "Galaxy #ffff": "regression",
    }
    alone = compare(runs(8), [*runs(8, start=100), *runs(8, start=300, device=other)])
    assert alone.exit_status == 2
    assert reasons(alone) == "it has runs of the candidate only"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"series": "app"}, "series differs: adb-shell and app"),
        ({"protocol": PROTOCOL.model_copy(update={"new_tokens": 9})}, "protocol differs"),
        ({"artifact": ARTIFACT.model_copy(update={"model": "0.8b"})}, "model differs: 0.8b and tiny"),
        ({"artifact": ARTIFACT.model_copy(update={"weights": "random"})}, "weights differs"),
        ({"artifact": ARTIFACT.model_copy(update={"context_length": 4096})}, "context length differs: 4096 and 512"),
        ({"device": DEVICE.model_copy(update={"build": "B2"})}, "os and build differs"),
        ({"environment": Environment(threads=1)}, "threads and affinity differs"),
        ({"environment": Environment(threads=4, low_power=True)}, "battery saver differs"),
        ({"validity": Validity(valid=False, violations=("charging",))}, "not valid: charging (8)"),
        ({"device": DEVICE.model_copy(update={"kind": "vm"})}, "a device of kind 'vm' has no speed"),
    ],
)
def test_runs_that_differ_in_more_than_the_artifact_are_not_comparable(fields: dict[str, Any], message: str) -> None:
    found = compare(runs(8), runs(8, slower=1, start=100, **fields))
    assert found.exit_status == 2
    assert message in reasons(found)


def test_a_side_is_one_format() -> None:
    mixed = [*runs(4), *runs(4, start=50, artifact=ARTIFACT.model_copy(update={"scheme": "int8"}))]
    assert "scheme differs within the base: int4 and int8; choose one" in reasons(compare(mixed, runs(8, start=100)))


def test_formats_may_differ_between_sides() -> None:
    int8 = ARTIFACT.model_copy(update={"scheme": "int8", "sha256": "b" * 64})
    assert compare(runs(8), runs(8, start=100, artifact=int8, slower=0.3)).exit_status == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"effective_backend": "xnnpack"}, "backend 'cpu' was asked for, 'xnnpack' ran"),
        ({"effective_backend": None}, "backend 'cpu' was asked for, None ran"),
        ({"throttled": True}, "the device was throttled"),
        ({"status": "oom", "reason": "lmkd"}, "oom: lmkd"),
    ],
)
def test_a_case_that_is_not_what_was_asked_for_is_left_out_with_its_reason(
    fields: dict[str, Any], message: str
) -> None:
    found = compare(runs(8), changed_case(runs(8, start=100), **fields))
    assert found.exit_status == 2
    assert f"candidate: warm-p8: {message} (8)" in reasons(found)
    some = compare(runs(8), [*runs(8, start=100), *changed_case(runs(3, start=200, slower=9), **fields)])
    assert some.exit_status == 0


def test_a_metric_that_one_side_lacks_is_not_comparable() -> None:
    energy = Energy(
        source="odpm", joules=1, joules_per_token=0.1, baseline_w=1, uncertainty_j=0.1, samples=9,
        median_interval_s=1, unit_factor=1, sign=1, plugged=False,
    )  # fmt: skip
    with_energy = changed_case(runs(8), energy=energy, energy_reason=None)
    found = compare(with_energy, runs(8, start=100))
    assert found.exit_status == 2
    assert [one.what for one in found.refused] == ["warm-p8 joules_per_token"]
    assert "candidate: no source of energy was asked for" in reasons(found)
    assert compare(with_energy, changed_case(runs(8, start=100), energy=energy)).exit_status == 0


def test_a_metric_that_was_asked_for_and_nobody_has_is_not_comparable() -> None:
    found = compare(runs(8), runs(8, start=100), metrics=["sustained_tok_s"])
    assert found.exit_status == 2
    assert "base: a case of kind 'warm' is not sustained" in reasons(found)


def test_a_figure_that_is_not_positive_has_no_ratio() -> None:
    negative = Energy(
        source="battery", joules=-1, joules_per_token=-0.1, baseline_w=1, uncertainty_j=2, samples=9,
        median_interval_s=1, unit_factor=1, sign=1, plugged=False,
    )  # fmt: skip
    cold = changed_case(runs(8), energy=negative)
    assert "-0.1 is not positive" in reasons(compare(cold, cold, metrics=["joules_per_token"]))


def test_an_older_base_is_noted() -> None:
    assert "alternate the sides" in compare(runs(8), runs(8, start=100)).notes[0]
    assert compare(runs(8), [*runs(4, start=100), *runs(4, start=50, started_at=run_record(0).started_at)]).notes == ()


def test_nothing_is_not_comparable() -> None:
    assert compare([], []).exit_status == 2


def test_memory_is_judged_where_it_was_sampled_and_speed_where_it_was_not() -> None:
    plain = warm_case()
    assert gates_of(plain) == ("ttft_ms", "prefill_tok_s", "decode_tok_s", "joules_per_token")
    sampled = {**plain.metrics, "steady_pss_bytes": plain.metrics["ttft_ms"]}
    assert gates_of(plain.model_copy(update={"metrics": sampled})) == ("peak_pss_bytes", "peak_phys_footprint_bytes")


def test_repeats_of_a_cold_case_are_pooled() -> None:
    cold = CaseRecord(case_id="cold-2", kind="cold", status="oom", reason="x")
    assert pool_name(cold) == "cold"
    assert pool_name(warm_case("warm-8")) == "warm-8"


def test_the_same_records_give_the_same_answer() -> None:
    base, candidate = runs(12, cv=0.2), runs(12, cv=0.2, start=100)
    assert compare(base, candidate) == compare(base, list(reversed(candidate)))


def test_deterministic_figures_are_no_trouble() -> None:
    found = compare(runs(5, cv=0), runs(5, cv=0, start=100, slower=0.02))
    assert verdicts(found)["decode_tok_s"] == "regression"
    assert verdicts(found)["ttft_ms"] == "no change"
    assert compare(runs(5, cv=0), runs(5, cv=0, start=100, slower=0.005)).exit_status == 0


def write(place: Path, records: list[RunRecord]) -> str:
    place.write_text("".join(f"{record.model_dump_json()}\n" for record in records))
    return str(place)


def test_the_command_compares_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write(tmp_path / "base.jsonl", runs(8))
    slow = write(tmp_path / "slow.jsonl", runs(8, slower=0.3, start=100))
    assert main(["compare", base, slow]) == 1
    printed = capsys.readouterr().out
    assert "REGRESSION: 3 figures compared, 1 worse" in printed
    assert "detectable" in printed
    assert "sessions for 10 %" in printed
    assert main(["compare", base, base]) == 0
    assert main(["compare", base, write(tmp_path / "few.jsonl", runs(3, start=100))]) == 2
    assert "not comparable: Pixel 9" in capsys.readouterr().out


def test_the_command_compares_runs_of_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "results.sqlite")
    int8 = ARTIFACT.model_copy(update={"scheme": "int8"})
    with open_store(place) as store:
        for record in (*runs(8), *runs(8, start=100, slower=0.3, artifact=int8)):
            store.append(record)
    words = ["compare", "scheme=int4,model=tiny", "scheme=int8,since=2026-01-01", "--store", place, "--json"]
    assert main(words) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["exit_status"] == 1
    found = next(line for line in lines if line.get("metric") == "decode_tok_s")
    assert found["verdict"] == "regression"
    assert found["sessions_needed"] >= 5
    assert found["interval_95"][1] < 0 < found["smallest_detectable_change"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.json", "x=1"], "neither a file nor a choice"),
        (["scheme=int4", "scheme=int8"], "has no runs"),
        (["since=yesterday", "scheme=int8"], "is no date"),
        (["scheme=", "scheme=int8"], "neither a file nor a choice"),
    ],
)
def test_a_side_that_cannot_be_had_is_not_comparable(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words, "--store", str(tmp_path / "results.sqlite")]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_record_is_not_comparable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "hostile.jsonl"
    place.write_text('{"run_id": "../x"}\n')
    assert main(["compare", str(place), str(place)]) == 2
    assert "hostile.jsonl" in capsys.readouterr().err


def test_percentages_are_above_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "a", "b", "--change", "0"])
    assert stopped.value.code == 2
    assert "is not a percentage above 0" in capsys.readouterr().err

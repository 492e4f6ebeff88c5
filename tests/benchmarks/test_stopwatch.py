"""The stopwatch against records that are right and records that are not, and once against a real run."""

from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.cases import Case
from benchmarks.commands import stopwatch as command
from benchmarks.errors import BenchmarkError
from benchmarks.record import CaseRecord, RunRecord
from benchmarks.stopwatch import LIMIT, Letters, Watch, compare
from export.spec import ExportSpec
from tests.benchmarks.device_runs import warm_case
from tests.benchmarks.records import run_record
from tests.exports import exported

MS = 1_000_000
LOAD_MS, TTFT_MS, STEP_MS = 50, 20, 4
CASE: Case = warm_case().cases[0]


def heard() -> Letters:
    """One process: a load, a warm-up ten times slower than the two generations after it, each of 12 tokens."""
    letters: Letters = [(b"N", 0), (b"O", MS), (b"o", (1 + LOAD_MS) * MS)]
    now = 100 * MS
    for slower in (10, 1, 1):
        letters += [(b"R", now), (b"F", now), (b"f", now + slower * (TTFT_MS * MS - 1000))]
        now += slower * TTFT_MS * MS
        for _ in range(11):
            letters += [(b"F", now), (b"f", now + slower * (STEP_MS * MS - 1000))]
            now += slower * STEP_MS * MS
        now += 5 * MS
    return letters


def recorded(load_ms: float = LOAD_MS, ttft_ms: float = TTFT_MS, step_ms: float = STEP_MS) -> RunRecord:
    """A record that says so of the case."""
    values = {"load_warm_ms": load_ms, "ttft_ms": ttft_ms, "tpot_p50_ms": step_ms}
    row = CaseRecord(
        case_id=CASE.case,
        kind="warm",
        status="ok",
        events=("{}",),
        metrics={name: record.Metric(value=value) for name, value in values.items()},
        parity_reason="not looked at",
        energy_reason="not looked at",
    )
    return run_record(0, row)


def differences(made: RunRecord) -> dict[str, bool]:
    """Whether each figure agrees."""
    found = compare(made, Watch(letters=heard()), [CASE], prefill_chunk=32)
    return {comparison.metric: comparison.difference <= LIMIT for comparison in found}


def test_a_true_record_agrees() -> None:
    assert differences(recorded()) == {"load_warm_ms": True, "ttft_ms": True, "tpot_p50_ms": True}


@pytest.mark.parametrize("factor", [0.97, 1.03, 1000])
@pytest.mark.parametrize("name", ["load_ms", "ttft_ms", "step_ms"])
def test_a_figure_that_is_off_by_more_than_the_limit_is_found(name: str, factor: float) -> None:
    true = {"load_ms": LOAD_MS, "ttft_ms": TTFT_MS, "step_ms": STEP_MS}[name]
    assert list(differences(recorded(**{name: true * factor})).values()).count(False) == 1


def test_counting_the_warm_up_in_is_found() -> None:
    with_warm_up = recorded(ttft_ms=TTFT_MS * 10)
    assert not differences(with_warm_up)["ttft_ms"]


def test_a_prompt_in_chunks_ends_where_its_last_chunk_does() -> None:
    chunked = compare(recorded(), Watch(letters=heard()), [CASE], prefill_chunk=4)
    assert next(one for one in chunked if one.metric == "ttft_ms").watched_ms == TTFT_MS + STEP_MS


def test_a_case_that_failed_cannot_be_compared() -> None:
    row = CaseRecord(case_id=CASE.case, kind="warm", status="failed", reason="it was tired")
    with pytest.raises(BenchmarkError, match="it was tired"):
        compare(run_record(0, row), Watch(letters=heard()), [CASE], prefill_chunk=32)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "executorch"])
def test_a_real_run_of_the_tiny_model_agrees(runtime: str, tmp_path: Path) -> None:
    """On a machine that does other work as well, one try in three may be off."""
    spec = ExportSpec(
        target="android",
        model="tiny",
        out=tmp_path / "bundle",
        backends=(runtime,),
        scheme="int4",
        method="rtn",
        context_length=256,
    )
    words = [str(exported(spec)[0].artifacts[runtime].path), "--threads", "1", "--prompt-tokens", "64"]
    assert any(command.main(words) == 0 for _ in range(3))

"""The worker around an engine: what it asks and what it answers."""

import json
from pathlib import Path

import pytest

from benchmarks.side_by_side.subjects import ROOT
from benchmarks.side_by_side.workers.engine import Settings, Timing, run
from benchmarks.workload import make_workload, write_workload

TOKENIZER = ROOT / "export" / "models" / "tiny" / "tokenizer.json"
LIBRARY_BYTES = 300 << 20


class CountingEngine:
    """Takes a millisecond a token and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def generate(self, text: str, ids: list[int], decode_steps: int) -> Timing:
        assert text
        self.asked.append((len(ids), decode_steps))
        return Timing(prefill_s=len(ids) / 1000, decode_s=decode_steps / 100, decode_steps=decode_steps)


def test_a_worker_warms_up_reads_each_prompt_and_writes_after_the_longest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workload = make_workload(TOKENIZER, prompt_tokens=[32, 128], decode_tokens=10, context_length=256)
    write_workload(workload, tmp_path / "workload.json")
    engine = CountingEngine()
    seen: list[Settings] = []

    def load(settings: Settings) -> CountingEngine:
        seen.append(settings)
        return engine

    arguments = ["--artifact", "a", "--tokenizer", "t", "--workload", str(tmp_path / "workload.json"), "--threads", "2"]
    run(load, "a worker", arguments)
    answer = json.loads(capsys.readouterr().out)
    assert engine.asked == [(16, 4), (32, 1), (128, 10)]
    assert (seen[0].threads, seen[0].context_length) == (2, 256)
    assert answer["prefill_s"] == {"32": 0.032, "128": 0.128}
    assert (answer["decode_steps"], answer["decode_s"]) == (10, 0.1)
    assert 0 < answer["rss_anon_bytes"] <= answer["peak_rss_bytes"]


def test_what_the_runtime_imports_counts_as_imports_and_not_as_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workload = make_workload(TOKENIZER, prompt_tokens=[16], decode_tokens=1, context_length=64)
    write_workload(workload, tmp_path / "workload.json")
    library: list[bytes] = []
    arguments = ["--artifact", "a", "--tokenizer", "t", "--workload", str(tmp_path / "workload.json")]
    run(lambda _: CountingEngine(), None, arguments, import_runtime=lambda _: library.append(b"x" * LIBRARY_BYTES))
    answer = json.loads(capsys.readouterr().out)
    # a margin for what other tests left behind or take meanwhile
    assert answer["imports_rss_bytes"] > LIBRARY_BYTES
    assert answer["peak_rss_bytes"] - answer["imports_rss_bytes"] < LIBRARY_BYTES

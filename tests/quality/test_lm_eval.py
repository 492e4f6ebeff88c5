"""Scores of continuations, and lm-evaluation-harness itself running tasks on an artifact."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.errors import QualityError
from export.quality.scoring import Scorer
from runtimes.artifact import Artifact
from runtimes.reference import log_sum_exp
from runtimes.runner import Runner, open_runner

ROOT = Path(__file__).parents[2]
QUESTIONS = (
    ("Question: What is the capital of France?\nAnswer:", " The capital of France is", (" Paris.", " moo."), 0),
    ("Question: What sound does a cow make?\nAnswer:", " A cow says", (" Paris.", " moo."), 1),
)
DATA = {"dataset_path": "json", "test_split": "test"}
TASKS = {
    "pick": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
    "read": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "say": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}} Question:",
        "doc_to_target": "anything",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def runner(artifact: Path) -> Runner:
    return open_runner(Artifact.open(artifact), threads=1)


def one_by_one(runner: Runner, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The score by definition: every token fed alone, from the start."""
    runner.reset()
    for token in context:
        logits = runner.forward([token])
    total, greedy = 0.0, True
    for token in continuation:
        total += float(logits[token]) - log_sum_exp(logits)
        greedy = greedy and int(logits.argmax()) == token
        logits = runner.forward([token])
    return total, greedy


def test_choices_that_share_a_context_score_as_if_each_were_alone(runner: Runner) -> None:
    random = np.random.default_rng(0)
    context = random.integers(10, 1000, 20).tolist()
    choices = [random.integers(10, 1000, count).tolist() for count in (1, 3, 5)]
    scorer = Scorer(runner)
    found = [scorer.score(context, choice) for choice in [*choices, *choices]]
    for score, choice in zip(found, [*choices, *choices], strict=True):
        expected = one_by_one(Scorer(runner)._runner, context, choice)
        assert score[0] == pytest.approx(expected[0], abs=0.02)  # int8 activations: a prefill rounds otherwise
        assert score[1] == expected[1]


def test_a_context_is_run_once_for_all_its_choices(runner: Runner) -> None:
    calls: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(runner, name)

        def forward(self, tokens: list[int]) -> object:
            calls.append(len(tokens))
            return runner.forward(tokens)

    scorer = Scorer(Counting())  # type: ignore[arg-type]
    for choice in ([5], [6, 7]):
        scorer.score([1, 2, 3, 4], choice)
    scorer.score([1, 2, 3], [5])
    assert calls == [4, 1, 3]


def test_what_the_model_would_write_itself_is_greedy(runner: Runner) -> None:
    runner.reset()
    logits = runner.forward([5, 6, 7])
    answer = []
    for _ in range(4):
        answer.append(int(logits.argmax()))
        logits = runner.forward([answer[-1]])
    scorer = Scorer(runner)
    assert scorer.score([5, 6, 7], answer)[1]
    other = [*answer[:-1], (answer[-1] + 1) % runner.vocab_size]
    assert not scorer.score([5, 6, 7], other)[1]


def test_a_long_context_loses_its_beginning_and_never_its_end(runner: Runner) -> None:
    random = np.random.default_rng(1)
    long = random.integers(10, 1000, runner.context_length + 30).tolist()
    choice = [11, 12, 13]
    kept = long[-(runner.context_length + 1 - len(choice)) :]
    scorer = Scorer(runner)
    assert scorer.score(long, choice) == scorer.score(kept, choice)


def test_a_continuation_longer_than_the_context_is_an_error(runner: Runner) -> None:
    with pytest.raises(QualityError, match="must fit the context of 256"):
        Scorer(runner).score([1], [5] * 257)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed (extra lm-eval)")
def test_lm_eval_runs_tasks_of_all_kinds_on_an_artifact(artifact: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [
        {"question": question + start, "choices": choices, "gold": gold, "text": question + start + choices[gold]}
        for question, start, choices, gold in QUESTIONS
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        content = {"task": name, **DATA, "dataset_kwargs": {"data_files": {"test": str(data)}}, **task}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(content))  # JSON is YAML
    command = [
        sys.executable, "-m", "export.quality.lm_eval_model", "run", "--model", "qwen-edge",
        "--model_args", f"artifact={artifact},threads=1", "--include_path", str(tmp_path),
        "--tasks", *TASKS, "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **offline}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (written,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(written.read_text())["results"]
    assert results["pick"]["acc,none"] == 1.0
    assert 0.5 < results["read"]["bits_per_byte,none"] < 4
    assert 0 <= results["say"]["exact_match,none"] <= 1

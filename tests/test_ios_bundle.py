"""`python -m export --target ios --model tiny`, whole: every backend in one bundle, and what int4 leaves of answers."""

import json
from pathlib import Path

import pytest
import torch

from export import catalog
from export.bundle import BUNDLE_FILE, CARD, Bundle
from export.decoder import Decoder, text_positions
from export.errors import BudgetError
from export.oracle import ORACLE_FILE
from export.plan import make_plan
from export.spec import ExportSpec
from export.state import zero_state
from runtimes.artifact import Artifact
from runtimes.runner import open_runner
from runtimes.template import load_template
from runtimes.tokenizer import load_tokenizer
from tests.exports import exported
from tests.fixtures import TINY
from tests.subjects import CONTEXT, eager, quantized

# the questions that the tiny model's card is held to (tests/test_tiny_model.py)
QUESTIONS = (
    "Hello!",
    "What is the capital of France?",
    "What sound does a cow make?",
    "What day comes after Monday?",
    "Tell me a short story.",
)
ORACLE_TOKENS = 16


def ios_spec(out: Path, **changes: object) -> ExportSpec:
    """The default export of the tiny model for iOS, in a context that takes less time to fill."""
    settings: dict[str, object] = {"target": "ios", "model": "tiny", "context_length": CONTEXT, "out": out}
    return ExportSpec(**{**settings, **changes})  # type: ignore[arg-type]


def test_a_budget_that_no_scheme_meets_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"--budget 1000 bytes: tiny as mixed for .*coreml.* takes about"):
        make_plan(ios_spec(tmp_path, budget_bytes=1000))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    found, _ = exported(ios_spec(tmp_path_factory.mktemp("ios"), budget_bytes=20 * 10**6))
    return found


@pytest.mark.slow
def test_the_bundle_holds_every_backend_of_the_target_and_what_an_app_needs(bundle: Bundle) -> None:
    target = catalog.load("targets", "ios")
    assert set(bundle.artifacts) == set(target.BACKENDS)
    oracle = json.loads((bundle.path / ORACLE_FILE).read_text())
    assert set(oracle["artifacts"]) == set(target.BACKENDS)
    for name, artifact in bundle.artifacts.items():
        parity = artifact.manifest.measured.parity
        assert parity is not None
        assert all(check["outcome"] != "failed" for check in parity["checks"]), name
        assert oracle["artifacts"][name]["artifact"] == artifact.manifest.artifact_hash()
        for needed in ("tokenizer.json", "chat_template.jinja", "manifest.json"):
            assert f"{name}/{needed}" in bundle.files
    assert {CARD, ORACLE_FILE, "LICENSE", "NOTICE"} <= set(bundle.files)
    assert (bundle.path / BUNDLE_FILE).is_file()
    assert bundle.total_bytes <= 20 * 10**6


@pytest.mark.slow
def test_another_export_writes_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    again, _ = exported(ios_spec(tmp_path, backends=("coreml",)))
    ours, theirs = (found.artifacts["coreml"].manifest.files for found in (bundle, again))
    assert {entry.path: entry.sha256 for entry in ours} == {entry.path: entry.sha256 for entry in theirs}


@pytest.mark.slow
def test_calibrated_int4_has_sixteen_of_sixteen_best_tokens_of_the_float_model(bundle: Bundle, tmp_path: Path) -> None:
    """The gate of published ports: the best token of 16 single steps, each after the float model's own tokens."""
    artifact: Artifact = bundle.artifacts["coreml"]
    runner = open_runner(artifact, threads=1)
    tokenizer, template = load_tokenizer(artifact.tokenizer_file), load_template(artifact)
    oracle = eager(quantized(TINY, tmp_path, "float"))
    for question in QUESTIONS:
        text = template.render([{"role": "user", "content": question}], options={"enable_thinking": False})
        prompt = tokenizer.encode(text)
        wanted = _greedy(oracle, prompt)
        runner.reset()
        logits, found = runner.forward(prompt), []
        for token in wanted:
            found.append(int(logits.argmax()))
            logits = runner.forward([token])
        assert found == wanted, question


@torch.no_grad()
def _greedy(decoder: Decoder, prompt: list[int]) -> list[int]:
    """The float model's own next tokens."""
    state = zero_state(decoder.config, CONTEXT)
    fed = list(prompt)
    found: list[int] = []
    for _ in range(ORACLE_TOKENS):
        start = torch.tensor([len(prompt) + len(found) - len(fed)])
        logits, state = decoder(torch.tensor([fed]), text_positions(int(start), len(fed)), start, state)
        fed = [int(logits[0, -1].argmax())]
        found += fed
    return found

"""`--scheme auto`: budgets kept, choices kept, errors before work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from export import catalog
from export.config import parse_config, read_config
from export.errors import BudgetError, SpecError
from export.plan import make_plan
from export.search import auto
from export.search.layouts import Space, describe, searched, smallest_layout, uniform_layouts
from tests.exports import exported, small_spec
from tests.fixtures import TINY


@pytest.fixture
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of seconds: little text, two trials."""
    monkeypatch.setattr(auto, "TRIALS", 2)
    monkeypatch.setattr(auto, "PRICED_TOKENS", 1024)
    monkeypatch.setattr(auto, "JUDGED_TOKENS", 512)


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    """A calibration text that the tiny model can read."""
    file = tmp_path / "text.txt"
    file.write_text((TINY / "held_out.txt").read_text(encoding="utf-8") * 3, encoding="utf-8")
    return file


@pytest.mark.slow
@pytest.mark.usefixtures("few_trials")
def test_a_budget_is_kept_by_the_written_bundle_and_used(tmp_path: Path, prose: Path) -> None:
    budget = 2_050_000
    spec = small_spec(tmp_path / "out", TINY, scheme="auto", calibration=prose, budget_bytes=budget)
    bundle, _ = exported(spec)
    assert bundle.total_bytes <= budget
    assert bundle.total_bytes > 0.7 * budget
    manifest = json.loads((bundle.path / "onnx" / "manifest.json").read_text(encoding="utf-8"))
    quantization = manifest["quantization"]
    assert len(set(quantization["formats"].values())) > 2, "a mixed layout"
    search = quantization["search"]
    assert search["bytes_at_most"] <= search["budget_bytes"]
    assert search["measured_kld"] <= search["best_uniform_kld"]
    again, listener = exported(spec)
    assert again.files == bundle.files
    assert not [name for name, _, _ in listener.stages if "price" in name or "study" in name], "the choice was kept"


def test_a_budget_below_the_smallest_layout_dies_in_the_plan(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "out", TINY, scheme="auto", budget_bytes=1_200_000)
    with pytest.raises(BudgetError, match="tiny as auto for onnx takes about .* no scheme fits; build fewer backends"):
        make_plan(spec)
    assert not (tmp_path / "out").exists()


def test_the_smallest_layout_is_what_a_budget_must_hold(tmp_path: Path) -> None:
    plan = make_plan(small_spec(tmp_path / "out", TINY, scheme="auto", budget_bytes=2_000_000))
    usual = make_plan(small_spec(tmp_path / "out", TINY, scheme="mixed"))
    assert plan.builds[0].model_bytes < usual.builds[0].model_bytes
    without = make_plan(small_spec(tmp_path / "out", TINY, scheme="auto"))
    assert without.builds[0].model_bytes == usual.builds[0].model_bytes, "by default the bytes of mixed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": "farm"}, "--workers 'farm': unknown; use local or ray"),
        ({"workers": "ray", "scheme": "int4"}, "--workers ray changes nothing in --scheme int4"),
    ],
)
def test_workers_that_make_no_sense_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        make_plan(small_spec(tmp_path / "out", TINY, **{"scheme": "auto", **changes}))


def test_text_to_price_on_and_text_to_judge_on_do_not_overlap() -> None:
    tokens = torch.arange(32 * 512).view(32, 512)
    priced, judged = auto.split_tokens(tokens)
    assert priced.numel() == auto.PRICED_TOKENS
    assert judged.numel() == auto.JUDGED_TOKENS
    assert not set(priced.flatten().tolist()) & set(judged.flatten().tolist())


def test_the_last_layouts_are_the_best_of_each_kind() -> None:
    space = Space(
        config=parse_config(read_config(TINY), "tiny"), backend=catalog.load("backends", "onnx"), context_length=64
    )
    costs = {unit: dict.fromkeys(forms, 1.0) for unit, forms in searched(space.candidates).items()}
    uniform = list(uniform_layouts(space).values())
    found = {
        "searched": describe(space, costs, smallest_layout(space)),
        "trial 0": describe(space, costs, smallest_layout(space)),
        **{f"{auto.UNIFORM}{index}": describe(space, costs, one) for index, one in enumerate(uniform)},
    }
    klds = {name: float(rank) for rank, name in enumerate(found)}
    assert list(auto.finalists(found, klds)) == ["searched", f"{auto.UNIFORM}0", f"{auto.UNIFORM}1"], "no layout twice"

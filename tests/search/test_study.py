"""The study: what it keeps, that it goes on after a kill, that workers change nothing."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from export import catalog
from export.config import ModelConfig, parse_config, read_config
from export.progress import Silent
from export.schemes import Layout
from export.search.layouts import Space, best_layout, describe, searched
from export.search.sensitivity import Costs
from export.search.study import BATCH, Study, run_study, wish_of
from tests.waiting import wait_until

TINY = Path(catalog.__file__).parent / "models" / "tiny"
SCRIPT = """
import sys, time
from pathlib import Path
from tests.search.test_study import Stuck, make_costs, space
from export.progress import Silent
from export.search.study import Study, run_study

run_study(Study(storage=Path(sys.argv[1]), name="x", trials=16), space(), make_costs(), Stuck(), Silent())
"""


def config() -> ModelConfig:
    return parse_config(read_config(TINY), "tiny")


def space() -> Space:
    return Space(config=config(), backend=catalog.load("backends", "onnx"), context_length=64)


def make_costs() -> Costs:
    """Prices that fall by bits and groups, some matrices dearer than others."""
    return {
        unit: {form: (1 + index % 5) * 4.0**-form.bits * (form.group_size or 128) / 32 for form in forms}
        for index, (unit, forms) in enumerate(searched(space().candidates).items())
    }


def figures(layouts: Sequence[Layout]) -> list[float]:
    """Stands in for minutes of measuring: the prediction and a tenth."""
    return [1.1 * describe(space(), make_costs(), layout).predicted_kld for layout in layouts]


class Stuck:
    """Measures the first batch, and never ends the second."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, layouts: Sequence[Layout]) -> list[float]:
        self.calls += 1
        if self.calls > 1:
            time.sleep(600)
        return figures(layouts)


def layouts_of(storage: Path, trials: int = 16) -> list[Layout]:
    done = run_study(Study(storage=storage, name="x", trials=trials), space(), make_costs(), figures, Silent())
    return [trial.found.layout for trial in done]


def test_the_best_trials_are_beaten_by_none_in_all_three_figures(tmp_path: Path) -> None:
    done = run_study(Study(storage=tmp_path / "s.db", name="x", trials=16), space(), make_costs(), figures, Silent())
    assert len(done) == 16
    assert len({trial.found.file_bytes for trial in done}) > 5, "the study tries different sizes"
    figure = {id(trial): (trial.kld, trial.found.file_bytes, -trial.found.tokens_per_s) for trial in done}
    for trial in done:
        own = figure[id(trial)]
        beaten = any(all(x <= y for x, y in zip(other, own, strict=True)) and other != own for other in figure.values())
        assert trial.is_best is not beaten
        assert trial.kld == pytest.approx(1.1 * trial.found.predicted_kld)


def test_a_study_that_ended_is_read_and_not_run_again(tmp_path: Path) -> None:
    before = layouts_of(tmp_path / "s.db")

    def refuse(_: Sequence[Layout]) -> list[float]:
        raise AssertionError("a finished study measured something")

    study = Study(storage=tmp_path / "s.db", name="x", trials=16)
    again = run_study(study, space(), make_costs(), refuse, Silent())
    assert [trial.found.layout for trial in again] == before


def test_a_study_killed_in_the_middle_finds_what_an_undisturbed_one_finds(tmp_path: Path) -> None:
    undisturbed = layouts_of(tmp_path / "whole.db")
    storage = tmp_path / "killed.db"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(storage)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_until(
        lambda: _complete(storage) >= BATCH or process.poll() is not None, "no batch of trials was finished", 120
    )
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the study ended before it could be killed"
    done = _complete(storage)
    assert 0 < done < 16
    assert layouts_of(storage) == undisturbed


def _complete(storage: Path) -> int:
    """Finished trials, read beside whoever writes."""
    if not storage.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{storage}?mode=ro", uri=True)) as database:
            rows = database.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()
    except sqlite3.OperationalError:  # its tables are still being made
        return 0
    return int(rows[0])


def test_a_wish_that_its_own_limits_forbid_is_raised_to_the_smallest_layout(tmp_path: Path) -> None:
    params = {"budget_share": 0.0, "tables": "int8", "coarsest_group": 32, "time_weight": 1.0}
    found = best_layout(space(), make_costs(), wish_of(params, space(), make_costs()))
    assert found.layout["embed_tokens"].bits == 8
    assert {form.group_size for form in found.layout.values() if form.bits == 4} == {32}

"""Many layouts by one knapsack: a multi-objective study of divergence, bytes and predicted speed.

Optuna (Akiba et al. 2019) chooses what the knapsack is asked for: how many bytes, whether the tables keep 8 bits, how
coarse groups may be, what a millisecond is worth. NSGA-II (Deb et al. 2002) keeps what nothing else beats in all three.
Trials lie in SQLite. A killed study goes on where it was, with the trials that would have come anyway: each is
drawn with a seed of its own, and trials that were running are run again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from export.errors import BudgetError
from export.progress import Progress
from export.schemes import Format, Layout
from export.search.evaluator import Evaluate
from export.search.layouts import Found, Space, Wish, best_layout, describe, finest_layout, smallest_layout
from export.search.sensitivity import Costs
from export.spec import digest
from export.weights import EMBEDDING, HEAD

Direction = Literal["minimize", "maximize"]

BATCH = 8  # trials asked for at once, however many workers there are, so that all find the same
LAYOUT = "layout"
DIRECTIONS: tuple[Direction, ...] = ("minimize", "minimize", "maximize")  # divergence, bytes, tokens a second
PARAMETERS: dict[str, BaseDistribution] = {
    "budget_share": FloatDistribution(0.0, 1.0),  # between the smallest layout and 8 bits throughout
    "tables": CategoricalDistribution(("free", "int8")),
    "coarsest_group": CategoricalDistribution((128, 64, 32)),
    "time_weight": FloatDistribution(0.0, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study to run: where its trials lie, under which name, and how many there shall be."""

    storage: Path
    name: str
    trials: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A layout that was tried, and its three figures; `is_best`: nothing beats it in all of them."""

    found: Found
    kld: float
    is_best: bool


def run_study(plan: Study, space: Space, costs: Costs, evaluate: Evaluate | None, progress: Progress) -> list[Trial]:
    """Run what is missing of a study and return its trials; without `evaluate` divergence is the predicted one."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan.storage.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{plan.storage}.lock"):
        study = optuna.create_study(
            storage=f"sqlite:///{plan.storage}", study_name=plan.name, directions=DIRECTIONS, load_if_exists=True
        )
        progress.step("trials of before", _finished(study))
        while waiting := _next_batch(study, plan, space, costs):
            _run_batch(study, waiting, space, costs, evaluate)
            progress.step(f"trial {_finished(study)}", len(waiting))
        return _trials(study, space, costs)


def _next_batch(study: optuna.Study, plan: Study, space: Space, costs: Costs) -> list[FrozenTrial]:
    """Trials that a killed run left behind, or new ones; a trial has its layout from the start."""
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in (trial for trial in left if LAYOUT not in trial.user_attrs):
        study.tell(trial.number, state=TrialState.FAIL)  # killed between asking and deciding
    whole = [trial.number for trial in left if LAYOUT in trial.user_attrs]
    asked = _finished(study) + len(whole)
    missing = -asked % BATCH if whole or asked % BATCH else BATCH  # a batch that was cut is asked to its end first
    for index in range(asked, min(asked + missing, plan.trials)):
        study.sampler = optuna.samplers.NSGAIISampler(population_size=BATCH, seed=plan.seed + index)
        whole.append(_ask(study, space, costs))
    known = study.get_trials(deepcopy=False)
    return [known[number] for number in whole]


def _ask(study: optuna.Study, space: Space, costs: Costs) -> int:
    trial = study.ask(PARAMETERS)
    trial.set_user_attr(LAYOUT, dump_layout(best_layout(space, costs, wish_of(trial.params, space, costs)).layout))
    return trial.number


def _finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _run_batch(
    study: optuna.Study, waiting: Sequence[FrozenTrial], space: Space, costs: Costs, evaluate: Evaluate | None
) -> None:
    layouts = [str(trial.user_attrs[LAYOUT]) for trial in waiting]
    found = {text: describe(space, costs, load_layout(text)) for text in layouts}
    klds = {text: one.predicted_kld for text, one in found.items()}
    if evaluate is not None:
        klds = _measured(study, found, evaluate)
    for trial, text in zip(waiting, layouts, strict=True):
        study.tell(trial.number, (klds[text], found[text].file_bytes, found[text].tokens_per_s))


def _measured(study: optuna.Study, found: Mapping[str, Found], evaluate: Evaluate) -> dict[str, float]:
    """Measured divergence by layout; one that was measured before is not measured again."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    known = {str(trial.user_attrs[LAYOUT]): trial.values[0] for trial in done}
    new = {text: one.layout for text, one in found.items() if text not in known}
    return known | (dict(zip(new, evaluate(list(new.values())), strict=True)) if new else {})


def wish_of(params: Mapping[str, Any], space: Space, costs: Costs) -> Wish:
    """What a trial's parameters ask of the knapsack; a share below what its own limits allow is raised to that."""
    pinned = dict.fromkeys((EMBEDDING, HEAD), space.backend.FINEST[8]) if params["tables"] == "int8" else None
    coarsest = int(params["coarsest_group"])
    small = space.file_bytes(smallest_layout(space, Wish(budget_bytes=0, pinned=pinned, coarsest_group=coarsest)))
    large = describe(space, costs, finest_layout(space))
    budget = small + int(params["budget_share"] * max(0, large.file_bytes - small))
    return Wish(
        budget_bytes=budget,
        nats_per_ms=params["time_weight"] * time_price(space, costs, budget),
        pinned=pinned,
        coarsest_group=coarsest,
    )


def time_price(space: Space, costs: Costs, budget_bytes: int) -> float:
    """Nats a millisecond at which a percent of decoding time is worth a percent of the best layout's divergence."""
    try:
        best = best_layout(space, costs, Wish(budget_bytes=budget_bytes))
    except BudgetError:
        return 0.0
    return best.predicted_kld * best.tokens_per_s / 1e3


def _trials(study: optuna.Study, space: Space, costs: Costs) -> list[Trial]:
    best = {trial.number for trial in study.best_trials}
    return [
        Trial(
            found=describe(space, costs, load_layout(trial.user_attrs[LAYOUT])),
            kld=trial.values[0],
            is_best=trial.number in best,
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ]


def study_name(*content: object) -> str:
    """A name for a study by everything that determines its figures."""
    return digest(content)[:32]


def dump_layout(layout: Layout) -> str:
    """A layout as JSON text."""
    return json.dumps({unit: [form.bits, form.group_size] for unit, form in layout.items()}, separators=(",", ":"))


def load_layout(text: str) -> dict[str, Format]:
    """The layout of such a text."""
    return {unit: Format(bits=bits, group_size=group) for unit, (bits, group) in json.loads(text).items()}

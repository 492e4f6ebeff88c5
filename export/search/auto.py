"""`--scheme auto`: a layout for each backend, found for this checkpoint, this text and this budget.

The export's method quantizes the model in each 4-bit format throughout; one Fisher pass prices what that made of every
matrix; the knapsack is solved at the budget, with and without 8-bit tables and with time at a small price; a study
looks around at other budgets. What fits is measured on text that was not priced on, and the best of it, uniform
layouts among them, is quantized as the export would and measured again. The best of those is taken: so never a worse
one than uniform, as far as that text can tell.
Everything is kept under the hash of all that determines it, so that an export that goes on finds the same layout.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from export import user_cache
from export.checkpoint import Checkpoint
from export.config import ModelConfig
from export.errors import BudgetError
from export.plan import Build, Plan, searched_space
from export.progress import Progress
from export.quantize_checkpoint import Job as Quantization
from export.quantize_checkpoint import Method, quantize_checkpoint
from export.quantized import QuantizedCheckpoint
from export.schemes import Format, Layout, layout
from export.search.evaluator import Evaluate, Job, evaluator, open_subject, traced
from export.search.final import quantized_klds
from export.search.layouts import TABLES, Found, Space, Wish, best_layout, describe, searched, uniform_layouts
from export.search.rounding import Made, one_format_each
from export.search.sensitivity import Costs, fisher_costs
from export.search.study import Study, Trial, dump_layout, load_layout, run_study, time_price
from export.sequence import some_sequences
from export.spec import digest
from export.text_files import TextFiles
from export.weights import units

VERSION = 4  # raise when the same inputs give other layouts
TRIALS = 24
SEQUENCE_TOKENS = 128
PRICED_TOKENS = 8192
PRICED_BYTES = 2 << 30  # what flows between blocks, of all of them: fewer tokens for large models
JUDGED_TOKENS = 2048
MEASURED_UP_TO = 200_000_000  # weights: trials of larger models are predicted, only what may be chosen is measured
FINALISTS = 2  # searched and uniform layouts each that the export's method quantizes
TIME_WEIGHT = 0.1  # ten percent of decoding time are worth one percent of divergence
SEED = 0
BESIDE_BYTES_PER_TOKEN = 16  # four rows of logits in the reference
BESIDE_BYTES = 300_000


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search reads beside the plan; `tokens` (N, T) is the calibration."""

    checkpoint: Path
    checkpoint_hash: str
    tokens: Tensor
    tokens_hash: str
    text: TextFiles
    method: Method

    def quantize(self, config: ModelConfig, layout: Layout, progress: Progress) -> QuantizedCheckpoint:
        """A layout as the export will quantize it; what was made before is found again."""
        wanted = Quantization(
            checkpoint=Checkpoint.open(self.checkpoint),
            checkpoint_hash=self.checkpoint_hash,
            config=config,
            layout=layout,
            method=self.method,
            tokens=self.tokens if self.method.needs_calibration else None,
        )
        return quantize_checkpoint(wanted, user_cache.directory("quantized"), progress.step)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The layout that was taken, and what is known of it; `pareto` are the study's unbeaten trials."""

    found: Found
    name: str
    budget_bytes: int
    measured_kld: float
    uniform_name: str
    uniform_kld: float
    pareto: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """What a manifest says of the search; divergence in nats a token, on the calibration text."""
        return {
            "chosen": self.name,
            "budget_bytes": self.budget_bytes,
            "bytes_at_most": self.found.file_bytes,
            "predicted_kld": self.found.predicted_kld,
            "measured_kld": self.measured_kld,
            "predicted_tokens_per_s": self.found.tokens_per_s,
            "best_uniform": self.uniform_name,
            "best_uniform_kld": self.uniform_kld,
            "pareto": list(self.pareto),
        }


def choose_layouts(plan: Plan, search: Search, progress: Progress) -> Plan:
    """The plan with a layout for each of its builds."""
    return replace(plan, builds=tuple(_chosen(plan, build, search, progress) for build in plan.builds))


def _chosen(plan: Plan, build: Build, search: Search, progress: Progress) -> Build:
    space = searched_space(plan.config, build.module, plan.spec)
    budget = room_bytes(plan, search.text)[build.backend]
    kept = user_cache.directory("search") / f"{_key(space, search, budget)}.json"
    content = _read(kept)
    if content is None:
        choice = _search(plan, build, space, search, budget, progress)
        content = {"layout": dump_layout(choice.found.layout), "search": choice.to_dict()}
        user_cache.write_atomically(kept, json.dumps(content).encode())
    found = load_layout(content["layout"])
    progress.end()
    _report(build.backend, content["search"], progress)
    model_bytes = build.module.estimate_bytes(found, plan.config, plan.spec.context_length)
    return replace(build, layout=found, model_bytes=model_bytes, search=content["search"])


def room_bytes(plan: Plan, text: TextFiles) -> dict[str, int]:
    """What the model files of each backend may take: of the budget, in proportion to what each takes by default."""
    spec, config = plan.spec, plan.config
    usual: dict[str, int] = {}
    for build in plan.builds:
        formats = layout(plan.scheme, config, build.module.FINEST)
        usual[build.backend] = build.module.estimate_bytes(formats, config, spec.context_length)
    if spec.budget_bytes is None:
        return usual
    room = spec.budget_bytes - len(usual) * _beside_bytes(text, config.vocab_size)
    total = sum(usual.values())
    return {backend: max(0, room) * count // total for backend, count in usual.items()}


def _beside_bytes(text: TextFiles, vocab_size: int) -> int:
    """At most what an artifact holds beside its model files."""
    files = sum((text.directory / str(name)).stat().st_size for name in text.content()["files"])
    return files + len((text.chat_template or "").encode()) + vocab_size * BESIDE_BYTES_PER_TOKEN + BESIDE_BYTES


def _key(space: Space, search: Search, budget_bytes: int) -> str:
    """Everything that determines a choice; a study has no budget."""
    speed = repr(space.backend.SPEED)
    return digest([VERSION, _costs_key(space, search), budget_bytes, space.context_length, speed])


def _costs_key(space: Space, search: Search) -> str:
    forms = {unit: [str(form) for form in known] for unit, known in space.candidates.items()}
    ties, packing = [list(tie) for tie in space.backend.TIED], repr(space.backend.PACKING)
    method = [search.method.name, search.method.version]
    return digest([VERSION, search.checkpoint_hash, search.tokens_hash, forms, ties, packing, method, SEED])


def _search(plan: Plan, build: Build, space: Space, search: Search, budget_bytes: int, progress: Progress) -> Choice:
    job, costs = priced(build.backend, space, search, progress)
    wanted = _candidates(space, costs, budget_bytes)
    judge = evaluator(plan.spec.workers, job)
    trials = _trials(build.backend, space, costs, search, judge, progress)
    progress.stage(f"{build.backend}: measure {len(wanted)} layouts")
    klds = dict(zip(wanted, judge(list(wanted.values())), strict=True))
    if _measures_trials(space):
        for index, trial in enumerate(trials):
            wanted[f"trial {index}"], klds[f"trial {index}"] = trial.found.layout, trial.kld
    fitting = {name: describe(space, costs, one) for name, one in wanted.items()}
    fitting = {name: found for name, found in fitting.items() if found.file_bytes <= budget_bytes}
    last = finalists(fitting, klds)
    progress.stage(f"{build.backend}: quantize {len(last)} layouts ({search.method.name})")
    layouts = [found.layout for found in last.values()]
    quantize = partial(search.quantize, plan.config, progress=progress)
    measured = quantized_klds(job, quantize, layouts, progress.step)
    return _choose(last, dict(zip(last, measured, strict=True)), budget_bytes, trials)


def priced(backend: str, space: Space, search: Search, progress: Progress) -> tuple[Job, Costs]:
    """What layouts are judged on, and the price of every format of every matrix; no text is in both."""
    ours, judged = split_tokens(search.tokens)
    ours = some_sequences(ours, PRICED_BYTES // (4 * space.config.hidden_size * space.config.num_layers))
    made = _made(backend, space, search, progress)
    job = Job(checkpoint=search.checkpoint, config=space.config, tokens=judged, method=search.method.name, made=made)
    return job, _costs(backend, space, search, replace(job, tokens=ours), progress)


def finalists(fitting: Mapping[str, Found], klds: Mapping[str, float]) -> dict[str, Found]:
    """The best searched layouts and the best uniform ones, by what the rounding for pricing says."""
    ranked = sorted(fitting, key=lambda name: (klds[name], name))
    kept: dict[str, Found] = {}
    for is_uniform in (False, True):
        own = [name for name in ranked if name.startswith(UNIFORM) is is_uniform]
        for name in own:
            if sum(one.startswith(UNIFORM) is is_uniform for one in kept) < FINALISTS and all(
                fitting[name].layout != one.layout for one in kept.values()
            ):
                kept[name] = fitting[name]
    return kept


def _choose(fitting: dict[str, Found], klds: dict[str, float], budget_bytes: int, trials: Sequence[Trial]) -> Choice:
    """The best of what fits, its speed counted a little; nothing that diverges more than a uniform layout does."""
    uniform = [name for name in fitting if name.startswith(UNIFORM)]
    best_uniform = min(uniform, key=lambda name: klds[name], default="none")
    limit = klds.get(best_uniform, math.inf)
    allowed = [name for name in fitting if klds[name] <= limit]

    def score(name: str) -> tuple[float, str]:
        return math.log(max(klds[name], 1e-12)) - TIME_WEIGHT * math.log(fitting[name].tokens_per_s), name

    name = min(allowed, key=score)
    return Choice(
        found=fitting[name],
        name=name,
        budget_bytes=budget_bytes,
        measured_kld=klds[name],
        uniform_name=best_uniform,
        uniform_kld=limit if math.isfinite(limit) else klds[name],
        pareto=_pareto(trials),
    )


UNIFORM = "uniform "


def _candidates(space: Space, costs: Costs, budget_bytes: int) -> dict[str, Layout]:
    """What may be chosen at the budget, by name."""
    pins = dict.fromkeys(TABLES, space.backend.FINEST[8])
    price = TIME_WEIGHT * time_price(space, costs, budget_bytes)
    wishes = {
        "searched": Wish(budget_bytes=budget_bytes),
        "searched, time priced": Wish(budget_bytes=budget_bytes, nats_per_ms=price),
        "searched, int8 tables": Wish(budget_bytes=budget_bytes, pinned=pins),
    }
    found: dict[str, Layout] = {}
    for name, wish in wishes.items():
        try:
            found[name] = best_layout(space, costs, wish).layout
        except BudgetError:
            if wish.pinned is None:
                raise
    uniform = {f"{UNIFORM}{name}": one for name, one in uniform_layouts(space).items()}
    return found | {name: one for name, one in uniform.items() if space.file_bytes(one) <= budget_bytes}


def _made(backend: str, space: Space, search: Search, progress: Progress) -> dict[Format, Made]:
    """The model in each 4-bit format; a method that needs no text rounds single matrices as it rounds a model."""
    if not search.method.needs_calibration:
        return {}
    layouts = one_format_each(space)
    progress.stage(f"{backend}: quantize {len(layouts)} formats ({search.method.name})")
    made = {form: search.quantize(space.config, one, progress) for form, one in layouts.items()}
    return {form: Made(directory=store.path, layout=layouts[form]) for form, store in made.items()}


def _costs(backend: str, space: Space, search: Search, job: Job, progress: Progress) -> Costs:
    """The price of every format of every matrix, made once for a checkpoint, a text and a method."""
    kept = user_cache.directory("search") / f"{_costs_key(space, search)}.costs.json"
    content = _read(kept)
    if content is None:
        progress.stage(f"{backend}: price formats", 2 * job.tokens.numel() * space.config.num_layers, "token")
        subject = open_subject(job)
        seen = traced(subject, job.tokens, progress.step)
        found = fisher_costs(subject, seen, searched(space.candidates), SEED, progress.step)
        content = {
            unit: [[form.bits, form.group_size, cost] for form, cost in own.items()] for unit, own in found.items()
        }
        user_cache.write_atomically(kept, json.dumps(content).encode())
    return {
        unit: {Format(bits=bits, group_size=group): cost for bits, group, cost in own} for unit, own in content.items()
    }


def _trials(
    backend: str, space: Space, costs: Costs, search: Search, judge: Evaluate, progress: Progress
) -> list[Trial]:
    progress.stage(f"{backend}: study", TRIALS, "trial")
    study = Study(
        storage=user_cache.directory("search") / "studies.db",
        name=_key(space, search, 0),
        trials=TRIALS,
        seed=SEED,
    )
    return run_study(study, space, costs, judge if _measures_trials(space) else None, progress)


def _measures_trials(space: Space) -> bool:
    return sum(unit.num_weights for unit in units(space.config)) <= MEASURED_UP_TO


def split_tokens(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Short sequences to price on and others to judge on, from all over the calibration text."""
    rows = tokens.flatten()[: tokens.numel() // SEQUENCE_TOKENS * SEQUENCE_TOKENS].view(-1, SEQUENCE_TOKENS)
    judged = some_sequences(rows[3::4], JUDGED_TOKENS)
    rest = [index for index in range(len(rows)) if index % 4 != 3]
    return some_sequences(rows[rest], PRICED_TOKENS), judged


def _pareto(trials: Iterable[Trial]) -> tuple[dict[str, Any], ...]:
    rows = {
        (trial.found.file_bytes, trial.kld): {
            "bytes_at_most": trial.found.file_bytes,
            "kld": trial.kld,
            "predicted_tokens_per_s": trial.found.tokens_per_s,
        }
        for trial in trials
        if trial.is_best
    }
    return tuple(rows[place] for place in sorted(rows))


def _report(backend: str, search: dict[str, Any], progress: Progress) -> None:
    progress.note(
        f"{backend}: {search['chosen']} of at most {search['bytes_at_most']:,} bytes: divergence "
        f"{search['predicted_kld']:.4f} predicted, {search['measured_kld']:.4f} measured, "
        f"{search['best_uniform_kld']:.4f} of {search['best_uniform']} (nats a token, calibration text)"
    )
    for row in search["pareto"]:
        progress.note(
            f"{backend}: also unbeaten: {row['bytes_at_most']:>13,} bytes, {row['kld']:.4f} nats, about "
            f"{row['predicted_tokens_per_s']:.1f} tokens/s"
        )


def _read(kept: Path) -> Any:
    """What was kept, or None; a damaged record is made again."""
    try:
        return json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

"""What an export will do, worked out from names and the config alone: every contradiction dies here, in milliseconds."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from export import catalog
from export.config import ModelConfig, parse_config, read_config
from export.errors import BudgetError, SpecError, UnknownNameError
from export.schemes import Layout, Scheme, layout
from export.sources import RANDOM, ModelEntry, model_names, read_model_entry, source_names
from export.spec import DEFAULT_MODEL, ExportSpec

CUSTOM = "custom"
TEXT_FILES_BYTES = 25_000_000  # tokenizer, template, reference: what an artifact holds beside its model, at most


@dataclass(frozen=True, kw_only=True)
class Build:
    """One artifact to make: a backend and the format of every matrix in it."""

    backend: str
    module: ModuleType
    layout: Layout
    model_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All artifacts of one export."""

    spec: ExportSpec
    entry: ModelEntry
    model: str
    config: ModelConfig
    scheme: Scheme
    method: ModuleType
    threads: int
    builds: tuple[Build, ...]

    @property
    def total_bytes(self) -> int:
        return sum(build.model_bytes for build in self.builds)


def make_plan(spec: ExportSpec) -> Plan:
    """Check the spec against the catalog and the model's dimensions; reads no weight and no network."""
    target = catalog.load("targets", spec.target)
    method = catalog.load("quantize", spec.method)
    scheme: Scheme = catalog.load("schemes", spec.scheme).SCHEME.with_group_size(spec.group_size)
    if spec.source not in source_names():
        raise UnknownNameError("source", spec.source, source_names())
    entry, config, model = _model(spec)
    if spec.context_length > config.max_position_embeddings:
        raise SpecError(
            f"--context-length {spec.context_length} exceeds the {config.max_position_embeddings} positions of {model}; ask for less"
        )
    builds = tuple(_build(name, target, scheme, config) for name in spec.backends or target.BACKENDS)
    plan = Plan(
        spec=spec,
        entry=entry,
        model=model,
        config=config,
        scheme=scheme,
        method=method,
        threads=target.THREADS,
        builds=builds,
    )
    _check_budget(plan)
    return plan


def format_counts(layout: Layout) -> dict[str, int]:
    """How many matrices are held in each format."""
    return dict(Counter(str(form) for form in layout.values()))


def _model(spec: ExportSpec) -> tuple[ModelEntry, ModelConfig, str]:
    """The catalog entry, the dimensions, and the name under which the artifact goes."""
    local = spec.checkpoint if spec.checkpoint not in (None, RANDOM) else None
    if local is None:
        entry = read_model_entry(spec.model or DEFAULT_MODEL)
        return entry, _entry_config(entry), entry.name
    config = parse_config(read_config(Path(local)), f"{local}/config.json")
    entry = read_model_entry(spec.model) if spec.model else _entry_of(config)
    same = _dimensions(_entry_config(entry)) == _dimensions(config)
    return entry, config, entry.name if same else CUSTOM


def _entry_of(config: ModelConfig) -> ModelEntry:
    """The catalog's model of these dimensions, or the default's entry for a size of its own."""
    entries = [read_model_entry(name) for name in model_names()]
    matching = [entry for entry in entries if _dimensions(_entry_config(entry)) == _dimensions(config)]
    return matching[0] if matching else read_model_entry(DEFAULT_MODEL)


def _dimensions(config: ModelConfig) -> tuple[object, ...]:
    return (
        config.hidden_size,
        config.intermediate_size,
        config.layer_types,
        config.vocab_size,
        config.linear_num_value_heads,
    )


def _entry_config(entry: ModelEntry) -> ModelConfig:
    if entry.config is not None:
        return parse_config(entry.config, entry.name)
    assert entry.path is not None
    return parse_config(read_config(entry.path), entry.name)


def _build(name: str, target: ModuleType, scheme: Scheme, config: ModelConfig) -> Build:
    allowed = (*target.BACKENDS, *target.OPTIONAL_BACKENDS)
    module = catalog.load("backends", name)
    if name not in allowed:
        raise SpecError(f"backend {name!r} is not built for this target; it builds {', '.join(allowed)}")
    formats = layout(scheme, config)
    module.check(formats, config)
    return Build(backend=name, module=module, layout=formats, model_bytes=module.estimate_bytes(formats, config))


def _check_budget(plan: Plan) -> None:
    budget = plan.spec.budget_bytes
    if budget is None or plan.total_bytes + TEXT_FILES_BYTES * len(plan.builds) <= budget:
        return
    fitting = _best_fitting(plan, budget)
    advice = f"--scheme {fitting} would fit" if fitting else "no scheme fits; build fewer backends, or a smaller model"
    raise BudgetError(
        f"--budget {budget} bytes: {plan.model} as {plan.spec.scheme} for {', '.join(build.backend for build in plan.builds)} "
        f"takes about {plan.total_bytes} bytes of weights and up to {TEXT_FILES_BYTES * len(plan.builds)} beside them; {advice}"
    )


def _best_fitting(plan: Plan, budget: int) -> str | None:
    """The largest scheme (and so the most faithful) whose weights fit the budget."""
    sizes: dict[str, int] = {}
    for name in catalog.names("schemes"):
        formats = layout(catalog.load("schemes", name).SCHEME, plan.config)
        sizes[name] = sum(build.module.estimate_bytes(formats, plan.config) for build in plan.builds)
    room = budget - TEXT_FILES_BYTES * len(plan.builds)
    fitting = [name for name in sorted(sizes, key=lambda name: sizes[name]) if sizes[name] <= room]
    return fitting[-1] if fitting else None

"""What an export will do, worked out from names and the config alone: contradictions die here, in milliseconds."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from export import catalog
from export.calibration.files import read_documents
from export.checkpoint import CheckpointNotFoundError
from export.config import ModelConfig, parse_config, read_config
from export.errors import BudgetError, QuantizationError, SpecError, UnknownNameError, UnsupportedSchemeError
from export.finetune.recovered import check_formats, is_on_grid
from export.quantize_checkpoint import Method, load_method
from export.schemes import Format, Layout, Scheme, layout
from export.search.evaluator import LOCAL, check_workers
from export.search.layouts import Space, smallest_layout
from export.sources import RANDOM, ModelEntry, check_same_model, model_names, read_model_entry, resolve, source_names
from export.spec import (
    DEFAULT_METHOD,
    DEFAULT_MODALITY,
    DEFAULT_MODEL,
    PLAIN_METHOD,
    RECOVERED_METHOD,
    STATIC_METHOD,
    TABLE_METHOD,
    ExportSpec,
)
from export.vision.config import VisionConfig, parse_vision_config
from export.vision.request import tower_bytes, tower_format

CUSTOM = "custom"
# what an artifact holds beside its weights: a tokenizer, four rows of logits, and the rest
TOKENIZER_BYTES_PER_TOKEN = 80
REFERENCE_BYTES_PER_TOKEN = 16
OTHER_BYTES = 300_000


@dataclass(frozen=True, kw_only=True)
class Build:
    """One artifact to make: a backend and the format of every matrix in it."""

    backend: str
    module: ModuleType
    layout: Layout
    model_bytes: int
    search: Mapping[str, Any] | None = None  # how the layout was found, where it was


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All artifacts of one export."""

    spec: ExportSpec
    entry: ModelEntry
    model: str
    config: ModelConfig
    scheme: Scheme
    method: Method
    threads: int
    builds: tuple[Build, ...]
    vision: VisionConfig | None = None  # with --modality image

    @property
    def needs_calibration(self) -> bool:
        """Whether the method, or the scheme's own scales, are learned from text."""
        return self.method.needs_calibration or self.scheme.needs_calibration

    @property
    def beside_bytes(self) -> int:
        """About what one artifact holds beside its weights."""
        return self.config.vocab_size * (TOKENIZER_BYTES_PER_TOKEN + REFERENCE_BYTES_PER_TOKEN) + OTHER_BYTES

    @property
    def total_bytes(self) -> int:
        """About what the bundle will take."""
        return sum(build.model_bytes + self.beside_bytes for build in self.builds)


def make_plan(spec: ExportSpec) -> Plan:
    """Check the spec against the catalog and the model's dimensions; no weight is read, no network asked."""
    target = catalog.load("targets", spec.target)
    scheme = _scheme(spec)
    method = load_method(chosen_method(spec, scheme))
    _check_calibration(spec, method, scheme)
    _check_workers(spec, scheme)
    if spec.source not in source_names():
        raise UnknownNameError("source", spec.source, source_names())
    entry, config, model = _model(spec)
    vision = _vision(spec, entry, config)
    if spec.context_length > config.max_position_embeddings:
        raise SpecError(
            f"--context-length {spec.context_length} exceeds the {config.max_position_embeddings} positions of "
            f"{model}; "
            "ask for less"
        )
    builds = tuple(
        _with_vision(_build(name, target, scheme, config, spec), scheme, vision)
        for name in spec.backends or target.BACKENDS
    )
    plan = Plan(
        spec=spec,
        entry=entry,
        model=model,
        config=config,
        scheme=scheme,
        method=method,
        threads=target.THREADS,
        builds=builds,
        vision=vision,
    )
    _check_budget(plan)
    if method.name == RECOVERED_METHOD:
        _check_recovered(spec, scheme, builds)
    return plan


def chosen_method(spec: ExportSpec, scheme: Scheme) -> str:
    """The method that was asked for, or the default for these formats and weights."""
    if spec.method is not None:
        return spec.method
    if scheme.activations == "int8_static":
        return PLAIN_METHOD if spec.checkpoint == RANDOM else STATIC_METHOD
    if any(rule.format.table_rows for rule in scheme.rules if isinstance(rule.format, Format)):
        return TABLE_METHOD
    local = spec.checkpoint is not None and spec.checkpoint != RANDOM
    if local and not scheme.is_searched and is_on_grid(Path(str(spec.checkpoint))):
        return RECOVERED_METHOD
    has_int4 = scheme.is_searched or any(rule.format.bits == 4 for rule in scheme.rules)
    wants_data = has_int4 and spec.checkpoint != RANDOM
    return DEFAULT_METHOD if wants_data or spec.calibration is not None else PLAIN_METHOD


def format_counts(layout: Layout) -> dict[str, int]:
    """How many matrices are held in each format."""
    return dict(Counter(str(form) for form in layout.values()))


def _check_recovered(spec: ExportSpec, scheme: Scheme, builds: tuple[Build, ...]) -> None:
    if scheme.is_searched:
        raise SpecError(
            f"--method {RECOVERED_METHOD} reads back the formats of a training, and --scheme {spec.scheme} tries "
            "others; leave one of them out"
        )
    for build in builds:
        check_formats(Path(spec.checkpoint or spec.model or ""), build.layout)


def _check_workers(spec: ExportSpec, scheme: Scheme) -> None:
    check_workers(spec.workers)
    if spec.workers != LOCAL and not scheme.is_searched:
        raise SpecError(
            f"--workers {spec.workers} changes nothing in --scheme {spec.scheme}, which tries nothing out; leave it "
            "out, or use --scheme auto"
        )


def _check_calibration(spec: ExportSpec, method: Method, scheme: Scheme) -> None:
    if spec.calibration is None:
        return
    if not method.needs_calibration and not scheme.is_searched and not scheme.needs_calibration:
        raise SpecError(
            f"--calibration {spec.calibration} changes nothing with --method {method.name}, which learns from no text; "
            "leave one of them out"
        )
    read_documents(spec.calibration)


def _scheme(spec: ExportSpec) -> Scheme:
    named: Scheme = catalog.load("schemes", spec.scheme).SCHEME
    scheme = named.with_group_size(spec.group_size)
    if spec.group_size is not None and all(rule.format.bits != 4 for rule in named.rules):
        raise SpecError(
            f"--group-size {spec.group_size} changes nothing in --scheme {spec.scheme}, which has no 4-bit weights; "
            "leave "
            "one of them out"
        )
    return scheme


def _model(spec: ExportSpec) -> tuple[ModelEntry, ModelConfig, str]:
    """The catalog entry, the dimensions, and the name under which the artifact goes."""
    if spec.checkpoint is None or spec.checkpoint == RANDOM:
        entry = read_model_entry(spec.model or DEFAULT_MODEL)
        return entry, _entry_config(entry), entry.name
    if not Path(spec.checkpoint).is_dir():
        raise CheckpointNotFoundError(
            f"--checkpoint {spec.checkpoint}: no such directory; give the one that holds config.json, 'random', or a "
            "model of a hub with --model"
        )
    config = parse_config(read_config(Path(spec.checkpoint)), f"{spec.checkpoint}/config.json")
    entry = read_model_entry(spec.model) if spec.model else _entry_of(config)
    if spec.model:
        check_same_model(entry, resolve(entry, spec.checkpoint))
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
    return parse_config(_raw_config(entry), entry.name)


def _raw_config(entry: ModelEntry) -> Mapping[str, Any]:
    if entry.config is not None:
        return entry.config
    assert entry.path is not None
    return read_config(entry.path)


def _build(name: str, target: ModuleType, scheme: Scheme, config: ModelConfig, spec: ExportSpec) -> Build:
    allowed = (*target.BACKENDS, *target.OPTIONAL_BACKENDS)
    module = catalog.load("backends", name)
    if name not in allowed:
        raise SpecError(
            f"backend {name!r} is not built for this target; it builds {', '.join(allowed)}, so name one of these"
        )
    _check_activations(name, module, scheme, spec)
    formats = layout(scheme, config, module.FINEST)
    _check_tables(name, module, formats)
    if scheme.is_searched and spec.budget_bytes is not None:
        formats = smallest_layout(searched_space(config, module, spec))
    module.check(formats, config)
    model_bytes = module.estimate_bytes(formats, config, spec.context_length)
    return Build(backend=name, module=module, layout=formats, model_bytes=model_bytes)


def _vision(spec: ExportSpec, entry: ModelEntry, config: ModelConfig) -> VisionConfig | None:
    """The vision tower's dimensions where one is asked for."""
    if spec.modality == DEFAULT_MODALITY:
        return None
    raw = _raw_config(entry) if spec.checkpoint in (None, RANDOM) else read_config(Path(spec.checkpoint or ""))
    return parse_vision_config(raw, config, entry.name if spec.checkpoint is None else f"{spec.checkpoint}/config.json")


def _with_vision(build: Build, scheme: Scheme, vision: VisionConfig | None) -> Build:
    """The build with the tower's bytes counted; a backend that holds no tower is refused."""
    if vision is None:
        return build
    if "image" not in getattr(build.module, "MODALITIES", ()):
        raise UnsupportedSchemeError(
            f"{build.backend} holds no vision tower yet (--modality image); add --backend onnx, which does, or leave "
            "--modality out"
        )
    return replace(build, model_bytes=build.model_bytes + tower_bytes(vision, tower_format(scheme)))


def _check_activations(name: str, module: ModuleType, scheme: Scheme, spec: ExportSpec) -> None:
    if scheme.activations not in module.ACTIVATION_KINDS:
        raise UnsupportedSchemeError(
            f"{name} cannot multiply quantized weights with {scheme.activations} activations (scheme {spec.scheme!r}); "
            f"it does {', '.join(module.ACTIVATION_KINDS)}, so use another scheme, or --backend for one that can"
        )
    if scheme.cache not in getattr(module, "CACHE_KINDS", ("float",)):
        raise UnsupportedSchemeError(
            f"{name} cannot keep keys and values as {scheme.cache} (scheme {spec.scheme!r}); use a scheme with a float "
            "cache, or --backend onnx, which can"
        )


def _check_tables(name: str, module: ModuleType, formats: Layout) -> None:
    tables = [unit for unit, form in formats.items() if form.table_rows is not None]
    if tables and not getattr(module, "HOLDS_TABLES", False):
        raise UnsupportedSchemeError(
            f"{name} cannot pack {tables[0]} as {formats[tables[0]]}: it holds no tables of values; use the scheme "
            "int4, int8 or mixed, or --backend coreml"
        )


def searched_space(config: ModelConfig, backend: ModuleType, spec: ExportSpec) -> Space:
    """What a search may choose from."""
    return Space(config=config, backend=backend, context_length=spec.context_length)


def _check_budget(plan: Plan) -> None:
    budget = plan.spec.budget_bytes
    if budget is None or plan.total_bytes <= budget:
        return
    beside_bytes = plan.beside_bytes * len(plan.builds)
    fitting = _best_fitting(plan, budget - beside_bytes)
    advice = f"--scheme {fitting} would fit" if fitting else "no scheme fits; build fewer backends, or a smaller model"
    raise BudgetError(
        f"--budget {budget} bytes: {plan.model} as {plan.spec.scheme} for "
        f"{', '.join(build.backend for build in plan.builds)} takes about {plan.total_bytes - beside_bytes} bytes of "
        f"weights and {beside_bytes} beside them; {advice}"
    )


def _best_fitting(plan: Plan, room_bytes: int) -> str | None:
    """The largest scheme (and so the most faithful) whose weights fit."""
    sizes = {name: _scheme_bytes(plan, name) for name in catalog.names("schemes")}
    fitting = {name: count for name, count in sizes.items() if count is not None and count <= room_bytes}
    return max(fitting, key=lambda name: fitting[name]) if fitting else None


def _scheme_bytes(plan: Plan, name: str) -> int | None:
    """The weights of all builds in another scheme; None where a matrix or a backend does not take it."""
    scheme, total = catalog.load("schemes", name).SCHEME, 0
    try:
        for build in plan.builds:
            _check_activations(build.backend, build.module, scheme, plan.spec)
            formats = layout(scheme, plan.config, build.module.FINEST)
            _check_tables(build.backend, build.module, formats)
            build.module.check(formats, plan.config)
            total += build.module.estimate_bytes(formats, plan.config, plan.spec.context_length)
    except (QuantizationError, UnsupportedSchemeError):
        return None
    return total

"""Quantize a checkpoint block after block, each on what the quantized blocks before it really put out.

Methods that need no data see one block at a time and nothing flows. Methods that need data run two streams of hidden
states over all calibration tokens: through the float blocks, and through the blocks as they are on disk, so that a
resumed run goes on with exactly what the killed one would have had. In memory: one block twice (float and dequantized),
the streams, what the method needs; the embedding and the head some rows at a time.

The real stream starts from float embeddings: their own error is small at 8 bits, and layers that knew of it could not
be shared by backends that hold tables differently.

A method that asks for gradients gets curvature from the float model (export/curvature.py), made once for a checkpoint
and a text and kept beside the blocks: other layouts read it too.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from export import catalog
from export.blocks import BlockResult, BlockTask, CurvatureSource, QuantizeBlock, QuantizeTable, Statistics
from export.calibration import tokens_hash
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointBlock, CheckpointModel, FloatWeights, block_units
from export.config import ModelConfig
from export.curvature import Sizes, make_curvature
from export.errors import QuantizationError
from export.quantize import Codes
from export.quantized import (
    QuantizedCheckpoint,
    Store,
    StoreKey,
    members_of,
    open_quantized,
    stored_codes,
    stored_factors,
)
from export.schemes import Format, Layout
from export.sequence import run_block, some_sequences
from export.weights import Unit, plain_tensors, units

ROWS_AT_ONCE = 4096
FLOWS = "flows"  # beside the quantized checkpoints
FLOW_VERSION = 2  # raise when gradients or moments of the same text come out otherwise: codes are made anew
SHARED_MODULE = re.compile(r"^from export\.quantize\.(\w+) import", re.MULTILINE)

Progress = Callable[[str, int], None]  # block name, bytes of checkpoint it was made from


@dataclass(frozen=True, kw_only=True)
class Method:
    """A quantization method as the driver calls it: see export/quantize/__init__.py."""

    name: str
    version: str
    needs_calibration: bool
    needs_float_inputs: bool
    needs_gradients: bool
    table_needs_gram: bool
    real_tokens: int | None
    quantize_block: QuantizeBlock
    quantize_table: QuantizeTable


@dataclass(frozen=True, kw_only=True)
class Job:
    """A checkpoint to quantize; `tokens` int64 (N, T) is what a method that needs data learns from."""

    checkpoint: Checkpoint
    checkpoint_hash: str
    config: ModelConfig
    layout: Layout
    method: Method
    tokens: Tensor | None = None

    @property
    def key(self) -> StoreKey:
        return StoreKey(
            checkpoint_hash=self.checkpoint_hash,
            layout=self.layout,
            method=self.method.name,
            method_version=self.method.version,
            calibration_hash="" if self.tokens is None else tokens_hash(self.tokens),
        )


def load_method(name: str) -> Method:
    """The method of that name."""
    module = catalog.load("quantize", name)
    needs_gradients = getattr(module, "NEEDS_GRADIENTS", False)
    version = _source_hash(module)
    return Method(
        name=name,
        version=f"{version}-{FLOW_VERSION}" if needs_gradients else version,
        needs_calibration=module.NEEDS_CALIBRATION,
        needs_float_inputs=module.NEEDS_CALIBRATION and getattr(module, "NEEDS_FLOAT_INPUTS", True),
        needs_gradients=needs_gradients,
        table_needs_gram=getattr(module, "TABLE_NEEDS_GRAM", False),
        real_tokens=getattr(module, "REAL_TOKENS", None),
        quantize_block=module.quantize_block,
        quantize_table=module.quantize_table,
    )


def quantize_checkpoint(job: Job, root: Path, progress: Progress) -> QuantizedCheckpoint:
    """Make the blocks that are not in `root` yet and return the whole."""
    if job.method.needs_calibration and job.tokens is None:
        raise QuantizationError(f"method {job.method.name!r} learns from text, and none was given")
    store = Store(root=root, key=job.key, config=job.config)
    store.prepare()
    model = CheckpointModel(weights=FloatWeights(checkpoint=job.checkpoint, config=job.config))
    streams = None if job.tokens is None else Streams(model, store, job.method, job.tokens)
    missing = [name for name in model.block_names if not store.has(name)]
    curvature = _curvature(job, model, root / FLOWS, progress) if job.method.needs_gradients and missing else None
    for block in members_of(job.config):
        if not store.has(block):
            store.put(block, _make_block(job, model, block, streams, curvature, progress))
        store.link(block)
        progress(block, _bytes(job, block))
    return open_quantized(store.directory, job.config, job.layout)


def curvature_sizes(config: ModelConfig, num_tokens: int) -> Sizes:
    """What a text's curvature takes on disk."""
    return Sizes(
        shapes=[(unit.out_features, unit.in_features) for unit in units(config) if unit.name.startswith("layers.")],
        num_blocks=config.num_layers,
        hidden_size=config.hidden_size,
        num_tokens=num_tokens,
    )


def _curvature(job: Job, model: CheckpointModel, parent: Path, progress: Progress) -> CurvatureSource:
    """The float model's curvature over the job's tokens."""
    assert job.tokens is not None
    key = json.dumps([FLOW_VERSION, job.checkpoint_hash, tokens_hash(job.tokens)])
    directory = parent / hashlib.sha256(key.encode()).hexdigest()[:32]
    sizes = curvature_sizes(job.config, job.tokens.numel())
    return make_curvature(model, lambda: model.weights.weight(model.head_unit), job.tokens, sizes, directory, progress)


class Streams:
    """What flows into a block: from the float model, and from the blocks in a store; moves forward when asked."""

    def __init__(self, model: CheckpointModel, store: Store, method: Method, tokens: Tensor) -> None:
        self._model, self._store, self._tokens = model, store, some_sequences(tokens, method.real_tokens)
        self._with_float = method.needs_float_inputs
        self._next = -1  # the block in front of which we are
        self._float: Tensor | None = None
        self._real: Tensor | None = None

    def before(self, block: str, progress: Progress) -> tuple[Tensor | None, Tensor]:
        """Hidden states (N, T, C) float and real, in front of a layer that is not behind us."""
        return self._move(list(self._model.block_names).index(block), progress)

    def behind(self, progress: Progress) -> Tensor:
        """What the head reads (N, T, C), real."""
        return self._model.finish(self._move(len(self._model.block_names), progress)[1])

    def _move(self, target: int, progress: Progress) -> tuple[Tensor | None, Tensor]:
        if self._real is None:
            self._real = self._model.embed(self._tokens)
            self._float = self._real if self._with_float else None
            self._next = 0
        while self._next < target:
            name = self._model.block_names[self._next]
            progress(f"{name}: run {self._tokens.numel()} tokens", 0)
            self._real = self._advance(self._model.block(name), self._real)
            self._next += 1
        return self._float, self._real

    def _advance(self, block: CheckpointBlock, real: Tensor) -> Tensor:
        if self._float is not None:
            self._float = run_block(block, self._float, None)
        return run_block(block, real, self._store.tensors(block.name))


def _make_block(
    job: Job,
    model: CheckpointModel,
    block: str,
    streams: Streams | None,
    curvature: CurvatureSource | None,
    progress: Progress,
) -> dict[str, Tensor]:
    """The tensors of a block's file."""
    if block.startswith("layers."):
        float_inputs, real_inputs = (None, None) if streams is None else streams.before(block, progress)
        task = BlockTask(
            block=model.block(block),
            formats={unit.name: job.layout[unit.name] for unit in block_units(job.config, block)},
            float_inputs=float_inputs,
            real_inputs=real_inputs,
            curvature=curvature,
        )
        return _layer(job, task)
    statistics = None
    if streams is not None and block == model.head_unit:
        statistics = head_statistics(streams.behind(progress), gram=job.method.table_needs_gram)
    return {
        stored: tensor
        for name in members_of(job.config)[block]
        for stored, tensor in (_outer(job, name, statistics)).items()
    }


def _layer(job: Job, task: BlockTask) -> dict[str, Tensor]:
    found = job.method.quantize_block(task)
    _check_result(job.method, task, found)
    tensors: dict[str, Tensor] = {}
    for name in members_of(job.config)[task.block.name]:
        if name in found.codes:
            tensors |= stored_codes(name, task.formats[name], found.codes[name])
            tensors |= stored_factors(name, found.rows.get(name), found.columns.get(name))
        else:
            tensors[stored_name(job, name)] = (
                found.floats[name].contiguous() if name in found.floats else _read(job, name)
            )
    return tensors


def _check_result(method: Method, task: BlockTask, found: BlockResult) -> None:
    """Hold a method to its contract: every matrix that has a format has codes of it, and nothing unknown came back."""
    where = f"method {method.name!r}, {task.block.name}"
    wanted = {unit for unit, form in task.formats.items() if not form.is_float}
    if set(found.codes) != wanted:
        odd = sorted(set(found.codes) ^ wanted)
        raise QuantizationError(f"{where}: codes and formats differ in {', '.join(odd)}; the method must be corrected")
    for unit, form in task.formats.items():
        if form.table_rows is not None and unit not in found.floats:
            raise QuantizationError(f"{where}: makes no tables, as {unit} wants; use --method kmeans")
    for unit, codes in found.codes.items():
        check_codes(f"{where}: {unit}", task.formats[unit], task.block.shapes[unit], codes)
    for name, tensor in found.floats.items():
        if tensor.shape != task.block.tensor(name).shape or not bool(tensor.isfinite().all()):
            raise QuantizationError(f"{where}: {name} came back misshapen or with NaN; the method must be corrected")


def check_codes(where: str, form: Format, shape: tuple[int, int], found: Codes) -> None:
    """Refuse codes outside the numeric contract of docs/design.md."""
    limit = 2 ** (form.bits - 1)
    low, high = torch.aminmax(found.codes)
    right = (
        found.codes.dtype == torch.int8
        and found.codes.shape == shape
        and found.scales.shape == (shape[0], form.groups(shape[1]))
        and -limit <= int(low) <= int(high) < limit
        and bool((found.scales > 0).all())
        and torch.equal(found.scales, found.scales.to(torch.bfloat16).float())
    )
    if not right:
        raise QuantizationError(
            f"{where}: codes {tuple(found.codes.shape)} from {int(low)} to {int(high)} with scales "
            f"{tuple(found.scales.shape)} are no {form} of positive bfloat16 scales; the method must be corrected, or "
            "the calibration text made it diverge"
        )


@torch.no_grad()
def head_statistics(x: Tensor, *, gram: bool) -> Statistics:
    """Statistics of what the head reads, x (N, T, C)."""
    x = x.flatten(0, 1)
    return Statistics(mean_square=x.square().mean(0), gram=x.T @ x / x.shape[0] if gram else None)


def _outer(job: Job, name: str, statistics: Statistics | None) -> dict[str, Tensor]:
    """The stored tensors of the embedding, the head or the final norm."""
    form = job.layout.get(name)
    if form is None or form.is_float:
        return {stored_name(job, name): _read(job, name)}
    unit = _units(job)[name]
    width = unit.in_features // (2 if form.bits == 4 else 1)
    codes = torch.empty(unit.out_features, width, dtype=torch.uint8 if form.bits == 4 else torch.int8)
    scales = torch.empty(unit.out_features, form.groups(unit.in_features), dtype=torch.bfloat16)
    for start in range(0, unit.out_features, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, unit.out_features))
        found = job.method.quantize_table(_read(job, name, rows).float(), form, statistics)
        check_codes(f"method {job.method.name!r}, {name}", form, (rows.stop - start, unit.in_features), found)
        stored = stored_codes(name, form, found)
        codes[rows], scales[rows] = stored[f"{name}.codes"], stored[f"{name}.scales"]
    return {f"{name}.codes": codes, f"{name}.scales": scales}


def stored_name(job: Job, name: str) -> str:
    """What a float tensor is called in its block's file."""
    return f"{name}.weight" if name in job.layout else name


def _read(job: Job, name: str, rows: slice | None = None) -> Tensor:
    """A tensor as it came."""
    unit = _units(job).get(name)
    return job.checkpoint.read(plain_tensors(job.config)[name] if unit is None else unit.tensor, rows)


def _units(job: Job) -> dict[str, Unit]:
    return {unit.name: unit for unit in units(job.config)}


def _bytes(job: Job, block: str) -> int:
    """Bytes of checkpoint in a block."""
    known, plain = _units(job), plain_tensors(job.config)
    names = [known[name].tensor if name in known else plain[name] for name in members_of(job.config)[block]]
    return sum(job.checkpoint.entries[name].size_bytes for name in names)


def _source_hash(module: ModuleType) -> str:
    """The hash of a method's source and of what it takes from beside it: an edit makes old results unreachable."""
    files = sorted(_sources(Path(inspect.getfile(module))))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _sources(file: Path) -> set[Path]:
    """A method's file, and those of the same directory that it imports, directly or not."""
    shared = {file.with_name(f"{name}.py") for name in SHARED_MODULE.findall(file.read_text(encoding="utf-8"))}
    return {file, file.with_name("__init__.py")}.union(*(_sources(other) for other in shared - {file}))

"""Measure candidates against a reference on a text, a group of sequences at a time, each group remembered.

A group's figures are kept under the hash of everything that determines them (both models, how they are computed, the
tokens), so a run that was killed goes on at the first group that is missing, and a second candidate is compared without
measuring the first again.
"""

import contextlib
import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from export import user_cache
from export.errors import OutputError
from export.progress import Progress
from export.quality.metrics import Ints, TokenStats, blocks, join
from export.quality.reading import LayerErrors, Reading, compare, read
from export.quality.texts import Sequences
from export.spec import digest

VERSION = 1  # raise when the same inputs give other figures
GROUP_TOKENS = 8192  # hidden states of these are in memory for every model that is compared


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A way to compute a model, with a name for the table and what identifies it."""

    reading: Reading
    identity: str

    @property
    def name(self) -> str:
        return self.reading.name

    def key(self) -> list[object]:
        """Everything that determines what this subject answers."""
        reading, form = self.reading, self.reading.activations
        rounding = [reading.tokens_at_once, str(reading.hidden_dtype)]
        return [VERSION, self.identity, form.kind, form.group_cap, *rounding]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one candidate costs: token by token, and layer by layer where layers were seen."""

    stats: TokenStats
    errors: LayerErrors | None = None


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where each scored prediction of some sequences stands, arrays (rows,)."""

    targets: Ints
    sequence: Ints
    position: Ints

    @property
    def block(self) -> Ints:
        return blocks(self.sequence, self.position)


def places(sequences: Sequences) -> Places:
    """The scored predictions in order: token t predicts token t + 1."""
    row, column = np.nonzero(sequences.scored.numpy())
    targets = sequences.tokens.numpy()[row, column + 1]
    return Places(targets=targets, sequence=row.astype(np.int64), position=column.astype(np.int64))


def evaluate(
    reference: Subject, candidates: Sequence[Subject], sequences: Sequences, progress: Progress
) -> list[Measurement]:
    """Figures of each candidate over all scored predictions."""
    count = max(1, GROUP_TOKENS // sequences.tokens.shape[1])
    groups = [sequences.part(slice(start, start + count)) for start in range(0, len(sequences.tokens), count)]
    layers = reference.reading.weights.config.num_layers
    progress.stage("measure quality", sequences.tokens.numel() * layers, "token")
    found = [_group(reference, candidates, group, progress) for group in groups]
    progress.end()
    return [_joined([group[place] for group in found]) for place in range(len(candidates))]


def _group(
    reference: Subject, candidates: Sequence[Subject], group: Sequences, progress: Progress
) -> list[Measurement]:
    names = [digest([reference.key(), candidate.key(), group.sha256]) for candidate in candidates]
    known = {name: found for name in names if (found := recall(name)) is not None}
    missing = [candidate for name, candidate in zip(names, candidates, strict=True) if name not in known]
    if missing:
        outputs, errors = read(
            [reference.reading, *(candidate.reading for candidate in missing)],
            group.tokens,
            group.scored,
            progress.step,
        )
        where = places(group)
        stats = compare(outputs[0], outputs[1:], where.targets, where.position, where.block)
        fresh = [name for name in names if name not in known]
        for name, one, error in zip(fresh, stats, errors[1:], strict=True):
            known[name] = Measurement(stats=one, errors=error)
            remember(name, known[name])
    else:
        progress.step("measured before", group.tokens.numel() * reference.reading.weights.config.num_layers)
    return [known[name] for name in names]


def _joined(parts: Sequence[Measurement]) -> Measurement:
    errors = [part.errors for part in parts if part.errors is not None]
    total = errors[0] if errors else None
    for more in errors[1:]:
        total = more if total is None else total + more
    return Measurement(stats=join([part.stats for part in parts]), errors=total)


def remember(name: str, measurement: Measurement) -> None:
    """Keep a measurement; a cache that cannot be written costs time, not correctness."""
    content = io.BytesIO()
    arrays = _arrays(measurement.stats, "")
    if measurement.errors is not None:
        arrays |= _arrays(measurement.errors, "errors.")
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    with contextlib.suppress(OSError, OutputError):
        user_cache.write_atomically(_file(name), content.getvalue())


def recall(name: str) -> Measurement | None:
    """A measurement that was kept, or None; a damaged file counts as none."""
    try:
        with np.load(io.BytesIO(_file(name).read_bytes()), allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
            stats = TokenStats(**{field.name: arrays[field.name] for field in fields(TokenStats)})
            known = {field.name: arrays.get(f"errors.{field.name}") for field in fields(LayerErrors)}
    except (OSError, OutputError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    errors = None if any(value is None for value in known.values()) else LayerErrors(**known)  # type: ignore[arg-type]
    return Measurement(stats=stats, errors=errors)


def _arrays(data: TokenStats | LayerErrors, prefix: str) -> dict[str, np.ndarray]:
    return {f"{prefix}{field.name}": getattr(data, field.name) for field in fields(data)}


def _file(name: str) -> Path:
    return user_cache.directory("quality") / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.npz"

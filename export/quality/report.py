"""The quality report: every candidate on one text against one float checkpoint, beside what that itself does.

A figure means nothing alone. So each stands with its standard error, beside the noise floor (the float model computed a
little differently), beside the bytes that a token costs, and with a warning where the text says less than it seems to.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from export.calibration import kept_tokens
from export.checkpoint import Checkpoint
from export.config import parse_config
from export.decoder import Activations
from export.errors import QualityError
from export.progress import Progress, Silent
from export.quality import generations, warnings
from export.quality.evaluate import Measurement, Subject, evaluate, places
from export.quality.metrics import (
    BOOTSTRAP,
    Bools,
    Estimate,
    PositionBin,
    TokenStats,
    as_json,
    by_position,
    select,
    summarize,
)
from export.quality.runtime import measure_in_runtime
from export.quality.sensitivity import Sensitivity, layer_sensitivity
from export.quality.subjects import (
    EMULATIONS,
    Candidate,
    Reference,
    float_subject,
    noise_subjects,
    open_candidates,
    open_reference,
    quantized_subject,
    unit_bytes,
    weights_of,
)
from export.quality.texts import (
    Sequences,
    cut,
    default_texts,
    overlap,
    read_text,
    tokens_hash,
)
from export.quantized import QuantizedCheckpoint
from export.schemes import Layout
from export.weights import units

FORMAT = 1
LEAST_TOKENS = 128


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a report is asked to hold."""

    subjects: tuple[str, ...]
    against: str
    texts: tuple[Path, ...] = ()  # none: the default text
    tokens: int = 4096
    runtime: bool = False
    activations: str | None = None  # None: what an artifact's runtime does, nothing for plain weights
    prompts: int = len(generations.PROMPTS)
    sensitivity: bool = False

    def __post_init__(self) -> None:
        if self.tokens < LEAST_TOKENS:
            raise QualityError(f"--tokens {self.tokens} is too few; read {LEAST_TOKENS} or more")
        most = len(generations.PROMPTS)
        if self.prompts not in (0, *range(2, most + 1)):
            raise QualityError(f"--prompts {self.prompts} is out of range; ask 2 to {most}, or 0 for none")
        if self.activations is not None and self.activations not in EMULATIONS:
            raise QualityError(f"--activations {self.activations!r} is unknown; known: {', '.join(EMULATIONS)}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate, computed one way."""

    name: str
    path: str
    how: str
    bytes_per_token: int | None
    figures: Mapping[str, Estimate]
    by_position: Sequence[PositionBin] = ()
    by_text: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    drift_by_layer: Sequence[float] = ()
    own_error_by_layer: Sequence[float] = ()
    sensitivity: Sequence[Sensitivity] = ()
    own_answers: Mapping[str, Estimate] = field(default_factory=dict)  # teacher-forced on the reference's answers
    answers_by_position: Sequence[PositionBin] = ()
    free_text: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many matrices a candidate holds in one format."""

    format: str
    matrices: int
    weights: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was measured."""

    against: str
    checkpoint_sha256: str
    text: Mapping[str, Any]
    rows: Sequence[Row]
    noise_floor: Sequence[Row]
    reference_free_text: Mapping[str, Estimate]
    coverage: Mapping[str, Sequence[Coverage]]
    formats: Mapping[str, Mapping[str, str]]
    calibration_overlap: Mapping[str, float | None]  # of calibrated candidates; None where that text is not at hand
    warnings: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        machine = {"architecture": platform.machine(), "python": platform.python_version()}
        return {"format": FORMAT, **asdict(self), "bootstrap": asdict(BOOTSTRAP), "machine": machine}


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What every measurement needs."""

    reference: Reference
    sequences: Sequences
    progress: Progress


def make_report(options: Options, progress: Progress) -> Report:
    """Measure everything that was asked for."""
    reference = open_reference(options.against)
    found = [one for name in options.subjects for one in open_candidates(name, reference, options.activations)]
    candidates = _distinct(found)
    if not options.runtime:
        for candidate in candidates:
            weights_of(candidate)  # fails here, before hours of work
    work = _Work(reference=reference, sequences=_sequences(options, candidates, reference), progress=progress)
    noise, rows = _text_rows(work, candidates)
    rows += _runtime_rows(work, candidates) if options.runtime else []
    own, rows = _with_answers(work, candidates, rows, options.prompts) if options.prompts else ({}, rows)
    if options.sensitivity:
        rows = _with_sensitivity(work, candidates, rows)
    shared = _shared_text(work, candidates)
    return Report(
        against=options.against,
        checkpoint_sha256=reference.checkpoint.content_hash(),
        text=describe(work.sequences),
        rows=rows,
        noise_floor=noise,
        reference_free_text=own,
        coverage={one.name: coverage(one.formats, reference) for one in candidates if one.formats},
        formats={one.name: {unit: str(form) for unit, form in one.formats.items()} for one in candidates},
        calibration_overlap=shared,
        warnings=[
            *warnings.of_candidates(candidates),
            *warnings.of_amount(work.sequences),
            *warnings.of_weights(reference.checkpoint),
            *warnings.of_overlap(shared),
            *warnings.of_reading(work.sequences, noise[0].by_text or {_first_text(work): noise[0].figures}),
        ],
    )


def measure_quality(
    store: QuantizedCheckpoint,
    checkpoint: Checkpoint,
    tokens: Tensor,
    activations: Activations | None = None,
    calibration: Tensor | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """A short figure for a manifest: what a quantized checkpoint costs on held-out tokens (N, T)."""
    config = parse_config(checkpoint.config)
    reference, _, _ = float_subject("float", checkpoint.path)
    assert reference.reading.weights.config == config
    scored = tokens.new_ones(tokens.shape, dtype=bool)  # type: ignore[call-overload]
    scored[:, -1] = False
    sequences = Sequences(tokens=tokens, scored=scored, source=(0,) * len(tokens), names=("held-out",))
    subject = quantized_subject("quantized", store, activations or Activations())
    (found,) = evaluate(reference, [subject], sequences, progress or Silent())
    return {
        "against": checkpoint.content_hash(),
        "how": how(subject),
        "tokens": len(found.stats),
        "text_sha256": tokens_hash(tokens),
        "calibration_overlap": None if calibration is None else overlap(tokens, calibration),
        "figures": as_json(summarize(found.stats)),
    }


def describe(sequences: Sequences) -> dict[str, Any]:
    """What text was read."""
    return {
        "names": [sequences.names[index] for index in dict.fromkeys(sequences.source)],
        "sha256": sequences.sha256,
        "tokens": int(sequences.scored.sum()),
        "sequences": len(sequences.tokens),
        "sequence_tokens": sequences.tokens.shape[1],
    }


def how(subject: Subject) -> str:
    """How a subject is computed, in words."""
    kind = subject.reading.activations.kind
    return "eager, weights only" if kind == "none" else f"eager, {kind} activations"


def coverage(formats: Layout, reference: Reference) -> list[Coverage]:
    """Which part of the weights is held in which format, largest part first."""
    by_format: dict[str, Coverage] = {}
    for unit in units(reference.config):
        name = str(formats[unit.name])
        before = by_format.get(name, Coverage(format=name, matrices=0, weights=0, bytes=0))
        by_format[name] = Coverage(
            format=name,
            matrices=before.matrices + 1,
            weights=before.weights + unit.num_weights,
            bytes=before.bytes + unit_bytes(unit.out_features, unit.in_features, formats[unit.name]),
        )
    return sorted(by_format.values(), key=lambda one: -one.weights)


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    """The same candidates with names that differ."""
    names = [one.name for one in candidates]
    return [one if names.count(one.name) == 1 else _renamed(one, f"{one.name} ({one.path})") for one in candidates]


def _renamed(candidate: Candidate, name: str) -> Candidate:
    subject = candidate.subject
    renamed = None if subject is None else replace(subject, reading=replace(subject.reading, name=name))
    return replace(candidate, name=name, subject=renamed)


def _sequences(options: Options, candidates: Sequence[Candidate], reference: Reference) -> Sequences:
    named = [read_text(path, reference.text) for path in options.texts]
    texts = named or default_texts(reference.path, options.tokens)
    artifacts = [one.artifact for one in candidates if one.artifact is not None and options.runtime]
    longest = [artifact.manifest.context_length for artifact in artifacts]
    context_length = min([reference.config.max_position_embeddings, *longest])
    return cut(texts, reference.text.encode, options.tokens, context_length)


def _text_rows(work: _Work, candidates: Sequence[Candidate]) -> tuple[list[Row], list[Row]]:
    """Rows of the noise floor and of every candidate whose weights can be read."""
    noise = noise_subjects(work.reference)
    readable = [(one, one.subject) for one in candidates if one.subject is not None]
    subjects = [*noise, *(subject for _, subject in readable)]
    found = evaluate(work.reference.subject, subjects, work.sequences, work.progress)
    floor = [
        Row(
            name=subject.name,
            path=str(work.reference.path),
            how="eager",
            bytes_per_token=None,
            **_aggregates(one, work),
        )
        for subject, one in zip(noise, found, strict=False)
    ]
    rows = [
        Row(
            name=candidate.name,
            path=str(candidate.path),
            how=how(subject),
            bytes_per_token=candidate.bytes_per_token,
            **_aggregates(one, work),
        )
        for (candidate, subject), one in zip(readable, found[len(noise) :], strict=True)
    ]
    return floor, rows


def _runtime_rows(work: _Work, candidates: Sequence[Candidate]) -> list[Row]:
    rows = []
    for one in candidates:
        if one.artifact is not None:
            found = measure_in_runtime(work.reference.subject, one.artifact, work.sequences, work.progress)
            rows.append(
                Row(
                    name=one.name,
                    path=str(one.path),
                    how=_runtime_name(one),
                    bytes_per_token=one.bytes_per_token,
                    **_aggregates(found, work),
                )
            )
    return rows


def _runtime_name(candidate: Candidate) -> str:
    assert candidate.artifact is not None
    return f"{candidate.artifact.manifest.runtime.name} on {platform.machine()}"


def _aggregates(measurement: Measurement, work: _Work) -> dict[str, Any]:
    """The fields of a row that one measurement gives."""
    errors = measurement.errors
    return {
        "figures": summarize(measurement.stats),
        "by_position": by_position(measurement.stats),
        "by_text": _by_text(measurement.stats, work.sequences),
        "drift_by_layer": [] if errors is None else errors.relative,
        "own_error_by_layer": [] if errors is None else errors.own_relative,
    }


def _by_text(stats: TokenStats, sequences: Sequences) -> dict[str, dict[str, Estimate]]:
    """The figures of each text alone, where there are several."""
    of_token = np.array(sequences.source)[places(sequences).sequence]
    present = np.unique(of_token)
    if present.size < 2:
        return {}
    found = {}
    for index in present:
        chosen: Bools = of_token == index
        part = select(stats, chosen)
        if part.block.max() > 0:
            found[sequences.names[int(index)]] = summarize(part)
    return found


def _with_answers(
    work: _Work, candidates: Sequence[Candidate], rows: list[Row], prompts: int
) -> tuple[Mapping[str, Estimate], list[Row]]:
    """The same rows with what they make of the reference's own answers, and the reference's free text."""
    reference, eos = work.reference, work.reference.text.eos_token_ids
    asked = generations.prompt_tokens(reference.text, prompts)
    answers = generations.answers_of(reference.subject, asked, eos, work.progress)
    sequences = answers.sequences()
    by_name = {one.name: one for one in candidates}
    subjects = [subject for row in rows if row.how.startswith("eager") and (subject := by_name[row.name].subject)]
    measured = evaluate(reference.subject, subjects, sequences, work.progress)
    read = {one.name: found for one, found in zip(subjects, measured, strict=True)}
    done = []
    for row in rows:
        one = by_name[row.name]
        if row.how.startswith("eager") and one.subject is not None:
            free = generations.answers_of(one.subject, asked, eos, work.progress)
            stats = read[one.name].stats
        else:
            assert one.artifact is not None
            free = generations.answers_in_runtime(one.artifact, asked, eos, work.progress)
            stats = measure_in_runtime(reference.subject, one.artifact, sequences, work.progress).stats
        placed = replace(stats, position=stats.position - (asked.shape[1] - 1))
        done.append(
            replace(
                row,
                own_answers=summarize(stats),
                answers_by_position=by_position(placed),
                free_text=generations.free_text_figures(free, answers),
            )
        )
    return generations.free_text_figures(answers, answers), done


def _with_sensitivity(work: _Work, candidates: Sequence[Candidate], rows: list[Row]) -> list[Row]:
    by_name = {one.name: one for one in candidates}
    done = []
    for row in rows:
        subject = by_name[row.name].subject
        if row.how.startswith("eager") and subject is not None:
            found = layer_sensitivity(work.reference.subject, subject, work.sequences, work.progress)
            row = replace(row, sensitivity=found)
        done.append(row)
    return done


def _shared_text(work: _Work, candidates: Sequence[Candidate]) -> dict[str, float | None]:
    """How much of the text each calibrated candidate learned from."""
    found: dict[str, float | None] = {}
    for one in candidates:
        if one.calibration is not None:
            learned = kept_tokens(one.calibration)
            found[one.name] = None if learned is None else overlap(work.sequences.tokens, learned)
    return found


def _first_text(work: _Work) -> str:
    return work.sequences.names[work.sequences.source[0]]

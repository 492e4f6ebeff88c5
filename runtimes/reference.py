"""What an artifact should answer: logits of the same quantized weights in eager torch, recorded when it was exported.

`reference.safetensors` holds cases. A case is a token sequence, the full logits at a few positions, and at more
positions the 64 best with the log of the sum of all exponentials. Positions are teacher-forced, so however a runner
splits the sequence, it must give the logits recorded for the position where a call ends.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from runtimes.artifact import Artifact
from runtimes.errors import ReferenceFileError
from runtimes.runner import Logits

FORMAT = "1"
VIEW = "view_"  # begins the name of a case with one picture, of one of the grids that the tower takes
BROKEN = 1e30  # stands for logits that are not finite: far from any answer, yet a JSON number
SMALLEST = 1e-30  # nothing is divided by less
# one int8 code on the other side of a rounding moves one position by many times the mean: divergences deviate by about
# twice their mean (tiny model), and thrice that over sqrt(n) is what the mean of n positions may be above the tolerance
SCATTER = 6.0
DTYPES = {
    "tokens": "int64",
    "full_positions": "int64",
    "full_logits": "float32",
    "top_positions": "int64",
    "top_ids": "int32",
    "top_logits": "float32",
    "lse": "float32",
}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is known of the logits after one position: some ids with their logits, and the whole sum."""

    ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    log_sum: float


@dataclass(frozen=True, kw_only=True)
class Case:
    """One token sequence and what must come out after its positions."""

    tokens: NDArray[np.int64]
    expected: Mapping[int, Expected]  # by position
    full_positions: tuple[int, ...]
    pictures: tuple[NDArray[np.uint8], ...] = ()  # of its image tokens, in order: (rows, columns, 3)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The cases of one artifact, and how close is close enough."""

    cases: Mapping[str, Case]
    emulation: str
    kind: Literal["float", "quantized"]
    tolerance: float

    @property
    def views(self) -> tuple[str, ...]:
        """The names of cases with one picture, shortest first."""
        return tuple(sorted((name for name in self.cases if name.startswith(VIEW)), key=self._length))

    def _length(self, name: str) -> int:
        return self.cases[name].tokens.size


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one answer is from what was expected."""

    position: int
    max_error: float
    relative_error: float
    divergence: float  # Kullback-Leibler, in nats; ids that were not recorded count as one
    margin: float  # between the two best expected logits
    same_best: bool


def load_reference(artifact: Artifact) -> Reference:
    """The checked reference of an artifact."""
    name = artifact.manifest.reference_file
    if name is None:
        raise ReferenceFileError(
            f"{artifact.path}: has no reference_file, so nothing to verify against; export it again"
        )
    place = artifact.file(name)
    metadata, tensors = _read(place)
    kind = metadata.get("tolerance_kind")
    if metadata.get("format") != FORMAT or kind not in ("float", "quantized"):
        raise ReferenceFileError(
            f"{place}: format {metadata.get('format')!r} and tolerance_kind {kind!r}; "
            f"this version reads format {FORMAT!r} with 'float' or 'quantized'"
        )
    names = sorted({tensor.split(".")[0] for tensor in tensors})
    if "prompt" not in names:
        raise ReferenceFileError(f"{place}: no case 'prompt'; it holds {names}")
    cases = {case: _case(place, case, tensors, artifact) for case in names}
    emulation = metadata.get("emulation", "unknown")
    return Reference(cases=cases, emulation=emulation, kind=kind, tolerance=_tolerance(place, metadata))  # type: ignore[arg-type]


def compare(position: int, logits: Logits, expected: Expected) -> Difference:
    """The difference between a runner's logits after a position and the expected ones."""
    if not np.isfinite(logits).all():
        logits = np.full_like(logits, np.float32(BROKEN))
    ours = logits[expected.ids].astype(np.float64)
    wanted = expected.logits.astype(np.float64)
    error = float(np.abs(ours - wanted).max())
    best_two = np.sort(wanted)[-2:]
    return Difference(
        position=position,
        max_error=error,
        relative_error=error / max(float(np.abs(wanted).max()), SMALLEST),
        divergence=_divergence(wanted - expected.log_sum, ours - log_sum_exp(logits), _rounding(expected.log_sum)),
        margin=float(best_two[-1] - best_two[0]),
        same_best=int(logits.argmax()) == int(expected.ids[wanted.argmax()]),
    )


def log_sum_exp(logits: Logits) -> float:
    """The log of the sum of exponentials over the vocabulary, in double precision."""
    wide = logits.astype(np.float64)
    peak = float(wide.max())
    return peak + math.log(float(np.exp(wide - peak).sum()))


def summarize(differences: Iterable[Difference]) -> dict[str, Any]:
    """The figures of many differences."""
    found = list(differences)
    worst = max(found, key=lambda difference: difference.relative_error)
    return {
        "positions": len(found),
        "relative_max_error": worst.relative_error,
        "max_error": max(difference.max_error for difference in found),
        "worst_position": worst.position,
        "mean_kld": sum(difference.divergence for difference in found) / len(found),
        "max_kld": max(difference.divergence for difference in found),
        "argmax_agreement": sum(difference.same_best for difference in found) / len(found),
    }


def judge(differences: Iterable[Difference], reference: Reference, *, sampled: bool = True) -> str | None:
    """Why these differences are too large, or None; a sample of positions may exceed the tolerance by its scatter."""
    found = list(differences)
    figures = summarize(found)
    if figures["max_error"] >= BROKEN / 2:
        return "some logits are not finite"
    if reference.kind == "float":
        error = figures["relative_max_error"]
        if error > reference.tolerance:
            return _too_large("relative max error", error, reference.tolerance, figures)
        return None
    limit = reference.tolerance * (1 + SCATTER / math.sqrt(len(found)) if sampled else 1)
    if figures["mean_kld"] > limit:
        return _too_large("mean KLD", figures["mean_kld"], limit, figures)
    clear = 2 * figures["max_error"]
    wrong = [difference for difference in found if difference.margin > clear and not difference.same_best]
    if wrong:
        return f"position {wrong[0].position}: another token is best, though its margin {wrong[0].margin:.3g} is clear"
    return None


def _too_large(what: str, value: float, limit: float, figures: Mapping[str, Any]) -> str:
    return f"{what} {value:.3g} exceeds {limit:.3g}; worst at position {figures['worst_position']}"


def _divergence(expected: NDArray[np.float64], ours: NDArray[np.float64], rounding: float) -> float:
    """KLD of log probabilities, whatever mass they leave over lumped into one more outcome."""
    total = float((np.exp(expected) * (expected - ours)).sum())
    rest = 1.0 - float(np.exp(expected).sum())
    other = 1.0 - float(np.exp(ours).sum())
    if rest > rounding:
        total += rest * math.log(rest / max(other, rounding))
    return max(0.0, total)


def _rounding(log_sum: float) -> float:
    """How much probability is only the rounding of logits and of their sum to float32."""
    return 4 * float(np.finfo(np.float32).eps) * max(1.0, abs(log_sum))


def _read(place: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    try:
        with safe_open(place, framework="numpy") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ReferenceFileError(f"{place}: cannot be read as safetensors: {error}") from error


def _tolerance(place: Path, metadata: Mapping[str, str]) -> float:
    text = metadata.get("tolerance", "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise ReferenceFileError(f"{place}: tolerance {text!r} is not a number between 0 and 1")
    return value


def _case(place: Path, name: str, tensors: Mapping[str, NDArray[Any]], artifact: Artifact) -> Case:
    """One case, its tensors checked against each other and against the manifest."""
    parts = {part: tensors.get(f"{name}.{part}") for part in DTYPES}
    for part, tensor in parts.items():
        if tensor is None or tensor.dtype != DTYPES[part]:
            found = "missing" if tensor is None else str(tensor.dtype)
            raise ReferenceFileError(f"{place}: {name}.{part} is {found}; expected {DTYPES[part]}")
    known: dict[str, NDArray[Any]] = {part: tensor for part, tensor in parts.items() if tensor is not None}
    _check_shapes(place, name, known, artifact)
    everything = np.arange(artifact.manifest.vocab_size)
    expected = {
        int(position): Expected(ids=ids.astype(np.int64), logits=logits, log_sum=float(log_sum))
        for position, ids, logits, log_sum in zip(
            known["top_positions"], known["top_ids"], known["top_logits"], known["lse"], strict=True
        )
    }
    for position, logits in zip(known["full_positions"], known["full_logits"], strict=True):
        expected[int(position)] = Expected(ids=everything, logits=logits, log_sum=log_sum_exp(logits))
    full = tuple(int(position) for position in known["full_positions"])
    pictures = _pictures(place, name, tensors)
    return Case(tokens=known["tokens"], expected=expected, full_positions=full, pictures=pictures)


def _pictures(place: Path, name: str, tensors: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.uint8], ...]:
    found = sorted(tensor for tensor in tensors if tensor.startswith(f"{name}.picture_"))
    for tensor in found:
        picture = tensors[tensor]
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise ReferenceFileError(
                f"{place}: {tensor} is {picture.dtype} of shape {picture.shape}; expected uint8 (rows, columns, 3)"
            )
    return tuple(tensors[tensor] for tensor in found)


def _check_shapes(place: Path, name: str, parts: Mapping[str, NDArray[Any]], artifact: Artifact) -> None:
    vocab_size = artifact.manifest.vocab_size
    count, full, top = (parts[part].size for part in ("tokens", "full_positions", "top_positions"))
    best = parts["top_ids"].shape[-1]
    shapes = {
        "tokens": (count,),
        "full_positions": (full,),
        "full_logits": (full, vocab_size),
        "top_positions": (top,),
        "top_ids": (top, best),
        "top_logits": (top, best),
        "lse": (top,),
    }
    for part, shape in shapes.items():
        if parts[part].shape != shape:
            raise ReferenceFileError(f"{place}: {name}.{part} has shape {parts[part].shape}; expected {shape}")
    if not 0 < count <= artifact.manifest.context_length or best < 2 or full + top == 0:
        raise ReferenceFileError(
            f"{place}: case {name!r} has {count} tokens and {full + top} positions of {best} ids; "
            f"expected 1 to {artifact.manifest.context_length} tokens, a position, and 2 ids"
        )
    limits = {"tokens": vocab_size, "top_ids": vocab_size, "full_positions": count, "top_positions": count}
    for part, limit in limits.items():
        if parts[part].size and not 0 <= int(parts[part].min()) <= int(parts[part].max()) < limit:
            raise ReferenceFileError(f"{place}: {name}.{part} has values outside 0 to {limit - 1}")
    for part in ("full_logits", "top_logits", "lse"):
        if not np.isfinite(parts[part]).all():
            raise ReferenceFileError(f"{place}: {name}.{part} is not finite; a model that gives NaN proves nothing")

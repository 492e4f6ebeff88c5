"""Compare two sets of runs, device by device: what is compared, with which verdict, or why it can't be.

All figures of all devices are one family: the whole comparison raises a false alarm in under 5 % of cases. Where at
least five sessions of a device ran both sides, they are compared in pairs, which takes the differences between sessions
out; else the sessions of the sides are two independent samples.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.comparison.judge import TOLERANCE, Judged, judge
from benchmarks.comparison.permutation import Block
from benchmarks.comparison.planning import MIN_SESSIONS
from benchmarks.comparison.sessions import BETTER, Figure, Side, differences, gather
from benchmarks.record import RunRecord

__all__ = ["Compared", "Comparison", "Refused", "compare"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One figure on one device; medians are of session values, `judged` in logarithms, positive where worse."""

    device_id: str
    device: str
    figure: Figure
    sessions: tuple[int, int]
    paired: bool
    medians: tuple[float, float]
    judged: Judged

    @property
    def sign(self) -> int:
        """1 where a larger value is worse, -1 where a smaller one is."""
        return 1 if BETTER[self.figure.metric] == "lower" else -1

    @property
    def change(self) -> float:
        """Candidate by base less one."""
        return math.expm1(self.sign * self.judged.change)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `change`."""
        low, high = sorted(math.expm1(self.sign * end) for end in self.judged.interval)
        return low, high


@dataclass(frozen=True, kw_only=True)
class Refused:
    """What can't be compared, and why."""

    device_id: str
    device: str
    what: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that was found; `notes` qualify it without changing the verdict."""

    compared: tuple[Compared, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0 no change for the worse, 1 a regression, 2 something that was asked for can't be compared."""
        if any(one.judged.verdict == "regression" for one in self.compared):
            return 1
        return 2 if self.refused or not self.compared else 0


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A figure on its way to be judged."""

    device_id: str
    device: str
    figure: Figure
    base: dict[str, float]
    candidate: dict[str, float]
    paired: bool


def compare(
    base: Sequence[RunRecord],
    candidate: Sequence[RunRecord],
    *,
    metrics: Sequence[str] | None = None,
    target: float = 0.1,
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Compare; `target` is the relative change whose number of sessions is planned, `tolerance` what doesn't matter."""
    rows: list[_Row] = []
    refused: list[Refused] = []
    notes: list[str] = []
    sides = (_by_device(base), _by_device(candidate))
    for device_id in sorted(set(sides[0]) | set(sides[1])):
        runs = [side.get(device_id, []) for side in sides]
        device = _device_name((runs[0] or runs[1])[0])
        if reasons := _device_reasons(runs[0], runs[1]):
            refused.append(Refused(device_id=device_id, device=device, what="everything", reasons=tuple(reasons)))
            continue
        found, not_found = _device_rows(device_id, device, runs[0], runs[1], metrics)
        rows += found
        refused += not_found
        notes += _order_notes(device, runs[0], runs[1]) if any(not row.paired for row in found) else []
    compared = _judged(rows, target=math.log1p(target), tolerance=tolerance)
    return Comparison(compared=tuple(compared), refused=tuple(refused), notes=tuple(notes))


def _by_device(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    devices = defaultdict(list)
    for run in runs:
        devices[run.device.id].append(run)
    return devices


def _device_name(run: RunRecord) -> str:
    return f"{run.device.model or run.device.kind} #{run.device.id[:4]}"


def _device_reasons(base: Sequence[RunRecord], candidate: Sequence[RunRecord]) -> list[str]:
    if not base or not candidate:
        return [f"it has runs of the {'base' if base else 'candidate'} only"]
    return differences(base, candidate)


def _device_rows(
    device_id: str,
    device: str,
    base: Sequence[RunRecord],
    candidate: Sequence[RunRecord],
    metrics: Sequence[str] | None,
) -> tuple[list[_Row], list[Refused]]:
    sides = gather(base, metrics), gather(candidate, metrics)
    figures = sorted(set(sides[0].values) | set(sides[1].values), key=lambda figure: (figure.case, figure.metric))
    if metrics is not None:
        figures = sorted({*figures, *sides[0].nulls, *sides[1].nulls}, key=lambda figure: (figure.case, figure.metric))
    rows, refused = [], []
    for figure in figures:
        row = _row(device_id, device, figure, sides)
        if min(len(row.base), len(row.candidate)) < MIN_SESSIONS:
            what, reasons = f"{figure.case} {figure.metric}", tuple(_shortage(row, sides))
            refused.append(Refused(device_id=device_id, device=device, what=what, reasons=reasons))
        else:
            rows.append(row)
    if not figures:
        left_out = [f"{reason} ({count})" for side in sides for reason, count in side.left_out.most_common(3)]
        reasons = tuple(left_out or ["no run has a figure that could be compared"])
        refused.append(Refused(device_id=device_id, device=device, what="everything", reasons=reasons))
    return rows, refused


def _row(device_id: str, device: str, figure: Figure, sides: tuple[Side, Side]) -> _Row:
    base, candidate = (side.values.get(figure, {}) for side in sides)
    shared = sorted(set(base) & set(candidate))
    paired = len(shared) >= MIN_SESSIONS
    if paired:
        base, candidate = {name: base[name] for name in shared}, {name: candidate[name] for name in shared}
    return _Row(device_id=device_id, device=device, figure=figure, base=base, candidate=candidate, paired=paired)


def _shortage(row: _Row, sides: tuple[Side, Side]) -> list[str]:
    """How many sessions there are, and what became of the others."""
    reasons = [
        f"{len(row.base)} sessions of the base and {len(row.candidate)} of the candidate; each needs {MIN_SESSIONS}"
    ]
    for name, side in zip(("base", "candidate"), sides, strict=True):
        if row.figure in side.nulls:
            reasons.append(f"{name}: {side.nulls[row.figure]}")
        reasons += [f"{name}: {reason} ({count})" for reason, count in side.left_out.most_common(3)]
    return reasons


def _order_notes(device: str, base: Sequence[RunRecord], candidate: Sequence[RunRecord]) -> list[str]:
    if max(run.started_at for run in base) < min(run.started_at for run in candidate):
        return [
            f"{device}: every run of the base is older than the candidate's, so a drift of the device would look like "
            "a change; alternate the sides, best within one session"
        ]
    return []


def _judged(rows: Sequence[_Row], *, target: float, tolerance: float) -> list[Compared]:
    blocks: dict[tuple[object, ...], list[_Row]] = defaultdict(list)
    for row in rows:
        blocks[row.device_id, row.paired, tuple(sorted(row.base)), tuple(sorted(row.candidate))].append(row)
    groups = list(blocks.values())
    if not groups:
        return []
    verdicts = judge([_block(group) for group in groups], target=target, tolerance=tolerance)
    return [
        Compared(
            device_id=row.device_id,
            device=row.device,
            figure=row.figure,
            sessions=(len(row.base), len(row.candidate)),
            paired=row.paired,
            medians=(float(np.median(list(row.base.values()))), float(np.median(list(row.candidate.values())))),
            judged=judged,
        )
        for group, of_group in zip(groups, verdicts, strict=True)
        for row, judged in zip(group, of_group, strict=True)
    ]


def _block(group: Sequence[_Row]) -> Block:
    signs = np.array([1.0 if BETTER[row.figure.metric] == "lower" else -1.0 for row in group])
    base, candidate = (
        np.log([[side[name] for side in sides] for name in sorted(sides[0])]) * signs
        for sides in ([row.base for row in group], [row.candidate for row in group])
    )
    return Block(base=base, candidate=candidate, paired=group[0].paired)

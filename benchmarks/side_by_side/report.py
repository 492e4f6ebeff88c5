"""The result of a run as Markdown tables for people and as JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.side_by_side.figures import GoalResult, SubjectFigures
from benchmarks.statistics import Spread

__all__ = ["Report", "as_json", "as_markdown"]

# metric, heading, factor, digits
EXPORT_COLUMNS = (
    ("export_wall_s", "export s", 1.0, 1),
    ("verification_s", "verification s", 1.0, 1),
    ("export_cpu_s", "export CPU s", 1.0, 1),
    ("export_peak_rss_bytes", "export peak RSS MB", 1e-6, 0),
    ("file_bytes", "file MB", 1e-6, 1),
    ("load_s", "load s", 1.0, 2),
)
RUN_COLUMNS = (
    ("prefill_128_tokens_per_s", "prefill 128 tok/s", 1.0, 1),
    ("prefill_512_tokens_per_s", "prefill 512 tok/s", 1.0, 1),
    ("decode_tokens_per_s", "decode tok/s", 1.0, 1),
    ("peak_rss_bytes", "run peak RSS MB", 1e-6, 0),
    ("net_peak_rss_bytes", "net of imports MB", 1e-6, 0),
    ("rss_anon_bytes", "RssAnon MB", 1e-6, 0),
    ("bytes_read_per_token", "MB read a token", 1e-6, 1),
    ("bandwidth_share", "share of bandwidth %", 100.0, 0),
)
MISSING = "–"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one run found."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    bandwidth: Spread
    subjects: tuple[SubjectFigures, ...]
    goals: tuple[GoalResult, ...]
    left_out: dict[str, str]


def as_markdown(report: Report) -> str:
    """The report for people: medians, with the extremes in brackets."""
    lines = ["# Export and run", ""]
    lines += [f"* {name}: {value}" for name, value in {**report.settings, **report.machine}.items()]
    lines += [f"* read bandwidth: {_cell(report.bandwidth, 1e-9, 1)} GB/s", ""]
    lines += [*_table("export and load", EXPORT_COLUMNS, report.subjects), ""]
    lines += [*_table("run", RUN_COLUMNS, report.subjects), ""]
    if report.goals:
        lines += [*_goal_lines(report.goals), ""]
    lines += [f"Not run: {name} ({reason})." for name, reason in report.left_out.items()]
    lines += ["Cells are medians over the rounds, with the smallest and largest in brackets. Ratios are taken round by"]
    lines += ["round. MB are 10^6 bytes. File bytes of the GGUF include its tokenizer; the others' don't."]
    return "\n".join(lines) + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs, with every round's value."""
    return asdict(report)


def _table(
    title: str, columns: tuple[tuple[str, str, float, int], ...], subjects: Sequence[SubjectFigures]
) -> list[str]:
    header = "| " + " | ".join([title, *(heading for _, heading, _, _ in columns)]) + " |"
    rule = "|---" + "|---:" * len(columns) + "|"
    rows = []
    for subject in subjects:
        cells = [_cell(subject.spread(metric), factor, digits) for metric, _, factor, digits in columns]
        rows.append("| " + " | ".join([subject.label, *cells]) + " |")
    return [header, rule, *rows]


def _goal_lines(goals: Sequence[GoalResult]) -> list[str]:
    lines = ["| ours against peer | metric | goal | ratio | met |", "|---|---|---:|---:|---|"]
    for result in goals:
        goal = result.goal
        bound = f"≥ {goal.at_least}" if goal.at_least is not None else f"≤ {goal.at_most}"
        pair = f"{goal.ours} / {goal.peer}"
        met = "yes" if result.met else "**no**"
        lines.append(f"| {pair} | {goal.metric} | {bound} | {_cell(result.ratio, 1.0, 2)} | {met} |")
    return lines


def _cell(found: Spread | None, factor: float, digits: int) -> str:
    if found is None:
        return MISSING
    median, low, high = (f"{value * factor:.{digits}f}" for value in (found.median, found.low, found.high))
    return median if low == high else f"{median} ({low}..{high})"

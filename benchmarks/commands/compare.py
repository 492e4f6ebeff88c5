"""Compare two sets of runs: is the candidate slower, larger or hungrier, or can't it be said.

Sessions are the unit, devices are compared each with itself. Exit status: 0 no regression, 1 a regression, 2 not
comparable (usage errors too); what is written about the statistics is in docs/device_lab.md.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.comparison.compare import Compared, Comparison, compare
from benchmarks.comparison.judge import TOLERANCE
from benchmarks.comparison.permutation import ALPHA
from benchmarks.comparison.sessions import BETTER
from benchmarks.comparison.sides import SIDE_HELP, read_side
from runtimes.errors import ProjectError

__all__ = ["as_json", "main"]

PIPE_WIDTH = 200
NOT_COMPARABLE = 2


def main(words: Sequence[str] | None = None) -> int:
    """Print what was found and give the exit status."""
    options = _parser().parse_args(words)
    try:
        base, candidate = (read_side(side, options.store) for side in (options.base, options.candidate))
    except ProjectError as error:
        sys.stderr.write(f"error: {error}\n")
        return NOT_COMPARABLE
    found = compare(
        base, candidate, metrics=options.metric, target=options.change / 100, tolerance=options.tolerance / 100
    )
    if options.json:
        sys.stdout.writelines(f"{line}\n" for line in as_json(found))
    else:
        _print(found, options.change)
    return found.exit_status


def as_json(found: Comparison) -> list[str]:
    """A JSON line a figure or refusal, then one with the notes and the exit status."""
    lines = [json.dumps(_figure_json(one)) for one in found.compared]
    lines += [
        json.dumps({"device": one.device, "verdict": "not comparable", "what": one.what, "reasons": one.reasons})
        for one in found.refused
    ]
    return [*lines, json.dumps({"notes": found.notes, "exit_status": found.exit_status})]


def _figure_json(one: Compared) -> dict[str, object]:
    judged = one.judged
    return {
        "device": one.device,
        "device_id": one.device_id,
        "case": one.figure.case,
        "metric": one.figure.metric,
        "verdict": judged.verdict,
        "sessions": one.sessions,
        "paired": one.paired,
        "medians": one.medians,
        "change": one.change,
        "interval_95": one.interval,
        "effect_size": judged.effect_size if math.isfinite(judged.effect_size) else None,
        "p_worse": judged.p_worse,
        "p_better": judged.p_better,
        "spread": judged.spread,
        "smallest_detectable_change": math.expm1(judged.detectable),
        "sessions_needed": judged.needed,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help=SIDE_HELP)
    parser.add_argument("candidate", metavar="CANDIDATE", help="the same")
    parser.add_argument("--store", help="database URL or SQLite file of the runs; by default your own store")
    parser.add_argument(
        "--metric", action="append", choices=sorted(BETTER), help="judge this (repeatable), and no other"
    )
    parser.add_argument(
        "--change", type=_percent, default=10.0, metavar="PERCENT", help="plan the sessions that find this much (10)"
    )
    parser.add_argument(
        "--tolerance",
        type=_percent,
        default=100 * TOLERANCE,
        metavar="PERCENT",
        help=f"changes of the median up to this are none ({100 * TOLERANCE:g})",
    )
    parser.add_argument("--json", action="store_true", help="JSON lines")
    return parser


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage above 0")
    return value


def _print(found: Comparison, target: float) -> None:
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    if found.compared:
        console.print(_table(found, target), markup=False)
    for refusal in found.refused:
        console.print(f"not comparable: {refusal.device}, {refusal.what}", markup=False)
        for reason in refusal.reasons:
            console.print(f"  {reason}", markup=False)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
    console.print(_summary(found), markup=False)


def _table(found: Comparison, target: float) -> Table:
    table = Table()
    headings = ("device", "case", "metric", "base", "candidate", "sessions", "change (95 %)", "effect", "p", "verdict")
    for name in (*headings, "detectable", f"sessions for {target:g} %"):
        table.add_column(name, no_wrap=True, justify="left" if name in headings[:3] else "right")
    for one in found.compared:
        judged = one.judged
        low, high = one.interval
        figures = (
            f"{one.medians[0]:.5g}",
            f"{one.medians[1]:.5g}",
            f"{one.sessions[0]} pairs" if one.paired else f"{one.sessions[0]}+{one.sessions[1]}",
            f"{one.change:+.1%} ({low:+.1%} to {high:+.1%})",
            f"{judged.effect_size:+.1f}",
            f"{min(judged.p_worse, judged.p_better):.4f}",
            judged.verdict,
            f"{math.expm1(judged.detectable):.1%}",
            "over 100000" if judged.needed is None else str(judged.needed),
        )
        table.add_row(one.device, one.figure.case, one.figure.metric, *figures)
    return table


def _summary(found: Comparison) -> str:
    count = len(found.compared)
    worse = sum(one.judged.verdict == "regression" for one in found.compared)
    better = sum(one.judged.verdict == "improvement" for one in found.compared)
    status = {0: "no regression", 1: "REGRESSION", 2: "NOT COMPARABLE"}[found.exit_status]
    return (
        f"{status}: {count} figures compared, {worse} worse, {better} better, {len(found.refused)} not comparable; "
        f"a false alarm in {ALPHA:.0%} of comparisons at most. Effect: in standard deviations between sessions, "
        "positive is worse. Detectable: found with 80 % power by as many sessions as there are"
    )

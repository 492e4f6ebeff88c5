"""The report as Markdown, short enough for a pull request: latest figures, then what failed and what is not valid.

Text from records is escaped for GitHub: it can't make a link, an image, markup, a table cell or a mention of a person.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["escape", "markdown"]

LATEST = 5
MOST_ROWS = 60
MOST_FAILURES = 20
FIGURES = (
    "decode_tok_s",
    "prefill_tok_s",
    "ttft_ms",
    "sustained_tok_s",
    "load_cold_ms",
    "load_warm_ms",
    "peak_pss_bytes",
    "peak_vm_hwm_bytes",
    "peak_phys_footprint_bytes",
    "joules_per_token",
    "bandwidth_share",
)
# what Markdown, HTML and GitHub read as more than text
SPECIAL = re.compile(r"([\\`*_\[\]#!|<>&@~:$]|(?<=www)\.)", re.IGNORECASE)


def escape(text: str) -> str:
    """Text that renders as itself, on one line, in a table cell."""
    return SPECIAL.sub(lambda match: f"&#{ord(match[1])};", " ".join(text.split()))


def markdown(content: Mapping[str, Any]) -> str:
    """The short form of what `content.collect` found."""
    lines = ["## Device lab", "", _summary(content), ""]
    if content["synthetic"]:
        lines += ["**These records were generated: no device measured anything shown here.**", ""]
    for case in content["cases"]:
        lines += _case(content, case)
    lines += _predicted(content)
    lines += _troubles(content)
    return "\n".join(lines).rstrip() + "\n"


def _summary(content: Mapping[str, Any]) -> str:
    valid = content["runs"].get("valid", [])
    virtual = sum(row.get("ok", 0) + row.get("other", 0) for row in content["virtual"])
    devices = len({group["device"] for group in content["groups"]})
    return (
        f"{len(valid)} runs on {devices} {'device' if devices == 1 else 'devices'}, {sum(valid)} of them valid; "
        f"{virtual} cases of virtual machines and emulators count in no figure."
    )


def _case(content: Mapping[str, Any], case: str) -> list[str]:
    names = {metric["name"]: metric for metric in content["metrics"]}
    values = content["cases"][case]["values"]
    shown = [name for name in FIGURES if name in values]
    rows = [row for group in range(len(content["groups"])) if (row := _row(content, case, group, shown)) is not None]
    if not rows or not shown:
        return []
    heads = ["device", "format", *(f"{names[name]['text']}, {names[name]['unit']}" for name in shown), "runs"]
    lines = [f"### {escape(case)}", "", f"Median of the last {LATEST} valid runs; – is not measured.", ""]
    lines += ["| " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * (len(shown) + 1)]
    lines += ["| " + " | ".join(row) + " |" for row in sorted(rows)[:MOST_ROWS]]
    more = len(rows) - MOST_ROWS
    return [*lines, *([f"| and {more} more, see the dashboard |"] if more > 0 else []), ""]


def _row(content: Mapping[str, Any], case: str, group: int, shown: Sequence[str]) -> list[str] | None:
    runs, column = content["runs"], content["cases"][case]
    here = [row for row, run in enumerate(column["run"]) if runs["group"][run] == group]
    valid = sorted(
        (row for row in here if runs["valid"][column["run"][row]]), key=lambda row: _time(content, case, row)
    )
    if not here:
        return None
    told = content["groups"][group]
    return [
        escape(f"{told['device']}, {told['series']}"),
        escape(f"{_format(told)}, {told['protocol']}"),
        *(_figure(column["values"][name], valid) for name in shown),
        f"{len(valid)} of {len(here)}",
    ]


def _format(group: Mapping[str, Any]) -> str:
    weights = "" if group["weights"] == "trained" else f", {group['weights']} weights"
    return f"{group['model']} {group['backend']} {group['scheme']}{weights}"


def _predicted(content: Mapping[str, Any]) -> list[str]:
    """What no device was asked for: it is the same for all devices, and stands in no table with measured figures."""
    rows = sorted(
        {
            (
                escape(_format(content["groups"][row["group"]])),
                escape(row["case"]),
                f"{row['joules_per_token'] * 1e3:.3g}",
                f"{row['bytes_per_token'] / 1e6:.4g}",
                f"{row['operations_per_token'] / 1e6:.4g}",
            )
            for row in content["predicted"]
        }
    )
    if not rows:
        return []
    lines = ["### Predicted energy, not measured", ""]
    lines += ["What a decoded token moves and computes, times stated costs.", ""]
    lines += ["| format | case | mJ/token | MB | million operations |", "| --- | --- | ---: | ---: | ---: |"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows[:MOST_ROWS]), ""]


def _figure(values: Sequence[float | None], rows: Sequence[int]) -> str:
    found = [value for row in rows if row < len(values) and (value := values[row]) is not None][-LATEST:]
    return f"{statistics.median(found):.4g}" if found else "–"


def _time(content: Mapping[str, Any], case: str, row: int) -> int:
    return int(content["runs"]["time"][content["cases"][case]["run"][row]])


def _troubles(content: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    differing = [row for row in content["backends"] if row["requested"] != row["effective"]]
    if differing:
        lines += ["### Ran on another backend than asked for", ""]
        lines += [
            f"* {escape(row['device'])}, {escape(row['artifact'])}: asked for {escape(row['requested'])}, "
            f"ran on {escape(row['effective'])} ({row['count']} cases)"
            for row in differing[:MOST_FAILURES]
        ]
        lines.append("")
    if content["violations"]:
        lines += ["### Not valid", ""]
        lines += [
            f"* {escape(row['device'])}: {escape(row['violation'])} ({row['count']} runs)"
            for row in content["violations"][:MOST_FAILURES]
        ]
        lines.append("")
    total = sum(count for status, count in content["statuses"].items() if status != "ok")
    if total:
        lines += [f"### Did not run to its end: {total} of {sum(content['statuses'].values())} cases", ""]
        lines += [
            f"* {escape(row['device'])}, {escape(row['artifact'])}, {escape(row['case'])}: "
            f"**{escape(row['status'])}**, {escape(row['reason'])}"
            for row in content["failures"][:MOST_FAILURES]
        ]
        if total > MOST_FAILURES:
            lines.append(f"* and {total - min(MOST_FAILURES, len(content['failures']))} more")
    return lines

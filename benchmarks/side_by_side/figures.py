"""From what workers print to the figures of the report: each metric is defined here, once.

A sample is one worker's JSON. A figure is a list with one value a round, in round order, so that ratios can be paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.roofline import bandwidth_share
from benchmarks.side_by_side.goals import Goal, is_met
from benchmarks.statistics import Spread, paired_ratio, spread

__all__ = ["GoalResult", "SubjectFigures", "check_goal", "export_figures", "run_figures"]


@dataclass(frozen=True, kw_only=True)
class SubjectFigures:
    """All figures of one subject, by metric."""

    name: str
    label: str
    values: dict[str, list[float]] = field(default_factory=dict)

    def spread(self, metric: str) -> Spread | None:
        """The metric's median and extremes, or None where it wasn't measured."""
        values = self.values.get(metric)
        return spread(values) if values else None


@dataclass(frozen=True, kw_only=True)
class GoalResult:
    """A goal with the ratio that was measured."""

    goal: Goal
    ratio: Spread
    met: bool


def run_figures(
    samples: Sequence[dict[str, Any]], bytes_per_token: float, bandwidths: Sequence[float]
) -> dict[str, list[float]]:
    """The figures of one subject's rounds; `bandwidths` has the memory's speed in the same rounds."""
    decode = [sample["decode_steps"] / sample["decode_s"] for sample in samples]
    figures = {
        "load_s": [sample["load_s"] for sample in samples],
        "peak_rss_bytes": [sample["peak_rss_bytes"] for sample in samples],
        "net_peak_rss_bytes": [sample["peak_rss_bytes"] - sample["imports_rss_bytes"] for sample in samples],
        "rss_anon_bytes": [sample["rss_anon_bytes"] for sample in samples],
        "decode_tokens_per_s": decode,
        "bytes_read_per_token": [bytes_per_token for _ in samples],
        "bandwidth_share": [
            bandwidth_share(bytes_per_token, rate, bandwidth)
            for rate, bandwidth in zip(decode, bandwidths, strict=True)
        ],
    }
    for count in samples[0]["prefill_s"]:
        figures[f"prefill_{count}_tokens_per_s"] = [int(count) / sample["prefill_s"][count] for sample in samples]
    return figures


def export_figures(records: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """The figures of one build's exports; empty where the build was given, not made."""
    made = [record for record in records if record["wall_s"] is not None]
    figures: dict[str, list[float]] = {"file_bytes": [records[0]["file_bytes"]]}
    if made:
        figures["export_wall_s"] = [record["wall_s"] - record["verification_s"] for record in made]
        figures["export_cpu_s"] = [record["cpu_s"] for record in made]
        figures["export_peak_rss_bytes"] = [record["peak_rss_bytes"] for record in made]
        figures["verification_s"] = [record["verification_s"] for record in made]
    return figures


def check_goal(goal: Goal, subjects: dict[str, SubjectFigures]) -> GoalResult | None:
    """The goal's ratio, or None where one side of it wasn't measured."""
    ours, peer = subjects.get(goal.ours), subjects.get(goal.peer)
    if ours is None or peer is None or goal.metric not in ours.values or goal.metric not in peer.values:
        return None
    ratio = paired_ratio(ours.values[goal.metric], peer.values[goal.metric])
    return GoalResult(goal=goal, ratio=ratio, met=is_met(goal, ratio.median))

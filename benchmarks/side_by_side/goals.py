"""The ratios this project promises against its peers, each to be met within one run.

A ratio is ours over the peer's; `at_least` and `at_most` say which side is good. A goal whose subjects were not both
measured is not shown as met.
"""

from dataclasses import dataclass

__all__ = ["GOALS", "Goal", "is_met"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One promised ratio of a metric."""

    ours: str
    peer: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None


ONNX = ("ours-onnx", "ours-onnx-stock")
EXECUTORCH = ("ours-executorch", "ours-executorch-stock")


def _onnx(subject: str) -> tuple[Goal, ...]:
    return (
        Goal(ours=subject, peer="genai-best", metric="prefill_512_tokens_per_s", at_least=1.15),
        Goal(ours=subject, peer="genai-default", metric="prefill_512_tokens_per_s", at_least=2.5),
        Goal(ours=subject, peer="llama-cpp", metric="prefill_512_tokens_per_s", at_least=1.0),
        Goal(ours=subject, peer="genai-best", metric="decode_tokens_per_s", at_least=1.05),
        Goal(ours=subject, peer="llama-cpp", metric="decode_tokens_per_s", at_least=1.0),
        Goal(ours=subject, peer="genai-best", metric="peak_rss_bytes", at_most=0.85),
        Goal(ours=subject, peer="genai-default", metric="peak_rss_bytes", at_most=0.6),
    )


def _executorch(subject: str) -> tuple[Goal, ...]:
    return (
        Goal(ours=subject, peer="export-llm-documented", metric="prefill_512_tokens_per_s", at_least=7.0),
        Goal(ours=subject, peer="export-llm-documented", metric="decode_tokens_per_s", at_least=1.25),
        Goal(ours=subject, peer="export-llm-documented", metric="net_peak_rss_bytes", at_most=0.9),
        Goal(ours=subject, peer="export-llm-best", metric="prefill_512_tokens_per_s", at_least=1.15),
        Goal(ours=subject, peer="export-llm-best", metric="decode_tokens_per_s", at_least=1.2),
        Goal(ours=subject, peer="export-llm-best", metric="net_peak_rss_bytes", at_most=0.85),
    )


GOALS = (
    Goal(ours="ours-onnx", peer="genai-default", metric="export_wall_s", at_most=1.0),
    Goal(ours="ours-onnx", peer="genai-best", metric="export_wall_s", at_most=1.0),
    Goal(ours="ours-onnx", peer="genai-best", metric="file_bytes", at_most=0.88),
    *(goal for subject in ONNX for goal in _onnx(subject)),
    Goal(ours="ours-executorch", peer="export-llm-documented", metric="file_bytes", at_most=0.78),
    Goal(ours="ours-executorch", peer="export-llm-best", metric="file_bytes", at_most=0.67),
    *(goal for subject in EXECUTORCH for goal in _executorch(subject)),
)


def is_met(goal: Goal, ratio: float) -> bool:
    """Whether a ratio keeps the promise."""
    if goal.at_least is not None:
        return ratio >= goal.at_least
    return goal.at_most is not None and ratio <= goal.at_most

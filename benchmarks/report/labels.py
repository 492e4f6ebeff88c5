"""What each figure is called, in which unit it is shown, and whether less or more of it is better.

Names, order and direction are those of `benchmarks.metrics`; a metric that isn't among them still appears, by the unit
at the end of its name.
"""

from dataclasses import dataclass
from typing import Literal

from benchmarks.metrics import METRICS

__all__ = ["ORDER", "Label", "label_of"]

Better = Literal["less", "more", "open"]


@dataclass(frozen=True, kw_only=True)
class Label:
    """How a metric is shown: the stored value times `scale`, in `unit`."""

    text: str
    unit: str
    scale: float
    better: Better


# what the report computes itself, beside the metrics of a case
DERIVED: dict[str, Better] = {"joules_per_token": "less", "decode_read_bytes_per_s": "more", "bandwidth_share": "more"}
ORDER = (*METRICS, *DERIVED)
TEXTS = {
    "ttft_ms": "time to first token",
    "tpot_ms": "time per token",
    "prefill_tok_s": "prefill",
    "decode_tok_s": "decode",
    "joules_per_token": "energy",
    "decode_read_bytes_per_s": "read while decoding",
    "bandwidth_share": "share of read bandwidth",
}
# words that are written otherwise than in names
WORDS = {"pss": "PSS", "rss": "RSS", "vm hwm": "VmHWM", "phys footprint": "phys_footprint", "rss anon": "RssAnon"}
# the ends of names, the more special first: unit, factor
UNITS: tuple[tuple[str, str, float], ...] = (
    ("_bytes_per_s", "GB/s", 1e-9),
    ("_tok_s", "tokens/s", 1),
    ("joules_per_token", "mJ/token", 1e3),
    ("_bytes", "MB", 1e-6),
    ("_ms", "ms", 1),
    ("_s", "s", 1),
    ("_c", "°C", 1),
    ("_share", "%", 100),
    ("_ratio", "", 1),
)


def label_of(metric: str) -> Label:
    """The label of a metric, known or not."""
    end, unit, scale = next((each for each in UNITS if metric.endswith(each[0])), ("", "", 1.0))
    words = metric.removesuffix(end).replace("_", " ").strip() or metric
    for word, written in sorted(WORDS.items(), key=lambda pair: -len(pair[0])):
        words = words.replace(word, written)
    return Label(text=TEXTS.get(metric, words), unit=unit, scale=scale, better=_better(metric))


def _better(metric: str) -> Better:
    if metric in METRICS:
        return "less" if METRICS[metric].better == "lower" else "more"
    return DERIVED.get(metric, "open")

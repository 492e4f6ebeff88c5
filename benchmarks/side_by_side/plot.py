"""Bars of the measured medians with their spread as one plain SVG, which any browser and any Markdown page shows."""

from collections.abc import Sequence
from html import escape

from benchmarks.side_by_side.figures import SubjectFigures

__all__ = ["bars_svg"]

PANELS = (
    ("prefill_512_tokens_per_s", "prefill of 512 tokens, tokens/s (more is better)", 1.0),
    ("decode_tokens_per_s", "decode, tokens/s (more is better)", 1.0),
    ("peak_rss_bytes", "run peak RSS, MB (less is better)", 1e-6),
    ("file_bytes", "file, MB (less is better)", 1e-6),
)
LABEL_WIDTH, BAR_WIDTH, VALUE_WIDTH = 300, 380, 90
ROW_HEIGHT, TITLE_HEIGHT = 20, 34
COLOURS = {True: "#1f6feb", False: "#8b949e"}


def bars_svg(subjects: Sequence[SubjectFigures]) -> str:
    """One panel a metric, one bar a subject, ours in colour."""
    parts: list[str] = []
    top = 0
    for metric, title, scale in PANELS:
        shown = [subject for subject in subjects if subject.values.get(metric)]
        if not shown:
            continue
        parts.append(_text(8, top + 22, title, "bold"))
        parts.extend(_rows(shown, metric, scale, top + TITLE_HEIGHT))
        top += TITLE_HEIGHT + ROW_HEIGHT * len(shown) + 8
    width = LABEL_WIDTH + BAR_WIDTH + VALUE_WIDTH
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" font-family="sans-serif">'
    background = f'<rect width="{width}" height="{top}" fill="white"/>'
    return "\n".join([head, background, *parts, "</svg>", ""])


def _rows(shown: Sequence[SubjectFigures], metric: str, scale: float, top: int) -> list[str]:
    longest = max(max(subject.values[metric]) for subject in shown)
    rows: list[str] = []
    for index, subject in enumerate(shown):
        found = subject.spread(metric)
        assert found is not None
        y = top + index * ROW_HEIGHT
        length, low, high = (BAR_WIDTH * value / longest for value in (found.median, found.low, found.high))
        rows.append(_text(8, y + 14, subject.label))
        colour = COLOURS[subject.name.startswith("ours")]
        rows.append(f'<rect x="{LABEL_WIDTH}" y="{y + 3}" width="{length:.1f}" height="13" fill="{colour}"/>')
        ends = f'x1="{LABEL_WIDTH + low:.1f}" x2="{LABEL_WIDTH + high:.1f}" y1="{y + 9.5}" y2="{y + 9.5}"'
        rows.append(f'<line {ends} stroke="black" stroke-width="1.5"/>')
        rows.append(_text(LABEL_WIDTH + BAR_WIDTH + 6, y + 14, f"{found.median * scale:.1f}"))
    return rows


def _text(x: float, y: float, content: str, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" font-size="12" font-weight="{weight}">{escape(content)}</text>'

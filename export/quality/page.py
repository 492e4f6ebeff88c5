"""The report as one HTML page that needs nothing else: plots by plotly, whose script is written into the page."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plotly import graph_objects
from plotly.offline import get_plotlyjs

from export.quality.metrics import Estimate, PositionBin
from export.quality.report import Report, Row
from export.quality.table import FIGURES as SHORT_FIGURES
from export.quality.table import FREE_FIGURES, OWN_FIGURES, written
from export.user_cache import write_atomically

FIGURES = {
    **SHORT_FIGURES,
    "median_kld": "median KLD",
    "max_kld": "largest KLD",
    "perplexity_ratio": "perplexity ratio",
}
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #d7dce1; padding: .25rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; }
.note { background: #fff6df; padding: .5rem 1rem; }
"""
HEIGHT_PX = 420


def write_page(report: Report, place: Path) -> None:
    """Write the page in one step."""
    write_atomically(place, page(report).encode())


def page(report: Report) -> str:
    """The whole page."""
    body = [
        "<h1>What quantization cost</h1>",
        f"<p>{html.escape(_summary(report))}</p>",
        *(f'<p class="note">{html.escape(warning)}</p>' for warning in report.warnings),
        "<h2>Figures</h2>",
        _figures(report),
        *_by_text(report),
        *_answers(report),
        *_plots(report),
        "<h2>Which tensor got which format</h2>",
        *_coverage(report),
    ]
    head = f'<meta charset="utf-8"><title>Quality</title><style>{STYLE}</style><script>{get_plotlyjs()}</script>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _summary(report: Report) -> str:
    text = report.text
    names = ", ".join(text["names"])
    return (
        f"{text['tokens']:,} predictions in {text['sequences']} sequences of {text['sequence_tokens']} tokens from "
        f"{names} (sha256 {text['sha256'][:16]}), against {report.against} (sha256 {report.checkpoint_sha256[:16]}). "
        "Each figure with one standard error, from a bootstrap of blocks; NLL and KLD in nats."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f'<div class="scroll"><table>{line(head, "th")}{"".join(line(row, "td") for row in rows)}</table></div>'


def _figures(report: Report) -> str:
    rows = []
    for row in [*report.noise_floor, *report.rows]:
        size = "" if row.bytes_per_token is None else f"{row.bytes_per_token:,}"
        rows.append([row.name, row.how, size, *(written(name, row.figures[name]) for name in FIGURES)])
    return _table(["candidate", "computed", "bytes/token", *FIGURES.values()], rows)


def _by_text(report: Report) -> list[str]:
    rows = [
        [f"{row.name}, {row.how}", text, *(written(name, figures[name]) for name in FIGURES)]
        for row in report.rows
        for text, figures in row.by_text.items()
    ]
    return ["<h2>Text by text</h2>", _table(["candidate", "text", *FIGURES.values()], rows)] if rows else []


def _answers(report: Report) -> list[str]:
    if not report.reference_free_text:
        return []
    names = {**OWN_FIGURES, **FREE_FIGURES}
    rows = [
        ["float", *[""] * len(OWN_FIGURES), *(written(name, report.reference_free_text[name]) for name in FREE_FIGURES)]
    ]
    for row in report.rows:
        figures: dict[str, Estimate] = {**{name: row.own_answers[name] for name in OWN_FIGURES}, **row.free_text}
        rows.append([f"{row.name}, {row.how}", *(written(name, figures[name]) for name in names)])
    return ["<h2>The float model's own answers, and free answers</h2>", _table(["candidate", *names.values()], rows)]


def _coverage(report: Report) -> list[str]:
    parts = []
    for name, held in report.coverage.items():
        total = sum(one.weights for one in held)
        rows = [[one.format, str(one.matrices), f"{one.weights / total:.2%}", f"{one.bytes:,}"] for one in held]
        listed = [[unit, form] for unit, form in report.formats[name].items()]
        parts += [
            f"<h3>{html.escape(name)}</h3>",
            _table(["format", "matrices", "share of weights", "bytes"], rows),
            f"<details><summary>every matrix</summary>{_table(['matrix', 'format'], listed)}</details>",
        ]
    return parts


def _plots(report: Report) -> list[str]:
    """Every plot that there is something to draw for, each under its heading."""
    drawn = {
        "What a byte buys": (
            _pareto(report),
            "Mean KLD by bytes that a token reads; the line joins what nothing beats.",
        ),
        "Along the text": (
            _positions(report.rows, "by_position"),
            "Mean KLD by position in a sequence, bins doubling in width; bars are one standard error.",
        ),
        "Along the answers": (
            _positions(report.rows, "answers_by_position"),
            "The same on the float model's own greedy answers, counted from the first token of an answer.",
        ),
        "Through the layers": (
            _layers(report.rows),
            "Relative error of the hidden states behind each layer; dashed, what the layer adds by itself, its inputs "
            "being the float model's.",
        ),
        "Layer by layer": (_sensitivity(report.rows), "Mean KLD of the float model with this part alone quantized."),
    }
    return [
        part for title, (figure, text) in drawn.items() if figure is not None for part in _plot(title, text, figure)
    ]


def _plot(title: str, text: str, figure: Any) -> list[str]:
    figure.update_layout(
        height=HEIGHT_PX, template="plotly_white", margin={"t": 60, "r": 20}, legend={"orientation": "h", "y": 1.1}
    )
    drawn: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    return [f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>", drawn]


def pareto(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other beats in both bytes and mean KLD, smallest first."""
    best: list[Row] = []
    sized = [row for row in rows if row.bytes_per_token is not None]
    for row in sorted(sized, key=lambda one: (one.bytes_per_token or 0, one.figures["mean_kld"].value)):
        if not best or row.figures["mean_kld"].value < best[-1].figures["mean_kld"].value:
            best.append(row)
    return best


def _pareto(report: Report) -> Any:
    rows = [row for row in report.rows if row.bytes_per_token is not None]
    if len(rows) < 2:
        return None
    figure = graph_objects.Figure()
    front = pareto(rows)
    figure.add_scatter(
        x=[row.bytes_per_token for row in front],
        y=[row.figures["mean_kld"].value for row in front],
        mode="lines",
        line={"dash": "dot"},
        name="nothing beats these",
    )
    for row in rows:
        found = row.figures["mean_kld"]
        figure.add_scatter(
            x=[row.bytes_per_token],
            y=[found.value],
            error_y=_bars([found]),
            mode="markers",
            name=f"{row.name}, {row.how}",
        )
    figure.update_layout(xaxis_title="bytes per decoded token", yaxis_title="mean KLD, nats", yaxis_type="log")
    return figure


def _bars(estimates: Sequence[Estimate]) -> dict[str, Any]:
    return {"type": "data", "array": [estimate.standard_error or 0.0 for estimate in estimates]}


def _positions(rows: Sequence[Row], name: str) -> Any:
    figure = graph_objects.Figure()
    for row in rows:
        bins: Sequence[PositionBin] = getattr(row, name)
        if bins:
            figure.add_scatter(
                x=[_span(one) for one in bins],
                y=[one.mean_kld for one in bins],
                error_y={"type": "data", "array": [one.kld_standard_error or 0.0 for one in bins]},
                mode="lines+markers",
                name=f"{row.name}, {row.how}",
            )
    figure.update_layout(xaxis={"title": "position", "type": "category"}, yaxis_title="mean KLD, nats")
    return figure if figure.data else None


def _span(one: PositionBin) -> str:
    return str(one.first) if one.first == one.last else f"{one.first} to {one.last}"


def _layers(rows: Sequence[Row]) -> Any:
    figure = graph_objects.Figure()
    for number, row in enumerate(row for row in rows if row.drift_by_layer):
        color = _COLORS[number % len(_COLORS)]
        layers = list(range(len(row.drift_by_layer)))
        name = f"{row.name}, {row.how}"
        figure.add_scatter(x=layers, y=list(row.drift_by_layer), mode="lines+markers", name=name, line={"color": color})
        own = list(row.own_error_by_layer)
        figure.add_scatter(x=layers, y=own, mode="lines", name=f"{name}, alone", line={"color": color, "dash": "dash"})
    figure.update_layout(xaxis={"title": "layer", "tickformat": "d"}, yaxis_title="relative error")
    return figure if figure.data else None


_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")


def _sensitivity(rows: Sequence[Row]) -> Any:
    figure = graph_objects.Figure()
    for row in rows:
        if row.sensitivity:
            estimates = [one.mean_kld for one in row.sensitivity]
            figure.add_bar(
                x=[one.part for one in row.sensitivity],
                y=[one.value for one in estimates],
                error_y=_bars(estimates),
                name=f"{row.name}, {row.how}",
            )
    figure.update_layout(xaxis_title="quantized alone", yaxis_title="mean KLD, nats")
    return figure if figure.data else None

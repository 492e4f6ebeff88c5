"""The report at a terminal: one table of figures with their standard errors, and a few short ones beside it."""

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from export.quality.metrics import Estimate
from export.quality.report import Report, Row
from export.quality.sensitivity import largest

SHOWN_PARTS = 5
SMALL = 1e-3  # shown with an exponent, and so with one digit
FIGURES = {
    "excess_nll": "excess NLL",
    "nll_ratio": "NLL ratio",
    "mean_kld": "mean KLD",
    "p99_kld": "p99",
    "p999_kld": "p99.9",
    "top1_agreement": "top-1",
}
OWN_FIGURES = {"flip_rate": "flips"}
FREE_FIGURES = {
    "repeated_4grams": "repeats",
    "looping_answers": "loops",
    "ended_answers": "ends",
    "equal_answers": "equal",
    "tokens_before_first_difference": "same start",
}
SHARES = {"top1_agreement", "flip_rate", "repeated_4grams", "looping_answers", "ended_answers", "equal_answers"}


def show(report: Report, console: Console) -> None:
    """Print the whole report."""
    text = report.text
    _say(console, f"{text['tokens']:,} predictions in {text['sequences']} sequences of {', '.join(text['names'])}")
    for number, row in enumerate(_rows(report), 1):
        size = "" if row.bytes_per_token is None else f", {row.bytes_per_token:,} bytes a token"
        _say(console, f"{number:>3}  {row.name}, {row.how}{size}")
    console.print(_figures(report))
    _say(console, "± one standard error (bootstrap of blocks); NLL and KLD in nats; float rows are the noise floor")
    if report.reference_free_text:
        console.print(_answers(report))
    for name, parts in report.coverage.items():
        total = sum(part.weights for part in parts)
        held = ", ".join(
            f"{part.format}: {part.matrices} matrices, {part.weights / total:.1%} of weights" for part in parts
        )
        _say(console, f"{name} holds {held}")
    for row in report.rows:
        if row.sensitivity:
            worst = ", ".join(
                f"{one.part} {one.mean_kld.value:.3g}" for one in largest(list(row.sensitivity), SHOWN_PARTS)
            )
            _say(console, f"{row.name}: quantized alone, these cost most (mean KLD): {worst}")
    for warning in report.warnings:
        _say(console, f"note: {warning}")


def _rows(report: Report) -> list[Row]:
    return [*report.noise_floor, *report.rows]


def _figures(report: Report) -> Table:
    table = _table(["", *FIGURES.values()])
    for number, row in enumerate(_rows(report), 1):
        table.add_row(str(number), *_cells(row.figures, FIGURES))
    return table


def _answers(report: Report) -> Table:
    table = _table(["", *OWN_FIGURES.values(), *FREE_FIGURES.values()])
    table.title = "on the float model's greedy answers, and in free answers"
    table.add_row("float", *[""] * len(OWN_FIGURES), *_cells(report.reference_free_text, FREE_FIGURES))
    for number, row in enumerate(report.rows, len(report.noise_floor) + 1):
        table.add_row(str(number), *_cells(row.own_answers, OWN_FIGURES), *_cells(row.free_text, FREE_FIGURES))
    return table


def _table(titles: list[str]) -> Table:
    """A table that fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right")
    return table


def _cells(figures: Mapping[str, Estimate], names: Mapping[str, str]) -> list[str]:
    return [written(name, figures[name]) if name in figures else "" for name in names]


def written(name: str, estimate: Estimate) -> str:
    """A figure with its standard error, shares in percent."""
    error = estimate.standard_error
    if name in SHARES:
        return f"{estimate.value:.1%}" + ("" if error is None else f"±{100 * error:.1f}")
    digits = 4 if name == "nll_ratio" else 3 if abs(estimate.value) >= SMALL else 1
    return f"{estimate.value:.{digits}g}{'' if error is None else f'±{error:.1g}'}".replace("e-0", "e-")


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)

"""`python -m export quality`: what artifacts and quantized checkpoints lost against a float checkpoint."""

import argparse
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from export.quality.report import Report

SUMMARY = "measure what an artifact, a bundle or a quantized checkpoint lost against its float checkpoint"
DEFAULT_TOKENS = 4096
MOST_PROMPTS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("subjects", nargs="+", metavar="PATH", help="artifact, bundle, quantized checkpoint or float checkpoint")
    add("--against", required=True, metavar="CHECKPOINT", help="float checkpoint directory, or a model such as tiny")
    add(
        "--text",
        action="append",
        default=[],
        metavar="FILE",
        help="text or .jsonl to read; repeatable (default: the checkpoint's held_out.txt, else Python's docstrings)",
    )
    add(
        "--tokens",
        type=int,
        default=DEFAULT_TOKENS,
        metavar="N",
        help=f"tokens to read at most (default: {DEFAULT_TOKENS}; 20000 and more for figures to publish)",
    )
    add(
        "--prompts",
        type=int,
        default=MOST_PROMPTS,
        metavar="N",
        help=f"prompts to answer freely, 0 to {MOST_PROMPTS} (default: {MOST_PROMPTS})",
    )
    add("--runtime", action="store_true", help="measure artifacts in their own runtime as well, token by token")
    add(
        "--activations",
        metavar="KIND",
        help="emulate none, int8_group (ONNX) or int8_token (XNNPACK) (default: what the artifact's runtime does)",
    )
    add("--sensitivity", action="store_true", help="also quantize each layer alone and see what it costs")
    add("--html", metavar="FILE", help="write one self-contained page with plots")
    add("--record", action="store_true", help="write the figures into each artifact's manifest (measured.quality)")
    add("--json", action="store_true", help="the report as JSON on stdout; progress stays on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Measure, show, and write what was asked for."""
    from rich.console import Console

    from export.cli import Bars
    from export.quality.record import record
    from export.quality.report import Options, make_report
    from export.quality.table import show

    options = Options(
        subjects=tuple(arguments.subjects),
        against=arguments.against,
        texts=tuple(map(Path, arguments.text)),
        tokens=arguments.tokens,
        runtime=arguments.runtime,
        activations=arguments.activations,
        prompts=arguments.prompts,
        sensitivity=arguments.sensitivity,
    )
    page = None if arguments.html is None else _page(Path(arguments.html))
    with Bars(quiet=arguments.json or not sys.stderr.isatty()) as progress:
        report = make_report(options, progress)
    if page is not None:
        page(report)
    if arguments.record:
        record(report)
    if arguments.json:
        sys.stdout.write(json.dumps(report.to_dict(), allow_nan=False) + "\n")
    else:
        show(report, Console())
    return 0


def _page(place: Path) -> "Callable[[Report], None]":
    """What writes the page; that it can is known before anything is measured."""
    from export.errors import MissingPackageError, OutputError

    if find_spec("plotly") is None:
        raise MissingPackageError("--html needs the package plotly; install qwen-edge[report], or leave out --html")
    if not place.absolute().parent.is_dir():
        raise OutputError(f"--html {place}: its directory does not exist; make it, or name another place")
    from export.quality.page import write_page

    return lambda report: write_page(report, place)

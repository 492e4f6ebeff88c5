"""Write the dashboard of a store, one HTML file, or its short form in Markdown.

The page holds everything it shows and asks nothing of any network, so it can be opened from a disk, attached to a run
of CI or mailed. Virtual machines and emulators stand in no figure.
"""

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.report.content import collect
from benchmarks.report.markdown import markdown
from benchmarks.report.page import html
from benchmarks.store import RunFilter, open_store

__all__ = ["main"]

EXAMPLES = """\
examples:
  python -m benchmarks report --open
  python -m benchmarks report --store postgresql://lab@db/results --out /srv/www/lab.html
  python -m benchmarks report --markdown --session night-2026-11-22 > summary.md
  python -m benchmarks report --bandwidth "Pixel 8=51.2" --bandwidth "Galaxy S24=76.8"
      GB/s that a device's memory can deliver, for the share of the roofline
"""
PAGE = Path("build/device-lab.html")
GIGABYTE = 1e9


def main(words: Sequence[str] | None = None) -> int:
    """Read the store, write the report; the place of the page, or the Markdown, goes to stdout."""
    options = _parser().parse_args(words)
    wanted = RunFilter(session_id=options.session, since=options.since)
    with open_store(options.store) as store:
        content = collect(store.runs(wanted), dict(options.bandwidth))
    if options.markdown and options.out is None:
        sys.stdout.write(markdown(content))
        return 0
    place = options.out or PAGE
    _write(place, markdown(content) if options.markdown else html(content))
    sys.stdout.write(f"{place}\n")
    if options.open:
        webbrowser.open(place.resolve().as_uri())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", metavar="URL", help="database URL, or a SQLite file (the user's own store)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"where to write (page: {PAGE}; Markdown: stdout)")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    parser.add_argument("--markdown", action="store_true", help="the short form, for a pull request")
    parser.add_argument("--session", metavar="NAME", help="only runs of this session")
    parser.add_argument("--since", type=_day, metavar="DAY", help="only runs from this day (YYYY-MM-DD, UTC) on")
    parser.add_argument(
        "--bandwidth",
        type=_bandwidth,
        action="append",
        default=[],
        metavar="MODEL=GB/S",
        help="what the memory of devices of this model can deliver; repeatable",
    )
    return parser


def _write(place: Path, text: str) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(
            f"--out {place}: {error.strerror}; name a file in a directory that can be written"
        ) from error


def _day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2026-11-22") from error


def _bandwidth(text: str) -> tuple[str, float]:
    """A device's model and its bytes a second."""
    model, equals, number = text.rpartition("=")
    try:
        gigabytes = float(number)
    except ValueError:
        gigabytes = 0.0
    if not equals or not model or not 0 < gigabytes < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a device's model and GB/s such as 'Pixel 8=51.2'")
    return model, gigabytes * GIGABYTE

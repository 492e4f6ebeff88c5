"""Look into the store of runs, add records to it, check it, and write it out as CSV, JSON lines or PyTorch's rows."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.comparison.sides import read_side
from benchmarks.exchange import oss_v3_rows, write_csv
from benchmarks.metrics import case_metrics
from benchmarks.record import SCHEMA_FILE, RunRecord, schema
from benchmarks.store import RecordStore, RunFilter, default_url, open_store
from benchmarks.stream import parse_stream

__all__ = ["main"]

PIPE_WIDTH = 200


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a named error or a store that is damaged, 2 usage."""
    options = _parser().parse_args(words)
    if options.action == "schema":
        return _schema(write=options.write)
    with open_store(options.store) as store:
        action: Callable[[RecordStore, argparse.Namespace], int] = options.run
        return action(store, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks store", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the runs, oldest first")
    listing.add_argument("--json", action="store_true", help="JSON lines")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", help="one whole record as JSON")
    show.add_argument("run_id", metavar="RUN")
    show.set_defaults(run=_show)
    add = actions.add_parser("add", help="store records, as farms and other machines bring them")
    add.add_argument("files", nargs="+", metavar="FILE", help="JSON of a record, JSON lines, or a folder of such files")
    add.set_defaults(run=_add)
    export = actions.add_parser("export", help="write all runs to stdout")
    export.add_argument("--format", choices=sorted(FORMATS), default="csv", help="(csv)")
    export.set_defaults(run=lambda store, options: FORMATS[options.format](store))
    check = actions.add_parser("check", help="read everything back: hashes, metrics against their events, the database")
    check.set_defaults(run=_check)
    for action in (listing, show, add, export, check):
        action.add_argument("--store", help=f"database URL or SQLite file ({default_url()})")
    shape = actions.add_parser("schema", help="the JSON Schema of a record")
    shape.add_argument("--write", action="store_true", help=f"write it to {SCHEMA_FILE.name} beside the module")
    return parser


def _list(store: RecordStore, options: argparse.Namespace) -> int:
    if options.json:
        for record in store.runs():
            sys.stdout.write(_ascii(record, without={"cases"}) + "\n")
        return 0
    table = Table()
    for name in ("run", "session", "started", "device", "artifact", "cases ok", "valid"):
        table.add_column(name, no_wrap=True)
    for record in store.runs():
        table.add_row(*_row(record))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table, markup=False)
    return 0


def _row(record: RunRecord) -> tuple[str, ...]:
    device, artifact = record.device, record.artifact
    done = sum(case.status == "ok" for case in record.cases)
    return (
        record.run_id,
        record.session_id,
        f"{record.started_at:%Y-%m-%d %H:%M}",
        f"{device.model or device.kind} #{device.id[:4]}",
        f"{artifact.model} {artifact.scheme} {artifact.backend} {artifact.sha256[:8]}",
        f"{done}/{len(record.cases)}",
        "yes" if record.validity.valid else "no",
    )


def _show(store: RecordStore, options: argparse.Namespace) -> int:
    sys.stdout.write(_ascii(store.get(options.run_id), indent=1) + "\n")
    return 0


def _ascii(record: RunRecord, *, indent: int | None = None, without: set[str] | None = None) -> str:
    """JSON for a terminal: an event of somebody else's record may hold any character, here it is escaped."""
    return json.dumps(record.model_dump(mode="json", exclude=without), indent=indent)


def _add(store: RecordStore, options: argparse.Namespace) -> int:
    for file in options.files:
        new = sum(store.append(record) for record in read_side(str(Path(file)), options.store))
        sys.stdout.write(f"{file}: {new} new runs\n")
    return 0


def _export_csv(store: RecordStore) -> int:
    write_csv(store.runs(), sys.stdout)
    return 0


def _export_jsonl(store: RecordStore) -> int:
    for record in store.runs():
        sys.stdout.write(record.model_dump_json() + "\n")
    return 0


def _export_oss_v3(store: RecordStore) -> int:
    for record in store.runs():
        for row in oss_v3_rows(record):
            sys.stdout.write(json.dumps(row) + "\n")
    return 0


FORMATS: dict[str, Callable[[RecordStore], int]] = {
    "csv": _export_csv,
    "jsonl": _export_jsonl,
    "oss-v3": _export_oss_v3,
}


def _check(store: RecordStore, _options: argparse.Namespace) -> int:
    problems = store.check()
    if not problems:
        for name in store.run_ids():
            problems += [f"run {name!r}: {problem}" for problem in _disagreements(store, name)]
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    count = len(store.run_ids(RunFilter()))
    sys.stdout.write(f"{count} runs, {len(problems)} problems\n")
    return 1 if problems else 0


def _disagreements(store: RecordStore, run_id: str) -> list[str]:
    """Cases whose stored metrics aren't what their events give; the definition of a metric may have changed since."""
    found = []
    for case in store.get(run_id).cases:
        if case.status == "ok":
            timeline = parse_stream(case.stream_bytes).timeline
            again = next((case_metrics(one) for one in timeline.cases if one.name == case.case_id), {})
            changed = sorted(name for name in again if name in case.metrics and again[name] != case.metrics[name])
            if changed or not again:
                found.append(f"case {case.case_id!r}: its events now give other {', '.join(changed) or 'cases'}")
    return found


def _schema(*, write: bool) -> int:
    text = json.dumps(schema(), indent=2) + "\n"
    if write:
        SCHEMA_FILE.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0

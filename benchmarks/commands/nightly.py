"""Run a night: the matrix of models, formats and devices, on owned phones and farms.

Exit status: 0 every case of every job is ok, 1 something is not, 2 usage. It may be ended at any moment, and ends its
runs with it; started again with the same night, it goes on where it was.
"""

import argparse
import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.nightly.config import read_config
from benchmarks.nightly.exports import command
from benchmarks.nightly.ledger import JobState
from benchmarks.nightly.night import Night, run_night
from benchmarks.nightly.plan import Job, plan
from benchmarks.store import open_store

__all__ = ["main"]

EXAMPLES = """\
examples:
  python -m benchmarks nightly --config benchmarks/nightly.toml --plan
  python -m benchmarks nightly --config benchmarks/nightly.toml
  python -m benchmarks nightly --config benchmarks/nightly.toml --night 2026-11-22
      go on with that night, or say what became of it
"""
ROOT = Path("build/nightly")


def main(words: Sequence[str] | None = None) -> int:
    """Plan, or plan and run; what became of each job goes to stdout, progress to stderr."""
    options = _parser().parse_args(words)
    config = read_config(options.config)
    jobs = plan(config, options.night)
    if options.plan:
        _print_plan(jobs, as_json=options.json)
        return 0
    with open_store(options.store) as store, _ends_at_once():
        night = Night(config=config, store=store, store_url=options.store, root=options.work_dir.resolve(), say=_say)
        states = run_night(night, jobs)
    for state in states:
        sys.stdout.write(f"{state.model_dump_json() if options.json else _told(state)}\n")
    return 0 if all(state.state == "done" for state in states) else 1


@contextmanager
def _ends_at_once() -> Iterator[None]:
    """Whoever ends a night need not wait for its threads: what is on disk is whole, and its processes are tethered."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks nightly",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the matrix, such as nightly.toml")
    parser.add_argument("--plan", action="store_true", help="print the jobs and stop")
    parser.add_argument("--night", type=_night, default=f"{datetime.now(UTC):%Y-%m-%d}", help="its name (today, UTC)")
    parser.add_argument("--store", metavar="URL", help="database URL, or a SQLite file (the user's own store)")
    parser.add_argument("--work-dir", type=Path, default=ROOT, metavar="DIR", help=f"exports and jobs ({ROOT})")
    parser.add_argument("--json", action="store_true", help="one JSON line a job")
    return parser


def _night(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name such as 2026-11-22")
    return text


def _print_plan(jobs: Sequence[Job], *, as_json: bool) -> None:
    for job in jobs:
        if as_json:
            told = {"job_id": job.job_id, "device": job.device, "farm": job.farm, "backend": job.backend}
            told["export"] = " ".join(command(job.export, ROOT / "exports" / job.export.name)[1:])
            sys.stdout.write(f"{json.dumps(told)}\n")
        else:
            sys.stdout.write(f"{job.device} ({job.farm}): {job.export.model} {job.export.scheme} {job.backend}\n")


def _told(state: JobState) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(state.cases.items())) or "no case"
    return f"{state.job_id}: {state.state}, {counts}{f': {state.reason}' if state.reason else ''}"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")

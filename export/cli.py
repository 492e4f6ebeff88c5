"""The command line of the exporter: the only module of `export` that prints, reads arguments or exits."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from export import catalog
from export.bundle import Bundle
from export.errors import UnknownNameError
from export.pipeline import export
from export.plan import Plan, format_counts, make_plan
from export.sources import model_names, read_model_entry, source_names
from export.spec import DEFAULT_CONTEXT_LENGTH, DEFAULT_METHOD, DEFAULT_SCHEME, ExportSpec, parse_bytes
from runtimes.errors import ProjectError

EXAMPLES = """\
examples:
  python -m export --target android                                   Qwen3.5-0.8B from the Hub, int4, ONNX and ExecuTorch
  python -m export --target android --model tiny                      the trained tiny model in the repo, no network
  python -m export --target android --model qwen3.5-4b --scheme int8
  python -m export --target android --checkpoint ./my-finetune        any local Qwen3.5 checkpoint
  python -m export --target android --model qwen3.5-4b --checkpoint random    real shapes, random weights: timing only
  python -m export --target android --backend onnx --budget 500MB --plan      say what would be done, do nothing
"""
KINDS = ("targets", "schemes", "quantize", "backends")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 a named error, 2 wrong usage, 130 interrupted."""
    arguments = build_parser().parse_args(argv)
    try:
        return _run(arguments)
    except ProjectError as error:
        return _fail(str(error), arguments.json)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again, finished layers are kept", arguments.json)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        _print_catalog(arguments.json)
        return 0
    if arguments.target is None:
        raise UnknownNameError("target", "", catalog.names("targets"))
    spec = _spec(arguments)
    if arguments.plan:
        _print_plan(make_plan(spec), arguments.json)
        return 0
    with _Bars(quiet=arguments.json or not sys.stderr.isatty()) as progress:
        bundle = export(spec, progress)
    _print_bundle(bundle, arguments.json)
    return 0


def _spec(arguments: argparse.Namespace) -> ExportSpec:
    model = arguments.model or (Path(arguments.checkpoint).name if arguments.checkpoint else "qwen3.5-0.8b")
    out = arguments.out or Path("build") / f"{model.replace('/', '_')}-{arguments.target}-{arguments.scheme}"
    return ExportSpec(
        target=arguments.target,
        out=Path(out),
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        source=arguments.source,
        scheme=arguments.scheme,
        method=arguments.method,
        group_size=arguments.group_size,
        backends=tuple(arguments.backend or ()),
        modality=arguments.modality,
        context_length=arguments.context_length,
        budget_bytes=parse_bytes(arguments.budget) if arguments.budget else None,
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn a Qwen3.5 checkpoint into verified, quantized model bundles for phones.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--target", metavar="NAME", help=f"device class to build for: {', '.join(catalog.names('targets'))}")
    add(
        "--model",
        metavar="NAME",
        help=f"{', '.join(model_names())}, or a hub id (default: the checkpoint's, else qwen3.5-0.8b)",
    )
    add(
        "--checkpoint",
        metavar="PATH",
        help="a local checkpoint directory, or 'random' for random weights of the model's shapes",
    )
    add(
        "--source",
        default="huggingface",
        metavar="NAME",
        help=f"hub to fetch from: {', '.join(source_names())} (default: huggingface)",
    )
    add(
        "--scheme",
        default=DEFAULT_SCHEME,
        metavar="NAME",
        help=f"{', '.join(catalog.names('schemes'))} (default: {DEFAULT_SCHEME})",
    )
    add(
        "--method",
        default=DEFAULT_METHOD,
        metavar="NAME",
        help=f"how weights are rounded: {', '.join(catalog.names('quantize'))} (default: {DEFAULT_METHOD})",
    )
    add(
        "--group-size",
        type=int,
        metavar="N",
        help="weights that share a scale in 4-bit matrices (default: the scheme's)",
    )
    add(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"{', '.join(catalog.names('backends'))}; repeatable (default: all of the target's)",
    )
    add("--modality", default="text", metavar="NAME", help="text (default: text)")
    add(
        "--context-length",
        type=int,
        default=DEFAULT_CONTEXT_LENGTH,
        metavar="TOKENS",
        help=f"longest conversation (default: {DEFAULT_CONTEXT_LENGTH})",
    )
    add("--budget", metavar="SIZE", help="fail early if the bundle would be larger, such as 480MB (powers of 1000)")
    add("--out", type=Path, metavar="DIR", help="the bundle's directory (default: build/MODEL-TARGET-SCHEME)")
    add("--plan", action="store_true", help="print what would be done and stop")
    add("--list", action="store_true", help="print everything that can be named and stop")
    add("--json", action="store_true", help="results as JSON lines")
    return parser


class _Bars:
    """Progress bars on stderr at a terminal, one line a stage elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self._console, transient=True, disable=quiet)
        self._task: TaskID | None = None
        self._unit = "B"
        self._name = ""
        self._start = time.monotonic()

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_stage()
        self._progress.stop()

    def stage(self, name: str, total: int | None = None, unit: str = "B") -> None:
        self._end_stage()
        self._name, self._unit, self._start = name, unit, time.monotonic()
        self._task = self._progress.add_task(name, total=total, done="")
        if self._quiet:
            self._console.print(f"{name} ...", highlight=False)

    def step(self, name: str, count: int = 0) -> None:
        if self._task is None:
            return
        self._progress.advance(self._task, count)
        task = next(task for task in self._progress.tasks if task.id == self._task)
        done = f"{task.completed / 1e6:.0f} MB" if self._unit == "B" else f"{task.completed:.0f} {self._unit}s"
        self._progress.update(self._task, description=f"{self._name} · {name}", done=done)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def _end_stage(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._console.print(f"{self._name}: {time.monotonic() - self._start:.1f} s", highlight=False)
            self._task = None


def _fail(message: str, as_json: bool) -> int:
    print(f"error: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message}))
    return 1


def _print_bundle(bundle: Bundle, as_json: bool) -> None:
    if as_json:
        print(json.dumps(bundle.to_dict()))
        return
    table = Table(title=f"bundle {bundle.path}: {bundle.total_bytes:,} bytes")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name, count in bundle.files.items():
        table.add_row(name, f"{count:,}")
    console = Console()
    console.print(table)
    for name, artifact in bundle.artifacts.items():
        parity = artifact.manifest.measured.parity or {}
        passed = [check["name"] for check in parity.get("checks", []) if check["outcome"] == "passed"]
        skipped = [
            f"{check['name']} ({check['reason']})"
            for check in parity.get("checks", [])
            if check["outcome"] == "skipped"
        ]
        console.print(f"{name}: {len(passed)} checks passed" + (f", skipped: {'; '.join(skipped)}" if skipped else ""))


def _print_plan(plan: Plan, as_json: bool) -> None:
    rows = [
        {
            "backend": build.backend,
            "runtime": build.module.RUNTIME,
            "model_bytes": build.model_bytes,
            "formats": format_counts(build.layout),
        }
        for build in plan.builds
    ]
    if as_json:
        print(json.dumps({"model": plan.model, "out": str(plan.spec.out), "builds": rows}))
        return
    print(
        f"{plan.model}, scheme {plan.spec.scheme}, method {plan.spec.method}, context {plan.spec.context_length} tokens, to {plan.spec.out}"
    )
    for row in rows:
        formats = ", ".join(f"{count} x {form}" for form, count in row["formats"].items())
        print(f"  {row['backend']}: {row['model_bytes']:,} bytes of weights, matrices: {formats}")


def _print_catalog(as_json: bool) -> None:
    listed: dict[str, Any] = {kind: {name: _summary(kind, name) for name in catalog.names(kind)} for kind in KINDS}
    listed["models"] = {name: _origin(name) for name in model_names()}
    listed["sources"] = dict.fromkeys(source_names(), "")
    if as_json:
        print(json.dumps(listed))
        return
    for kind, entries in listed.items():
        print(f"{'methods' if kind == 'quantize' else kind}:")
        for name, summary in entries.items():
            print(f"  {name:16} {summary}")


def _summary(kind: str, name: str) -> str:
    module = catalog.load(kind, name)
    return str(module.SCHEME.summary if kind == "schemes" else module.SUMMARY)


def _origin(name: str) -> str:
    entry = read_model_entry(name)
    return f"{entry.hub_id} at {entry.revision}" if entry.hub_id else "trained, in the repository"


def entry_point() -> NoReturn:
    """The console script."""
    sys.exit(main())

"""The command line of the exporter: the only module of `export` that prints, reads arguments or exits."""

import argparse
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from export import apps, catalog
from export.bundle import Bundle
from export.errors import SpecError
from export.pipeline import export
from export.plan import Plan, format_counts, make_plan
from export.sources import DEFAULT_SOURCE, RANDOM, model_names, read_model_entry, source_names
from export.spec import (
    DEFAULT_CALIBRATION_TOKENS,
    DEFAULT_CONTEXT_LENGTH,
    DEFAULT_METHOD,
    DEFAULT_MODALITY,
    DEFAULT_MODEL,
    DEFAULT_SCHEME,
    DEFAULT_WORKERS,
    MODALITIES,
    PLAIN_METHOD,
    RECOVERED_METHOD,
    STATIC_METHOD,
    ExportSpec,
    parse_bytes,
)
from runtimes.errors import ProjectError

EXAMPLES = """\
examples:
  Qwen3.5-0.8B from the Hub, int4, ONNX and ExecuTorch:
    python -m export --target android
  the trained tiny model in the repository, without network:
    python -m export --target android --model tiny
  another size in another scheme, or any local Qwen3.5 checkpoint:
    python -m export --target android --model qwen3.5-4b --scheme int8
    python -m export --target android --checkpoint ./my-finetune
  real shapes with random weights, for timing only:
    python -m export --target android --model qwen3.5-4b --checkpoint random
  put it into the demo app, which a script then pushes to a phone:
    python -m export --target android --into android_demo
  only say what would be done, and whether it fits:
    python -m export --target android --backend onnx --budget 500MB --plan
"""
KINDS = ("targets", "schemes", "quantize", "backends")
NOISY = ("torchao", "torch.utils._pytree")  # they warn at each import about kernels that are not used here
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 a named error, 2 wrong usage, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in catalog.names("commands"):
        arguments = build_command_parser(argv[0]).parse_args(argv[1:])
        return _guarded(catalog.load("commands", argv[0]).run, arguments)
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.target is None and not arguments.list:
        parser.error(f"--target is missing; known: {', '.join(catalog.names('targets'))}")
    return _guarded(_run, arguments)


def _guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """The exit status of a command, errors that are named ones printed in one line."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    as_json: bool = getattr(arguments, "json", False)
    try:
        return run(arguments)
    except ProjectError as error:
        return _fail(str(error), as_json)
    except KeyboardInterrupt:
        _fail("interrupted, nothing was sealed; run the same command again, finished layers are kept", as_json)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read us has left: say no more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        _print_catalog(arguments.json)
        return 0
    spec = _spec(arguments)
    app = None if arguments.into is None else apps.open_app(arguments.target, Path(arguments.into))
    if app is not None:
        apps.check_fits(app, make_plan(spec))
    if arguments.plan:
        _print_plan(make_plan(spec), arguments.json)
        return 0
    with Bars(quiet=arguments.json or not sys.stderr.isatty()) as progress:
        bundle = export(spec, progress)
    _print_bundle(bundle, arguments.json)
    for line in [] if app is None else apps.install(app, arguments.target, bundle):
        print(line, file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _spec(arguments: argparse.Namespace) -> ExportSpec:
    return ExportSpec(
        target=arguments.target,
        out=_out(arguments),
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        source=arguments.source,
        scheme=arguments.scheme,
        method=arguments.method,
        group_size=arguments.group_size,
        calibration=_calibration(arguments),
        calibration_tokens=arguments.calibration_tokens,
        backends=tuple(arguments.backend or ()),
        modality=arguments.modality,
        context_length=arguments.context_length,
        budget_bytes=None if arguments.budget is None else parse_bytes(arguments.budget),
        workers=arguments.workers,
    )


def _calibration(arguments: argparse.Namespace) -> Path | None:
    if arguments.calibration == "":
        raise SpecError("--calibration is empty; leave it out, or name a file (an unset shell variable?)")
    return None if arguments.calibration is None else Path(arguments.calibration)


def _out(arguments: argparse.Namespace) -> Path:
    """The bundle's directory; by default its name says what is in it, random weights above all."""
    if arguments.out == "":
        raise SpecError("--out is empty; leave it out, or name a directory (an unset shell variable?)")
    if arguments.out is not None:
        return Path(arguments.out)
    if arguments.checkpoint in (None, RANDOM):
        name = read_model_entry(arguments.model or DEFAULT_MODEL).name
        name += "-random" if arguments.checkpoint == RANDOM else ""
    else:
        name = Path(arguments.checkpoint).resolve().name or "checkpoint"
    return Path("build") / f"{name}-{arguments.target}-{arguments.scheme}"


def build_parser() -> argparse.ArgumentParser:
    """The options; a page of the docs is written from them."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn a Qwen3.5 checkpoint into verified, quantized model bundles for phones.",
        epilog=EXAMPLES + _other_commands(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_choices(parser)
    add = parser.add_argument
    add(
        "--group-size",
        type=int,
        metavar="N",
        help="weights that share a scale in 4-bit matrices: 32, 64 or 128 (default: the scheme's)",
    )
    add(
        "--calibration",
        metavar="FILE",
        help="what the method learns from: text, or .jsonl with 'text', 'messages' or 'prompt' and 'response' "
        "(default: what the model writes itself)",
    )
    add(
        "--calibration-tokens",
        type=int,
        default=DEFAULT_CALIBRATION_TOKENS,
        metavar="N",
        help=f"how much of that file it learns from (default: {DEFAULT_CALIBRATION_TOKENS}; more helps guided most)",
    )
    add(
        "--context-length",
        type=int,
        default=DEFAULT_CONTEXT_LENGTH,
        metavar="TOKENS",
        help=f"longest conversation (default: {DEFAULT_CONTEXT_LENGTH})",
    )
    add(
        "--budget",
        metavar="SIZE",
        help="what the bundle may take, such as 480MB (powers of 1000): auto finds what fits, others fail early",
    )
    add(
        "--workers",
        default=DEFAULT_WORKERS,
        metavar="NAME",
        help=f"where layouts are tried out by auto: local, or ray (default: {DEFAULT_WORKERS})",
    )
    add(
        "--out",
        metavar="DIR",
        help="the bundle's directory, new or of an earlier export (default: build/MODEL-TARGET-SCHEME)",
    )
    add(
        "--into",
        metavar="APP",
        help="put the bundle where an app finds it, once it is known to run it: android_demo or ios_demo",
    )
    add("--plan", action="store_true", help="print what would be done and stop")
    add("--list", action="store_true", help="print everything that can be named and stop")
    add("--json", action="store_true", help="results as JSON lines on stdout; progress stays on stderr")
    return parser


def _other_commands() -> str:
    names = catalog.names("commands")
    return f"other commands, each with --help of its own: python -m export {' | '.join(names)}\n" if names else ""


def build_command_parser(name: str) -> argparse.ArgumentParser:
    """The options of one command of export/commands."""
    command = catalog.load("commands", name)
    parser = argparse.ArgumentParser(
        prog=f"python -m export {name}",
        description=command.SUMMARY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    return parser


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """What is chosen by name; an unknown name is judged where the catalog is read, which lists the known ones."""
    known = {kind: ", ".join(catalog.names(kind)) for kind in KINDS}
    models, sources = ", ".join(model_names()), ", ".join(source_names())
    add = parser.add_argument
    add("--target", metavar="NAME", help=f"device class to build for: {known['targets']}")
    add(
        "--model",
        metavar="NAME",
        help=f"{models}, or a hub id of these (default: the checkpoint's, else {DEFAULT_MODEL})",
    )
    add(
        "--checkpoint",
        metavar="PATH",
        help="a local checkpoint directory, or 'random' for random weights of real shapes",
    )
    add(
        "--source",
        default=DEFAULT_SOURCE,
        metavar="NAME",
        help=f"hub to fetch from: {sources} (default: {DEFAULT_SOURCE})",
    )
    add("--scheme", default=DEFAULT_SCHEME, metavar="NAME", help=f"{known['schemes']} (default: {DEFAULT_SCHEME})")
    add(
        "--method",
        metavar="NAME",
        help=f"how weights are rounded: {known['quantize']} (default: {DEFAULT_METHOD} for 4 bits, "
        f"{STATIC_METHOD} for static activations, {RECOVERED_METHOD} for what finetune trained, {PLAIN_METHOD} for the "
        "rest and for random weights)",
    )
    add(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"{known['backends']}; repeatable (default: all of the target's)",
    )
    add(
        "--modality",
        default=DEFAULT_MODALITY,
        metavar="NAME",
        help=f"{', '.join(MODALITIES)}: 'image' adds the vision tower, where the backend holds it "
        f"(default: {DEFAULT_MODALITY})",
    )


class _TimeLeft(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else Text.assemble(super().render(task), " left")


class Bars:
    """Progress bars on stderr at a terminal, two lines a stage elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[done]}", table_column=Column(no_wrap=True, min_width=20)),
            _TimeLeft(table_column=Column(no_wrap=True, min_width=13)),
        )
        self._progress = Progress(*columns, console=self._console, transient=True, disable=quiet, expand=True)
        self._task: TaskID | None = None
        self._unit = "B"
        self._name = ""
        self._start = time.monotonic()

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._close("stopped after " if error is not None else "")
        self._progress.stop()

    def stage(self, name: str, total: int | None = None, unit: str = "B") -> None:
        self.end()
        self._name, self._unit, self._start = name, unit, time.monotonic()
        self._task = self._progress.add_task(name, total=total, done="")
        if self._quiet:
            self.note(f"{name} ...")

    def step(self, name: str, count: int = 0) -> None:
        if self._task is None:
            return
        self._progress.advance(self._task, count)
        task = next(task for task in self._progress.tasks if task.id == self._task)
        done = _amount(int(task.completed), None if task.total is None else int(task.total), self._unit)
        # where the line is too narrow for both, the step is what stays
        self._progress.update(self._task, description=f"{name} · {self._name}", done=done)

    def note(self, text: str) -> None:
        _print(self._console, text)

    def end(self) -> None:
        self._close("")

    def _close(self, how: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self.note(f"{self._name}: {how}{time.monotonic() - self._start:.1f} s")
            self._task = None


def _amount(done: int, total: int | None, unit: str) -> str:
    """Such as "12.0 MB of 1.4 GB" or "3 layers of 48"."""
    shown = decimal if unit == "B" else lambda count: f"{count} {unit}{'' if count == 1 else 's'}"
    return shown(done) if total is None else f"{shown(done)} of {decimal(total) if unit == 'B' else total}"


def _print(console: Console, text: str) -> None:
    """The text as it is: no markup (a path may hold brackets), no line breaks but its own."""
    console.print(Text(text), soft_wrap=True)


def _fail(message: str, as_json: bool) -> int:
    print(f"error: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message}))
    return 1


def _print_bundle(bundle: Bundle, as_json: bool) -> None:
    if as_json:
        print(json.dumps(bundle.to_dict()))
        return
    console = Console()
    _print(console, f"{bundle.path}: {bundle.total_bytes:,} bytes")
    table = Table()
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name, count in bundle.files.items():
        table.add_row(Text(name), f"{count:,}")
    console.print(table)
    for name, artifact in bundle.artifacts.items():
        _print(console, f"{name}: {_verdict(artifact.manifest.measured.parity or {})}")
        talk = "chat {}" if artifact.manifest.chat_template_file else "generate {} --raw --prompt 'Once upon a time'"
        _print(console, f"  hear it: python -m runtimes {talk.format(shlex.quote(str(artifact.path)))}")


def _verdict(parity: Mapping[str, Any]) -> str:
    checks = parity.get("checks", [])
    passed = sum(check["outcome"] == "passed" for check in checks)
    skipped = [f"{check['name']} ({check['reason']})" for check in checks if check["outcome"] == "skipped"]
    return f"{passed} checks passed" + (f", skipped: {'; '.join(skipped)}" if skipped else "")


def _print_plan(plan: Plan, as_json: bool) -> None:
    spec = plan.spec
    builds: list[dict[str, Any]] = [
        {
            "backend": build.backend,
            "runtime": build.module.RUNTIME,
            "oldest_runtime": build.module.OLDEST_RUNTIME,
            "model_bytes": build.model_bytes,
            "formats": format_counts(build.layout),
        }
        for build in plan.builds
    ]
    if as_json:
        found = {"model": plan.model, "out": str(spec.out), "total_bytes": plan.total_bytes, "builds": builds}
        print(json.dumps(found))
        return
    print(
        f"{plan.model} for {spec.target}: scheme {spec.scheme}, method {plan.method.name}, {spec.context_length} tokens"
    )
    for build in builds:
        formats = ", ".join(f"{count} x {form}" for form, count in build["formats"].items())
        print(f"  {build['backend']}: {build['model_bytes']:,} bytes of weights, matrices: {formats}")
        print(f"    runs on {build['runtime']} from {build['oldest_runtime']} on")
    print(f"about {plan.total_bytes:,} bytes in all, in {spec.out}")


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
            print(f"  {name:16} {summary}".rstrip())


def _summary(kind: str, name: str) -> str:
    module = catalog.load(kind, name)
    return str(module.SCHEME.summary if kind == "schemes" else module.SUMMARY)


def _origin(name: str) -> str:
    entry = read_model_entry(name)
    return f"{entry.hub_id} at {entry.revision}" if entry.hub_id else "trained, in the repository"


def entry_point() -> NoReturn:
    """The console script."""
    sys.exit(main())

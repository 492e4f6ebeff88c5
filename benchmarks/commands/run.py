"""Measure an artifact on this machine, on an Android phone or on an iPhone.

Exit status: 0 every case is ok, 1 a case failed or there is no record, 2 usage.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from benchmarks import record
from benchmarks.devices import DeviceOptions, known_devices, open_device
from benchmarks.passes import is_timed, quotable
from benchmarks.protocol import COLD_LOADS, ENERGY_S, plan_cases
from benchmarks.run_progress import showing
from benchmarks.session import Run, measure
from benchmarks.store import open_store
from benchmarks.text import Name
from benchmarks.workload import Workload, make_workload
from runtimes.artifact import Artifact, find_artifact

__all__ = ["main"]

EXAMPLES = """\
examples:
  python -m benchmarks run build/android/onnx
      this machine, two prompt lengths, a table
  python -m benchmarks run build/android --runtime executorch --device android --runner build/phone/runner
      the one phone that adb sees
  python -m benchmarks run build/android/onnx --device android --sustained 600 --json
      ten minutes of decoding at the end, the whole record as JSON
"""
# a phone is measured from a cool start; a host has no such limit
MAX_START_C = {"host": None}
PHONE_MAX_START_C = 37.0
COLUMNS = {
    "load ms": ("load_cold_ms", "load_warm_ms"),
    "TTFT ms": ("ttft_ms",),
    "prefill tok/s": ("prefill_tok_s",),
    "decode tok/s": ("decode_tok_s",),
    "p90 ms/token": ("tpot_p90_ms",),
    "peak PSS MB": ("peak_pss_bytes",),
}
MEGABYTE = 1e6
PIPE_WIDTH = 160


def main(words: Sequence[str] | None = None) -> int:
    """Run and record; the results go to stdout, everything else to stderr."""
    options = _parser().parse_args(words)
    artifact = find_artifact(options.artifact, options.runtime)
    protocol = _protocol(options)
    cases = plan_cases(protocol, _workload(artifact, protocol), threads=options.threads, affinity=options.affinity)
    run_id = record.new_run_id()
    run = Run(
        artifact=artifact,
        protocol=protocol,
        cases=cases,
        run_id=run_id,
        session_id=options.session or run_id,
        keep=options.keep,
    )
    device = open_device(options.device, _device_options(options))
    with open_store(options.store) as store, showing(sys.stderr) as progress:
        made = measure(device, run, store, progress.report, warn=progress.warn)
    _print(made, as_json=options.json)
    return 0 if all(case.status == "ok" for case in made.cases) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks run",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="an artifact, or a bundle with --runtime")
    parser.add_argument("--runtime", help="which artifact of a bundle, by its runtime")
    where = parser.add_argument_group("device")
    where.add_argument("--device", choices=known_devices(), default="host", help="where to run (host)")
    where.add_argument("--serial", help="the phone's serial number, where adb sees several")
    where.add_argument("--udid", help="the iPhone's UDID, where there are several")
    where.add_argument("--app", help="the app to run in: ios, android_app (the project's demo)")
    where.add_argument("--runner", type=Path, help="the runner's program, or a folder with `runner` in it")
    where.add_argument("--keep", action="store_true", help="leave what was pushed; the next run pushes less")
    what = parser.add_argument_group("protocol")
    what.add_argument("--protocol", type=_name, default="default", metavar="NAME", help="what to call it (default)")
    what.add_argument("--prompt-tokens", type=_count, nargs="+", default=[16, 128], help="prompt lengths (16 128)")
    what.add_argument("--new-tokens", type=_count, default=64, help="tokens of each generation (64)")
    what.add_argument("--repeats", type=_count, default=5, help="timed generations of a warm case (5)")
    what.add_argument("--warm-ups", type=_natural, default=1, help="generations before them (1)")
    what.add_argument("--cold", type=_natural, default=3, help="loads with the files out of the page cache (3)")
    what.add_argument("--sustained", type=_seconds, default=0.0, metavar="SECONDS", help="keep generating so long (0)")
    what.add_argument("--energy", type=_seconds, default=0.0, metavar="SECONDS", help="measure energy so long (0)")
    what.add_argument("--threads", type=_count, help="threads; by default the runner chooses")
    what.add_argument("--affinity", type=_natural, nargs="+", metavar="CPU", help="pin the runner to these CPUs")
    what.add_argument("--settle", type=_seconds, default=1.0, metavar="SECONDS", help="rest before each case (1)")
    what.add_argument("--max-temperature", type=float, metavar="CELSIUS", help="no case starts above it (phones: 37)")
    what.add_argument("--cool-down", type=_seconds, default=600.0, metavar="SECONDS", help="wait so long for it (600)")
    what.add_argument("--timeout", type=_seconds, default=600.0, metavar="SECONDS", help="limit of a case (600)")
    where = parser.add_argument_group("results")
    where.add_argument("--store", help="database URL or SQLite file for the record; by default the user's own")
    where.add_argument("--session", help="name that runs of one reservation share; by default the run's own")
    where.add_argument("--json", action="store_true", help="print the whole record as one JSON object")
    return parser


def _protocol(options: argparse.Namespace) -> record.Protocol:
    limit_c = options.max_temperature
    return record.Protocol(
        name=options.protocol,
        prompt_tokens=tuple(sorted(set(options.prompt_tokens))),
        new_tokens=options.new_tokens,
        warm_ups=options.warm_ups,
        repeats=options.repeats,
        sustained_s=options.sustained,
        settle_s=options.settle,
        cool_down_s=options.cool_down,
        max_start_temperature_c=MAX_START_C.get(options.device, PHONE_MAX_START_C) if limit_c is None else limit_c,
        sample_hz=1.0,
        timeout_s=options.timeout,
        details={
            COLD_LOADS: float(options.cold),
            ENERGY_S: options.energy,
            "memory": "a pass of its own, 10 samples a second",
        },
    )


def _workload(artifact: Artifact, protocol: record.Protocol) -> Workload:
    return make_workload(
        artifact.tokenizer_file,
        prompt_tokens=list(protocol.prompt_tokens),
        decode_tokens=protocol.new_tokens,
        context_length=artifact.manifest.context_length,
    )


def _device_options(options: argparse.Namespace) -> DeviceOptions:
    return DeviceOptions(serial=options.serial, udid=options.udid, app=options.app, runner=options.runner)


def _print(made: record.RunRecord, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(f"{made.model_dump_json()}\n")
        return
    table = Table(title=_title(made), title_justify="left")
    for name in ("case", "status", *COLUMNS, "tokens"):
        table.add_column(name, no_wrap=True, justify="right" if name in COLUMNS else "left")
    for case in made.cases:
        found = quotable(case)
        table.add_row(case.case_id, case.status, *(_figure(found, names) for names in COLUMNS.values()), _tokens(case))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    console.print(table, markup=False)
    notes = [_energy(case.case_id, case.energy) for case in made.cases if case.energy is not None]
    notes += [
        _predicted(case.case_id, case.predicted_energy)
        for case in made.cases
        if case.predicted_energy is not None and is_timed(case)
    ]
    notes += [f"{case.case_id}: {case.status}: {case.reason}" for case in made.cases if case.reason]
    for note in [*notes, *(f"not valid: {violation}" for violation in made.validity.violations)]:
        console.print(note, markup=False, highlight=False)


def _energy(case: str, energy: record.Energy) -> str:
    each = "" if energy.joules_per_token is None else f", {energy.joules_per_token:.4g} J a token"
    return f"{case}: {energy.joules:.4g} J +- {energy.uncertainty_j:.2g} above idle by {energy.source}{each}"


def _predicted(case: str, predicted: record.PredictedEnergy) -> str:
    return f"{case}: {predicted.joules_per_token:.3g} J a token are predicted, not measured ({predicted.model})"


def _title(made: record.RunRecord) -> str:
    device, artifact = made.device, made.artifact
    return f"{artifact.model} {artifact.scheme} {artifact.backend} on {device.model or device.kind} ({made.run_id})"


def _figure(metrics: Mapping[str, record.Metric], names: Sequence[str]) -> str:
    """The first of these metrics that has a value."""
    for name in names:
        metric = metrics.get(name)
        if metric is not None and metric.value is not None:
            return f"{metric.value / MEGABYTE if name.endswith('_bytes') else metric.value:.4g}"
    return "-"


def _tokens(case: record.CaseRecord) -> str:
    if case.parity is None:
        return "-"
    return "right" if case.parity.first_difference is None else f"other from {case.parity.first_difference}"


def _name(text: str) -> str:
    try:
        return TypeAdapter(Name).validate_python(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a name such as nightly") from error


def _count(text: str) -> int:
    value = _natural(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 1000000")
    return value

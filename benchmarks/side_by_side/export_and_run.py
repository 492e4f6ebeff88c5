"""Compare our exports with the peers', side by side in one run.

The machine drifts, so nothing is measured in a block of its own: round by round every subject runs once in a fresh
process, A B C A B C, and ratios are taken within a round. Exports go the same way. What is done stays done: a rerun
with the same settings goes on where the last one stopped.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError, MissingPeerError
from benchmarks.roofline import state_bytes_read
from benchmarks.side_by_side.builds import Made, build_key, checkpoint_hash, filled, given_build, make_build
from benchmarks.side_by_side.figures import SubjectFigures, check_goal, export_figures, run_figures
from benchmarks.side_by_side.goals import GOALS
from benchmarks.side_by_side.measure import run_measured, run_worker
from benchmarks.side_by_side.peers import export_llm, genai_builder, llama_cpp, ours
from benchmarks.side_by_side.plot import bars_svg
from benchmarks.side_by_side.report import Report, as_json, as_markdown
from benchmarks.side_by_side.steps import ResultStore, step_key
from benchmarks.side_by_side.subjects import ROOT, Build, Context, Peer, Subject, module_command
from benchmarks.statistics import spread
from benchmarks.workload import Workload, make_workload, write_workload
from runtimes.errors import ProjectError

EXAMPLES = """\
examples:
  python -m benchmarks export-and-run --model qwen3.5-0.8b --work-dir build/bench
      everything that is installed, on real shapes with random weights, 5 rounds
  python -m benchmarks export-and-run --layers 4 --rounds 2 --work-dir build/bench-small
      the same on the first 4 layers: minutes instead of an hour
  python -m benchmarks export-and-run --subjects ours-onnx ours-onnx-stock genai-best --checkpoint ./my-finetune
      some subjects, one checkpoint
  python -m benchmarks export-and-run --llama-python ~/llama-venv/bin/python
      with llama.cpp, whose package lives in another environment
  python -m benchmarks export-and-run --artifact ours-onnx=build/export --subjects ours-onnx genai-best
      an export that is already there
  python -m benchmarks export-and-run --ours "ours-g128=--backend onnx --scheme int4 --group-size 128"
      one more scheme of ours
"""
PROMPT_TOKENS = [128, 512]
DECODE_TOKENS = 64
ROUND = "round"
"""The steps of running, not of exporting, have names that start so in the store."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    model: str
    checkpoint: Path | None
    layers: int | None
    subjects: tuple[str, ...] | None
    rounds: int
    export_rounds: int
    threads: int
    context_length: int
    work_dir: Path
    llama_python: Path
    artifacts: dict[str, Path]
    ours: dict[str, str]
    remeasure: bool
    json: bool


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a run works with once it is set up."""

    context: Context
    options: Options
    store: ResultStore
    environment: dict[str, str]


def run(options: Options) -> Report:
    """Export, run and report."""
    bench = set_up(options)
    if options.remeasure:
        bench.store.forget(ROUND)
    peers, left_out = installed_peers(bench)
    subjects = chosen_subjects(options, peers)
    workload = prepare_workload(bench)
    made = make_builds(bench, [build for peer in peers for build in peer.builds], subjects)
    samples, bandwidths = run_rounds(bench, subjects, made, workload)
    return make_report(bench, subjects, made, samples, bandwidths, left_out)


def set_up(options: Options) -> Bench:
    """The work directory, the checkpoint and the environment that every worker sees."""
    options.work_dir.mkdir(parents=True, exist_ok=True)
    environment = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(options.threads),
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    checkpoint = prepare_checkpoint(options, environment)
    context = Context(
        model=options.model,
        checkpoint=checkpoint,
        text_config=json.loads((checkpoint / "config.json").read_text())["text_config"],
        threads=options.threads,
        context_length=options.context_length,
        llama_python=options.llama_python,
    )
    return Bench(
        context=context,
        options=options,
        store=ResultStore(options.work_dir / "results.sqlite"),
        environment=environment,
    )


def prepare_checkpoint(options: Options, environment: dict[str, str]) -> Path:
    """The checkpoint given, or one of random weights; cut to its first layers where asked."""
    if options.checkpoint is None:
        command = module_command("export.resolve_checkpoint", options.model, "--checkpoint", "random")
        log = options.work_dir / "logs" / "checkpoint.log"
        whole = Path(run_worker("random checkpoint", command, log=log, environment=environment)["path"])
    else:
        whole = options.checkpoint
    if not (whole / "config.json").exists():
        raise BenchmarkError(f"--checkpoint {whole}: no config.json in it; give the directory of a checkpoint")
    if options.layers is None:
        return whole.resolve()
    part = options.work_dir / f"checkpoint-{options.model}-{options.layers}-layers"
    if not (part / "config.json").exists():
        command = module_command("benchmarks.side_by_side.slice_checkpoint", whole, part, "--layers", options.layers)
        run_measured("slice of the checkpoint", command, log=part.with_suffix(".log"), environment=environment)
    return part.resolve()


def installed_peers(bench: Bench) -> tuple[list[Peer], dict[str, str]]:
    """Our exports and the peers that this machine has; the others with the reason they are left out."""
    exports = {**ours.DEFAULT_EXPORTS, **bench.options.ours}
    peers = [ours.peer(bench.context, name, arguments) for name, arguments in exports.items()]
    left_out: dict[str, str] = {}
    for module in (genai_builder, export_llm, llama_cpp):
        name = module.__name__.rpartition(".")[2]
        missing = [needed for needed in module.MODULES if find_spec(needed) is None]
        if module is llama_cpp:
            missing += _missing_in(bench.context.llama_python, llama_cpp.LLAMA_MODULES)
        if missing:
            left_out[name] = (
                f"no {', '.join(missing)} in {bench.context.llama_python if module is llama_cpp else sys.executable}"
            )
        else:
            peers.append(module.peer(bench.context))
    for name, reason in left_out.items():
        _say(f"left out: {name}: {reason}")
    return peers, left_out


def _missing_in(python: Path, modules: Iterable[str]) -> list[str]:
    """Which modules another interpreter lacks."""
    probe = "import sys; from importlib.util import find_spec; sys.exit(find_spec(sys.argv[1]) is None)"
    try:
        return [name for name in modules if subprocess.run([python, "-c", probe, name], check=False).returncode]
    except OSError as error:
        raise BenchmarkError(f"--llama-python {python}: can't be run ({error}); give a Python interpreter") from error


def chosen_subjects(options: Options, peers: Sequence[Peer]) -> list[Subject]:
    """The subjects asked for, all of them by default."""
    known = {subject.name: subject for peer in peers for subject in peer.subjects}
    if options.subjects is None:
        return list(known.values())
    for name in options.subjects:
        if name not in known:
            raise MissingPeerError(name, f"this run has {', '.join(known)}", "install it or choose among these")
    return [known[name] for name in known if name in options.subjects]


def prepare_workload(bench: Bench) -> Path:
    """Write what every worker reads, and return where."""
    workload: Workload = make_workload(
        bench.context.checkpoint / "tokenizer.json",
        prompt_tokens=PROMPT_TOKENS,
        decode_tokens=DECODE_TOKENS,
        context_length=bench.options.context_length,
    )
    path = bench.options.work_dir / "workload.json"
    write_workload(workload, path)
    return path


def make_builds(bench: Bench, builds: Sequence[Build], subjects: Sequence[Subject]) -> dict[str, list[Made]]:
    """Every build the subjects need, in alternating rounds."""
    needed = {subject.build for subject in subjects}
    wanted = [build for build in builds if build.name in needed]
    unknown = set(bench.options.artifacts) - {build.name for build in builds}
    if unknown:
        names = ", ".join(build.name for build in builds)
        raise BenchmarkError(f"--artifact {', '.join(sorted(unknown))}: no such build; the builds are {names}")
    checkpoint_sha256 = checkpoint_hash(bench.context.checkpoint)
    made: dict[str, list[Made]] = {build.name: [] for build in wanted}
    for export_round in range(bench.options.export_rounds):
        for build in wanted:
            given = bench.options.artifacts.get(build.name)
            if given is not None:
                if export_round == 0:
                    made[build.name].append(given_build(build, given, bench.environment))
                continue
            _say(f"export {export_round + 1}/{bench.options.export_rounds}: {build.label}")
            key = build_key(build, checkpoint_sha256, export_round)
            made[build.name].append(make_build(build, key, bench.options.work_dir, bench.store, bench.environment))
    return made


def run_rounds(
    bench: Bench, subjects: Sequence[Subject], made: dict[str, list[Made]], workload: Path
) -> tuple[dict[str, list[dict[str, Any]]], list[float]]:
    """Every subject once a round, each in a fresh process, and the memory's speed beside them."""
    samples: dict[str, list[dict[str, Any]]] = {subject.name: [] for subject in subjects}
    bandwidths: list[float] = []
    bandwidth = module_command("benchmarks.side_by_side.workers.read_bandwidth", "--threads", bench.options.threads)
    for index in range(bench.options.rounds):
        measured = _step(bench, "read bandwidth", bandwidth, step_key("bandwidth", bandwidth, index), index)
        bandwidths.append(measured["bytes_per_s"])
        for subject in subjects:
            build = made[subject.build][0]
            command = [
                *subject.command,
                *("--artifact", str(build.directory), "--workload", str(workload)),
                *("--tokenizer", str(bench.context.checkpoint / "tokenizer.json")),
            ]
            key = step_key("run", command, workload.read_text(), _state_of(build.directory), index)
            samples[subject.name].append(_step(bench, subject.name, command, key, index))
    return samples, bandwidths


def _state_of(directory: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a build's files: a rebuilt artifact is measured anew."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _step(bench: Bench, name: str, command: Sequence[str], key: str, index: int) -> dict[str, Any]:
    result = bench.store.get(key)
    if result is None:
        _say(f"round {index + 1}/{bench.options.rounds}: {name}")
        log = bench.options.work_dir / "logs" / f"{name.replace(' ', '-')}-{index}.log"
        result = run_worker(name, filled(command, Path()), log=log, environment=bench.environment)
        bench.store.put(key, f"{ROUND} {index} {name}", result)
    return result


def make_report(
    bench: Bench,
    subjects: Sequence[Subject],
    made: dict[str, list[Made]],
    samples: dict[str, list[dict[str, Any]]],
    bandwidths: list[float],
    left_out: dict[str, str],
) -> Report:
    """Turn what was measured into figures and ratios."""
    # half of the new tokens have been written when the state has this length
    position = max(PROMPT_TOKENS) + DECODE_TOKENS // 2
    state = state_bytes_read(bench.context.text_config, position)
    figures = {}
    for subject in subjects:
        records = [one.record for one in made[subject.build]]
        bytes_per_token = records[0].get("total_bytes") or records[0]["weight_bytes"] + state
        values = {**export_figures(records), **run_figures(samples[subject.name], bytes_per_token, bandwidths)}
        figures[subject.name] = SubjectFigures(name=subject.name, label=subject.label, values=values)
    results = [check_goal(goal, figures) for goal in GOALS]
    return Report(
        machine=_machine(),
        settings=_settings(bench.options),
        bandwidth=spread(bandwidths),
        subjects=tuple(figures.values()),
        goals=tuple(result for result in results if result is not None),
        left_out=left_out,
    )


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.partition(":")[2].strip() for line in info if line.startswith("model name")}
    load = os.getloadavg()[0]
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": os.cpu_count(),
        "load average at the end": f"{load:.1f}",
    }


def _settings(options: Options) -> dict[str, Any]:
    return {
        "model": options.model if options.layers is None else f"{options.model}, first {options.layers} layers",
        "checkpoint": "random weights" if options.checkpoint is None else str(options.checkpoint),
        "threads": options.threads,
        "context length": options.context_length,
        "rounds": options.rounds,
        "decode": f"{DECODE_TOKENS} tokens after {max(PROMPT_TOKENS)}",
    }


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def _pair(value: str) -> tuple[str, str]:
    name, separator, rest = value.partition("=")
    if not separator or not name or not rest:
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=VALUE")
    return name, rest


def parse_options(arguments: Sequence[str] | None) -> Options:
    """The command line as data."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks export-and-run",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="qwen3.5-0.8b", help="model name (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint directory (default: random weights)")
    parser.add_argument("--layers", type=int, help="only the first layers, 4 or more, for a quick try")
    parser.add_argument("--subjects", nargs="+", metavar="NAME", help="what to compare (default: all installed)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each subject (default: %(default)s)")
    parser.add_argument("--export-rounds", type=int, default=1, help="exports of each build (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every runtime (default: %(default)s)")
    parser.add_argument("--context-length", type=int, default=4096, help="tokens (default: %(default)s)")
    parser.add_argument("--work-dir", type=Path, default=Path("build/benchmark"), help="(default: %(default)s)")
    parser.add_argument("--llama-python", type=Path, default=Path(sys.executable), help="Python with llama_cpp")
    parser.add_argument("--artifact", type=_pair, action="append", default=[], metavar="BUILD=DIR")
    parser.add_argument("--ours", type=_pair, action="append", default=[], metavar="NAME=EXPORT_ARGUMENTS")
    parser.add_argument("--remeasure", action="store_true", help="run everything again; exports are kept")
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the tables")
    given = parser.parse_args(arguments)
    return Options(
        model=given.model,
        checkpoint=given.checkpoint,
        layers=given.layers,
        subjects=tuple(given.subjects) if given.subjects else None,
        rounds=given.rounds,
        export_rounds=given.export_rounds,
        threads=given.threads,
        context_length=given.context_length,
        work_dir=given.work_dir.resolve(),
        llama_python=given.llama_python,
        artifacts={name: Path(directory) for name, directory in given.artifact},
        ours=dict(given.ours),
        remeasure=given.remeasure,
        json=given.json,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line: 0 done, 1 a named error, 2 usage."""
    options = parse_options(arguments)
    try:
        report = run(options)
    except ProjectError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    markdown = as_markdown(report)
    data = json.dumps(as_json(report), indent=1)
    (options.work_dir / "report.md").write_text(markdown)
    (options.work_dir / "report.json").write_text(data + "\n")
    (options.work_dir / "report.svg").write_text(bars_svg(report.subjects))
    sys.stdout.write(data if options.json else markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Decode of ONNX files in turn, in one process: a few steps of each, again and again.

The speed of a shared machine drifts by more than exporters differ. Rounds that take minutes and a process for each
subject (`export-and-run`) catch that drift; steps that take turns within half a second hardly do, and the ratio of two
neighbours is what is reported: its median and quartiles over all turns. Each subject has its own session and keeps its
own sequence, so all are compared at the same context length.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.errors import MissingPeerError

__all__ = ["Figure", "figures", "main"]

EXAMPLES = """\
examples:
  python -m benchmarks decode-in-turn --base genai=BUILDER --other genai=MINE/onnx --other ours=MINE/onnx
      the builder's file in onnxruntime-genai, ours in onnxruntime-genai and in our runner
"""
DEFAULT_ROUNDS = 30
DEFAULT_STEPS = 8
DEFAULT_PROMPT = 512
CONTEXT_LENGTH = 4096
FIRST_TOKEN = 1000  # past the control tokens and the single characters
Step = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One subject over all turns: milliseconds a token, and its speed relative to the base."""

    name: str
    median_ms: float
    fastest_ms: float
    speed: float
    speed_quartiles: tuple[float, float]


def figures(times_ms: dict[str, list[float]], base: str) -> list[Figure]:
    """The figures of each subject from its times, turn by turn."""
    found = []
    for name, times in times_ms.items():
        ratios = [other / own for other, own in zip(times_ms[base], times, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else [ratios[0]] * 3
        found.append(
            Figure(
                name=name,
                median_ms=statistics.median(times),
                fastest_ms=min(times),
                speed=statistics.median(ratios),
                speed_quartiles=(quartiles[0], quartiles[2]),
            )
        )
    return found


def open_genai(artifact: Path, prompt: list[int], threads: int) -> Step:
    """A step of onnxruntime-genai's greedy search after a prompt."""
    if find_spec("onnxruntime_genai") is None:
        raise MissingPeerError("genai", "onnxruntime_genai is not installed", "install this project's extra 'peers'")
    import onnxruntime_genai as genai

    config = genai.Config(str(artifact))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = genai.Model(config)
    parameters = genai.GeneratorParams(model)
    context = json.loads((artifact / "genai_config.json").read_text())["model"]["context_length"]
    longest = min(CONTEXT_LENGTH, context)
    parameters.set_search_options(do_sample=False, max_length=longest, min_length=longest - 1)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(prompt)

    return _keeping(model, generator.generate_next_token)


def _keeping(owner: object, step: Step) -> Step:
    """A step that holds on to what it needs alive."""

    def run() -> None:
        step()
        assert owner is not None

    return run


def open_ours(artifact: Path, prompt: list[int], threads: int) -> Step:
    """A greedy step of our own runner after a prompt."""
    from runtimes.artifact import find_artifact
    from runtimes.runner import open_runner

    runner = open_runner(find_artifact(artifact), threads)
    last = [int(np.argmax(runner.forward(prompt)))]

    def step() -> None:
        last[0] = int(np.argmax(runner.forward(last)))

    return step


OPEN = {"genai": open_genai, "ours": open_ours}
NEEDED = {"genai": "genai_config.json", "ours": "manifest.json"}


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; give 1 or more")
    return int(text)


def measure(subjects: dict[str, Step], rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds a token of each subject, a figure a turn; who goes first moves on from round to round."""
    names = list(subjects)
    for step in subjects.values():
        for _ in range(steps):
            step()
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in track(range(rounds), "decoding in turn", console=Console(stderr=True)):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            for _ in range(steps):
                subjects[name]()
            times[name].append(1e3 * (time.perf_counter() - started) / steps)
    return times


def _subject(text: str) -> tuple[str, Path]:
    engine, _, path = text.partition("=")
    if engine not in OPEN or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not ENGINE=DIRECTORY, with ENGINE one of {', '.join(OPEN)}")
    needed = Path(path) / NEEDED[engine]
    if not needed.is_file():
        raise argparse.ArgumentTypeError(f"{needed}: no such file; give the directory of an ONNX artifact")
    return engine, Path(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure from the command line: 0 done, 2 usage; raises a ProjectError where an engine can't open a file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks decode-in-turn",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--base", type=_subject, required=True, metavar="ENGINE=DIRECTORY", help="what is compared with"
    )
    parser.add_argument("--other", type=_subject, action="append", required=True, metavar="ENGINE=DIRECTORY")
    parser.add_argument("--rounds", type=_positive, default=DEFAULT_ROUNDS, help="turns of each (default: %(default)s)")
    parser.add_argument("--steps", type=_positive, default=DEFAULT_STEPS, help="tokens a turn (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=_positive, default=DEFAULT_PROMPT, help="(default: %(default)s)")
    parser.add_argument("--threads", type=_positive, default=2, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if options.prompt_tokens + options.steps * (options.rounds + 1) > CONTEXT_LENGTH:
        parser.error(f"--prompt-tokens, --rounds and --steps together exceed the context of {CONTEXT_LENGTH}")
    prompt = [FIRST_TOKEN + index for index in range(options.prompt_tokens)]
    subjects = {
        f"{index} {engine} {path}": OPEN[engine](path, prompt, options.threads)
        for index, (engine, path) in enumerate([options.base, *options.other])
    }
    times = measure(subjects, options.rounds, options.steps)
    found = figures(times, next(iter(subjects)))
    if options.json:
        sys.stdout.write(json.dumps([{**vars(figure), "times_ms": times[figure.name]} for figure in found]) + "\n")
        return 0
    table = Table("subject", "ms a token", "fastest", "speed", "quartiles")
    for figure in found:
        low, high = figure.speed_quartiles
        table.add_row(
            figure.name,
            f"{figure.median_ms:.1f}",
            f"{figure.fastest_ms:.1f}",
            f"{figure.speed:.3f}",
            f"{low:.3f} to {high:.3f}",
        )
    Console().print(table)
    return 0

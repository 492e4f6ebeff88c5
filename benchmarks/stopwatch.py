"""A second clock held against the record: another process times the same operations, and the medians must agree.

What is timed is what the runtime was called for, seen from outside the event stream: the runner is wrapped, and writes
one letter into a pipe before and after each call of it. The program that waits at the other end stamps each letter with
its own clock when it arrives (CLOCK_MONOTONIC_RAW, which nobody slews). It knows nothing of events; from the order of
calls and the number of tokens it works out loads, times to first token and steps. An event stamped in the wrong place,
a warm-up counted in, a wrong unit or a wrong definition shows up as a difference.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks import host_runner
from benchmarks.cases import Case
from benchmarks.errors import BenchmarkError
from benchmarks.record import RunRecord
from runtimes.artifact import Artifact
from runtimes.runner import Logits, Runner, Snapshot, Tokens, open_runner

__all__ = ["FIRST_VARIABLE", "LIMIT", "PIPE_VARIABLE", "Comparison", "Watch", "compare", "watching", "worker_command"]

LIMIT = 0.02  # of the stopwatch's median
PIPE_VARIABLE = "QWEN_EDGE_STOPWATCH"
FIRST_VARIABLE = "QWEN_EDGE_STOPWATCH_FIRST"
PROCESS, OPEN, OPENED, RESET, CALL, RETURNED = b"N", b"O", b"o", b"R", b"F", b"f"
STOP = b"."
STOP_S = 30.0
NS_PER_MS = 1e6
REPOSITORY = Path(__file__).parents[1]
WARM_LOAD = "load_warm_ms"
STEP = "tpot_p50_ms"
MIN_STEPS = 16  # the stopwatch lacks the last step of each generation: of fewer, the medians are of other steps
Letters = list[tuple[bytes, int]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of one case by both clocks, in milliseconds."""

    case: str
    metric: str
    recorded_ms: float
    watched_ms: float

    @property
    def difference(self) -> float:
        """The recorded figure's distance from the stopwatch's, as a share of the latter."""
        return abs(self.recorded_ms - self.watched_ms) / self.watched_ms


@dataclass(kw_only=True)
class Watch:
    """The letters that came, with the moments at which they did, in nanoseconds; empty until the watching is over."""

    letters: Letters = field(default_factory=list)

    def processes(self) -> list[Letters]:
        """The letters of each process, in order."""
        starts = [place for place, (letter, _) in enumerate(self.letters) if letter == PROCESS]
        return [self.letters[start + 1 : end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


@contextmanager
def watching(pipe: Path) -> Iterator[Watch]:
    """Let a process of its own stamp what arrives in a pipe for as long as this lasts."""
    os.mkfifo(pipe)
    handle = os.open(pipe, os.O_RDWR)  # a writer of our own: the pipe has no end when a worker closes it
    watch = Watch()
    reader = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stopwatch", "watch", str(pipe)], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    try:
        yield watch
    finally:
        os.write(handle, STOP)
        said, _ = reader.communicate(timeout=STOP_S)
        os.close(handle)
    for line in said.decode().splitlines():
        letter, moment = line.split()
        watch.letters.append((letter.encode(), int(moment)))


def watch_pipe(pipe: Path) -> None:
    """Stamp letters until the one that ends it, then print them all.

    On a busy machine a waiting process is woken late, so it asks to go before others where it may.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
    stamped: Letters = []
    handle = os.open(pipe, os.O_RDONLY)
    while (letter := os.read(handle, 1)) != STOP:
        stamped.append((letter, time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)))
    sys.stdout.write("".join(f"{letter.decode()} {moment}\n" for letter, moment in stamped))


def worker_command() -> list[str]:
    """A runner like that of the host, which also writes letters into the pipe that its environment names."""
    return [sys.executable, "-m", "benchmarks.stopwatch"]


def compare(made: RunRecord, watch: Watch, cases: Sequence[Case], prefill_chunk: int) -> list[Comparison]:
    """Each figure that both clocks have; a case that isn't ok has none, and is an error.

    A case loads once, so warm loads are one figure, the median over all warm cases.
    """
    found = []
    recorded_loads, watched_loads = [], []
    for case, row, letters in zip(cases, made.cases, watch.processes(), strict=True):
        if row.status != "ok":
            raise BenchmarkError(f"case {case.case!r} is {row.status}: {row.reason}; there is nothing to compare")
        for metric, values_ns in _watched(case, letters, prefill_chunk).items():
            recorded_ms = row.metrics[metric].value
            if recorded_ms is None:
                raise BenchmarkError(f"case {case.case!r}: {metric} is null: {row.metrics[metric].reason}")
            watched_ms = statistics.median(values_ns) / NS_PER_MS
            if metric == WARM_LOAD:
                recorded_loads.append(recorded_ms)
                watched_loads.append(watched_ms)
            else:
                found.append(Comparison(case=case.case, metric=metric, recorded_ms=recorded_ms, watched_ms=watched_ms))
    recorded_ms, watched_ms = statistics.median(recorded_loads), statistics.median(watched_loads)
    return [*found, Comparison(case="warm", metric=WARM_LOAD, recorded_ms=recorded_ms, watched_ms=watched_ms)]


def _watched(case: Case, letters: Letters, prefill_chunk: int) -> dict[str, list[float]]:
    """Nanoseconds of loads, first tokens and steps, of the calls that belong to timed generations."""
    loads = [end - start for (_, start), (_, end) in zip(_only(letters, OPEN), _only(letters, OPENED), strict=True)]
    name = "load_cold_ms" if case.kind == "cold" else WARM_LOAD
    times: dict[str, list[float]] = {name: [float(load) for load in loads], "ttft_ms": [], STEP: []}
    chunks = -(-len(case.prompt) // prefill_chunk)
    for generation in _generations(letters)[case.warm_ups :]:
        reset_ns = generation[0][1]
        calls = [moment for _, moment in _only(generation, CALL)]
        if len(calls) <= chunks:
            continue
        # a token is known when the call that takes it begins; the last one is never taken
        times["ttft_ms"].append(calls[chunks] - reset_ns)
        times[STEP] += [float(later - earlier) for earlier, later in pairwise(calls[chunks:])]
    if len(times[STEP]) < MIN_STEPS:
        del times[STEP]
    return {metric: values for metric, values in times.items() if values}


def _generations(letters: Letters) -> list[Letters]:
    starts = [place for place, (letter, _) in enumerate(letters) if letter == RESET]
    return [letters[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def _only(letters: Letters, wanted: bytes) -> Letters:
    return [entry for entry in letters if entry[0] == wanted]


@dataclass(kw_only=True)
class TellingRunner:
    """A runner whose calls can be heard."""

    inner: Runner
    pipe: int

    @property
    def context_length(self) -> int:
        return self.inner.context_length

    @property
    def vocab_size(self) -> int:
        return self.inner.vocab_size

    @property
    def prefill_chunk(self) -> int:
        return self.inner.prefill_chunk

    @property
    def threads(self) -> int:
        return self.inner.threads

    @property
    def position(self) -> int:
        return self.inner.position

    def forward(self, tokens: Tokens) -> Logits:
        """Append tokens, heard before and after."""
        os.write(self.pipe, CALL)
        logits = self.inner.forward(tokens)
        os.write(self.pipe, RETURNED)
        return logits

    def reset(self) -> None:
        """Forget the sequence, heard when done."""
        self.inner.reset()
        os.write(self.pipe, RESET)

    def snapshot(self) -> Snapshot:
        return self.inner.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        self.inner.restore(snapshot)

    def close(self) -> None:
        self.inner.close()


def main() -> int:
    """The runner of this machine, heard; or with the word `watch`, what hears it."""
    if sys.argv[1:2] == ["watch"]:
        watch_pipe(Path(sys.argv[2]))
        return 0
    pipe = os.open(os.environ[PIPE_VARIABLE], os.O_WRONLY)
    os.write(pipe, PROCESS)
    if FIRST_VARIABLE in os.environ:
        # clocks are compared, not speed: on a busy machine, hearing a letter would put the speaker last in the queue
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    def open_model(artifact: Artifact, threads: int | None) -> Runner:
        os.write(pipe, OPEN)
        runner = open_runner(artifact, threads)
        os.write(pipe, OPENED)
        return TellingRunner(inner=runner, pipe=pipe)

    return host_runner.main(open_model=open_model)


if __name__ == "__main__":
    sys.exit(main())

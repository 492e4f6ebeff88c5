"""The runner of this machine: the cases of `benchmarks.cases` in our own Python runners, as an event stream.

A load is opening the model in a runtime that is already imported; importing, reading the manifest and the tokenizer are
no part of it. Tokenising is part of a generation's time to first token. Nothing is written while anything is timed:
events wait in memory until a generation has ended.

Effective backend: a session is opened on the CPU alone, and ExecuTorch refuses a file whose delegate it lacks. So where
the load succeeds, the backend is the one that the manifest names.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, get_args

from benchmarks import page_cache
from benchmarks.cases import Case, CaseFile, read_cases
from benchmarks.counters import read_counters
from benchmarks.stream import StreamWriter
from benchmarks.stream_events import (
    CaseEnd,
    CaseStart,
    Event,
    Failure,
    Marker,
    Sample,
    SampleKind,
    Series,
    Start,
    Submit,
)
from benchmarks.stream_events import Settings as Said
from runtimes import events as runtime_events
from runtimes.artifact import Artifact
from runtimes.errors import ProjectError, TokenizerError
from runtimes.events import LoadEnd, LoadStart, Stop
from runtimes.generate import Settings, choose_tokens, prefill
from runtimes.runner import Runner, open_runner, runtime_module
from runtimes.tokenizer import Tokenizer, load_tokenizer

__all__ = ["OpenModel", "main", "run_cases"]

RUNNER = "benchmarks.host_runner 1"
IDLE_START, IDLE_END = "idle_start", "idle_end"  # as benchmarks.energy.measure looks for them
MAX_ERROR_CHARACTERS = 2000
OpenModel = Callable[[Artifact, int | None], Runner]


@dataclass(kw_only=True)
class Recorder:
    """Events that wait; written in the order of their times, since whoever stamps one may be overtaken."""

    file: IO[bytes]
    start: Start
    writer: StreamWriter | None = None
    waiting: list[Event | runtime_events.Event] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def emit(self, event: Event | runtime_events.Event) -> None:
        """Keep one event for the next `flush`; safe to call from any thread."""
        with self.lock:
            self.waiting.append(event)

    def sample(self, kinds: Sequence[SampleKind]) -> None:
        """Look at some counters and keep what they said."""
        for kind in kinds:
            for source, values in read_counters(kind):
                self.emit(Sample(at_ns=time.monotonic_ns(), kind=kind, source=source, values=dict(values)))

    def flush(self) -> None:
        """Write what waits; the first line goes with the first batch, when it is known what runs."""
        with self.lock:
            batch, self.waiting = sorted(self.waiting, key=lambda event: event.at_ns), []
        if self.writer is None:
            self.writer = StreamWriter(self.file, self.start)
        for event in batch:
            if isinstance(event, runtime_events.Event):
                self.writer.sink(event)
            else:
                self.writer.write(event)
        self.file.flush()

    def end(self) -> None:
        """Write what waits and seal the stream."""
        self.flush()
        if self.writer is not None:
            self.writer.end()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the cases of one process run on."""

    artifact: Artifact
    threads: int | None
    tokenizer: Tokenizer
    recorder: Recorder
    open_model: OpenModel


def main(arguments: Sequence[str] | None = None, *, open_model: OpenModel = open_runner) -> int:
    """Run the cases of a file: 0 when the stream was sealed, 1 with a line on stderr when there is none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True, help="the artifact's directory")
    parser.add_argument("--cases", type=Path, required=True, help="what benchmarks.cases wrote")
    parser.add_argument("--out", type=Path, required=True, help="the event stream to write")
    parser.add_argument("--series", choices=get_args(Series), default="host", help="the series it belongs to")
    options = parser.parse_args(arguments)
    try:
        artifact = Artifact.open(options.artifact)
        cases = read_cases(options.cases)
        run_cases(artifact, cases, options.out, open_model=open_model, series=options.series)
    except ProjectError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def run_cases(
    artifact: Artifact, cases: CaseFile, out: Path, *, open_model: OpenModel = open_runner, series: Series = "host"
) -> None:
    """Write the stream of some cases; where one fails, the stream says so and is sealed after it."""
    if cases.affinity is not None:
        os.sched_setaffinity(0, cases.affinity)
    runtime_module(artifact.manifest.runtime.name)
    with out.open("wb") as file:
        subject = Subject(
            artifact=artifact,
            threads=cases.threads,
            tokenizer=load_tokenizer(artifact.tokenizer_file),
            recorder=Recorder(file=file, start=_first_line(artifact, cases, series)),
            open_model=open_model,
        )
        try:
            for case in cases.cases:
                _run_case(case, subject)
        except (ProjectError, MemoryError, OSError) as error:
            what = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS]
            subject.recorder.emit(Failure(at_ns=time.monotonic_ns(), what=_printable(what)))
        subject.recorder.end()


def _first_line(artifact: Artifact, cases: CaseFile, series: Series) -> Start:
    manifest = artifact.manifest
    affinity = sorted(os.sched_getaffinity(0))
    return Start(
        at_ns=time.monotonic_ns(),
        runner=RUNNER,
        runtime=f"{manifest.runtime.name} {version(manifest.runtime.name)}",
        series=series,
        requested=Said(backend=manifest.backend, threads=cases.threads, affinity=cases.affinity),
        effective=Said(affinity=affinity, details={"tokenizer": f"tokenizers {version('tokenizers')}"}),
    )


def _run_case(case: Case, subject: Subject) -> None:
    recorder = subject.recorder
    recorder.emit(CaseStart(at_ns=time.monotonic_ns(), case=case.case, kind=case.kind))
    recorder.sample(["memory"])
    if case.drop_page_cache:
        _drop_page_cache(subject.artifact, recorder)
    with _sampling(case, recorder):
        _idle(case, recorder)
        recorder.emit(LoadStart())
        runner = subject.open_model(subject.artifact, subject.threads)
        recorder.emit(LoadEnd())
        _say_what_runs(recorder, subject.artifact, runner)
        _warm_up(case, runner, recorder)
        _repeat(case, runner, subject)
    recorder.sample(["memory", "cpu"])
    runner.close()
    recorder.emit(CaseEnd(at_ns=time.monotonic_ns(), case=case.case))
    recorder.flush()


def _say_what_runs(recorder: Recorder, artifact: Artifact, runner: Runner) -> None:
    effective = recorder.start.effective.model_copy(
        update={"backend": artifact.manifest.backend, "threads": runner.threads}
    )
    recorder.start = recorder.start.model_copy(update={"effective": effective})


def _drop_page_cache(artifact: Artifact, recorder: Recorder) -> None:
    files = [artifact.file(entry.path) for entry in artifact.manifest.files]
    page_cache.drop(files)
    resident = sum(page_cache.resident_bytes(file) for file in files)
    total = sum(entry.bytes for entry in artifact.manifest.files)
    values: dict[str, int | float] = {"resident_bytes": resident, "file_bytes": total}
    recorder.emit(Sample(at_ns=time.monotonic_ns(), kind="memory", source="mincore", values=values))


def _idle(case: Case, recorder: Recorder) -> None:
    """Do nothing for a while, for the baseline of the energy."""
    if case.idle_ms is None:
        return
    recorder.emit(Marker(at_ns=time.monotonic_ns(), name=IDLE_START))
    time.sleep(case.idle_ms / 1000)
    recorder.emit(Marker(at_ns=time.monotonic_ns(), name=IDLE_END))


def _warm_up(case: Case, runner: Runner, recorder: Recorder) -> None:
    if not case.warm_ups:
        return
    recorder.emit(Marker(at_ns=time.monotonic_ns(), name="warm_up_start"))
    for _ in range(case.warm_ups):
        runner.reset()
        _generate(runner, case.prompt, case.new_tokens)
    recorder.emit(Marker(at_ns=time.monotonic_ns(), name="warm_up_end"))
    recorder.flush()


def _repeat(case: Case, runner: Runner, subject: Subject) -> None:
    """The timed generations."""
    if case.duration_ms is None:
        for _ in range(case.repeats):
            _timed_generation(case, runner, subject)
        return
    deadline_ns = time.monotonic_ns() + case.duration_ms * 1_000_000
    while True:
        _timed_generation(case, runner, subject)
        if time.monotonic_ns() >= deadline_ns:
            return


def _timed_generation(case: Case, runner: Runner, subject: Subject) -> None:
    recorder = subject.recorder
    runner.reset()
    submitted_ns = time.monotonic_ns()
    tokens = case.prompt if case.text is None else subject.tokenizer.encode(case.text)
    recorder.emit(Submit(at_ns=submitted_ns, prompt_tokens=len(tokens)))
    if tokens != case.prompt:
        raise TokenizerError(f"case {case.case!r}: the text gives other tokens than its prompt; use one tokenizer")
    _generate(runner, tokens, case.new_tokens, recorder.emit)
    recorder.flush()


def _generate(
    runner: Runner, tokens: Sequence[int], new_tokens: int, emit: runtime_events.Sink = runtime_events.ignore
) -> None:
    """One greedy generation that no end token ends."""
    settings = Settings(eos_token_ids=(), max_tokens=new_tokens)
    logits = prefill(runner, tokens, emit)
    chosen = list(choose_tokens(runner, logits, list(tokens), settings, emit))
    emit(Stop(reason=chosen[-1][1] or "cancelled", tokens=len(chosen)))


@contextmanager
def _sampling(case: Case, recorder: Recorder) -> Iterator[None]:
    """Sample from a thread meanwhile, if the case asks for it."""
    if case.sample_interval_ms is None:
        yield
        return
    interval_s = case.sample_interval_ms / 1000
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(interval_s):
            recorder.sample(case.samples)

    thread = threading.Thread(target=watch, name="sampling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


if __name__ == "__main__":
    sys.exit(main())

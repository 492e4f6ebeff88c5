"""Prove that an artifact is what its exporter meant: run the written file in its real runtime and compare.

The files' hashes come first. Then the runner is driven in every way an app drives it, each time against logits recorded
from eager torch on the same quantized weights: one shot, chunks of several sizes, single steps, after a reset, over a
second turn, around a snapshot, up to the last place of the context and one beyond. Last, the stock runner of the same
runtime (the one an app would use without us) must write the same text. A check that cannot run here is listed as
skipped, with the reason. Where an engine is too slow for all of it (`CHECK_SECONDS` of its module), a few steps come
first, whatever they take, and every other check compares as many positions as there is time for.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from runtimes.artifact import Artifact
from runtimes.errors import ContextLimitError, ProjectError, RuntimeUnavailableError
from runtimes.patience import PatientRunner, TooSlowError
from runtimes.reference import (
    VIEW,
    Case,
    Difference,
    Expected,
    Reference,
    compare,
    judge,
    load_reference,
    log_sum_exp,
    summarize,
)
from runtimes.runner import Logits, Runner, engine_name, open_runner, other_ways, runtime_module
from runtimes.stock import compare_with_stock, stock_engine
from runtimes.vision.prepare import prepared
from runtimes.vision.prompt import SeeingRunner, make_prompt

CHUNK_SIZES = (1, 7, 64, 128)
IMAGE_PIECES = 11
DECODE_STEPS = 32
ONE_SHOT_POSITIONS = 4
LAST_POSITIONS = 8  # of the longest context: decoded one by one
FEW_TOKENS = 9  # less than a chunk
FEW_STEPS = 2

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: how it ended, why if not well, and its figures."""

    name: str
    outcome: Outcome
    reason: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """All checks of one artifact."""

    artifact: str
    artifact_hash: str
    runtime: str
    engine: str  # what really computed
    threads: int
    tolerance_kind: str
    tolerance: float
    emulation: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.outcome != "failed" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {**asdict(self), "checks": [asdict(check) for check in self.checks], "passed": self.passed}


class SkippedError(Exception):
    """A check that cannot run here, and why."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the checks work on."""

    artifact: Artifact
    runner: Runner
    reference: Reference
    seen: list[Difference] = field(default_factory=list)  # from the reference, over all checks so far

    @property
    def prompt(self) -> Case:
        return self.reference.cases["prompt"]


Finding = tuple[str | None, dict[str, Any]]  # the reason of a failure, the figures


def verify(
    path: str | Path,
    *,
    hashes: bool = True,
    stock: bool = True,
    threads: int | None = None,
    on_check: Callable[[Check], None] = lambda _check: None,
) -> Report:
    """Check an artifact; a broken manifest or file is an error, a wrong answer is a failed check in the report."""
    artifact = Artifact.open(path)
    if hashes:
        artifact.check_hashes()
    reference = load_reference(artifact)
    subject = Subject(artifact=artifact, runner=_open(artifact, threads), reference=reference)
    used, engine = subject.runner.threads, engine_name(artifact, subject.runner)
    checks: list[Check] = []
    for name, check in _checks(subject, stock=stock):
        checks.append(_run(name, check))
        on_check(checks[-1])
    return Report(
        artifact=str(artifact.path),
        artifact_hash=artifact.manifest.artifact_hash(),
        runtime=artifact.manifest.runtime.name,
        engine=engine,
        threads=used,
        tolerance_kind=reference.kind,
        tolerance=reference.tolerance,
        emulation=reference.emulation,
        checks=tuple(checks),
    )


def _open(artifact: Artifact, threads: int | None) -> Runner:
    """The artifact's runner; one whose runtime module gives `CHECK_SECONDS` does not begin what takes longer."""
    return _patient(artifact, open_runner(artifact, threads))


def _patient(artifact: Artifact, runner: Runner) -> Runner:
    seconds = getattr(runtime_module(artifact.manifest.runtime.name), "CHECK_SECONDS", None)
    return runner if seconds is None else PatientRunner(runner, seconds)


def _checks(subject: Subject, *, stock: bool) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Every check by name, in the order in which they run; where time is limited, a few steps are free of it."""
    if isinstance(subject.runner, PatientRunner):
        yield "few_steps", lambda: _judged(subject, _few_steps(subject))
    for name, check in _timed_checks(subject, stock=stock):
        if isinstance(subject.runner, PatientRunner):
            subject.runner.start()
        yield name, check


def _timed_checks(subject: Subject, *, stock: bool) -> Iterator[tuple[str, Callable[[], Finding]]]:
    yield "one_shot", lambda: _judged(subject, _one_shot(subject))
    count = subject.prompt.tokens.size
    for size in sorted({min(size, count) for size in CHUNK_SIZES}):
        yield f"chunks_of_{size}", lambda size=size: _judged(subject, _chunks(subject, size))  # type: ignore[misc]
    yield "decode", lambda: _judged(subject, _decode(subject))
    yield "reset", lambda: _reset(subject)
    yield "second_turn", lambda: _judged(subject, _second_turn(subject))
    yield "snapshot", lambda: _judged(subject, _snapshot(subject))
    yield "longest_context", lambda: _longest_context(subject)
    if "image" in subject.reference.cases:
        yield "images", lambda: _judged(subject, _images(subject))
    if subject.reference.views:
        yield "views", lambda: _views(subject)
    if subject.reference.kind == "quantized":
        yield "all_positions", lambda: _all_positions(subject)
    if stock:
        yield "stock_runner", lambda: _stock(subject)  # it closes our runner
    for name, open_way in other_ways(subject.artifact):
        yield name, lambda open_way=open_way: _other_way(subject, open_way)  # type: ignore[misc]


def _run(name: str, check: Callable[[], Finding]) -> Check:
    start = time.perf_counter()
    outcome: Outcome
    try:
        reason, figures = check()
        outcome = "passed" if reason is None else "failed"
    except TooSlowError as error:
        outcome, reason, figures = "skipped", str(error), {"too_slow": True}
    except (SkippedError, RuntimeUnavailableError) as error:
        outcome, reason, figures = "skipped", str(error), {}
    except ProjectError as error:
        outcome, reason, figures = "failed", f"{type(error).__name__}: {error}", {}
    seconds = round(time.perf_counter() - start, 3)
    return Check(name=name, outcome=outcome, reason=reason, figures=figures, seconds=seconds)


def _judged(subject: Subject, differences: Iterable[Difference]) -> Finding:
    """What was compared, judged; where an engine was too slow for all of it, as much as there was time for."""
    found: list[Difference] = []
    stopped: dict[str, Any] = {}
    try:
        for difference in differences:
            found.append(difference)
    except TooSlowError as error:
        if not found:
            raise
        stopped = {"stopped": str(error)}
    if not found:
        raise SkippedError("the reference records no position that this check reaches")
    subject.seen.extend(found)
    return judge(found, subject.reference), {**summarize(found), **stopped}


def _feed(runner: Runner, case: Case, start: int, stop: int, size: int) -> Iterator[Difference]:
    """Run tokens from `start` to `stop` in pieces of a size, and compare wherever something was recorded."""
    for begin in range(start, stop, size):
        end = min(begin + size, stop)
        logits = runner.forward(case.tokens[begin:end])
        if end - 1 in case.expected:
            yield compare(end - 1, logits, case.expected[end - 1])


def _few_steps(subject: Subject) -> Iterator[Difference]:
    """Less than a chunk, single steps on top of it, less than that after a reset, and one small picture if it sees."""
    runner, case = subject.runner, subject.prompt
    first = max(1, min(FEW_TOKENS, case.tokens.size - FEW_STEPS))
    runner.reset()
    yield from _feed(runner, case, 0, first, first)
    yield from _feed(runner, case, first, min(first + FEW_STEPS, case.tokens.size), 1)
    runner.reset()
    again = max(1, first // 2)
    yield from _feed(runner, case, 0, again, again)
    for view in subject.reference.views[:1]:
        yield _view(subject, view)


def _one_shot(subject: Subject) -> Iterator[Difference]:
    """A whole prompt in one call, for a few lengths, the longest first."""
    case = subject.prompt
    positions = sorted(case.full_positions or case.expected, reverse=True)[:ONE_SHOT_POSITIONS]
    for position in positions:
        subject.runner.reset()
        yield from _feed(subject.runner, case, 0, position + 1, position + 1)


def _chunks(subject: Subject, size: int) -> Iterator[Difference]:
    subject.runner.reset()
    yield from _feed(subject.runner, subject.prompt, 0, subject.prompt.tokens.size, size)


def _decode(subject: Subject) -> Iterator[Difference]:
    """A prefill, then single steps to the end of the sequence."""
    count = subject.prompt.tokens.size
    split = max(1, count - DECODE_STEPS)
    subject.runner.reset()
    yield from _feed(subject.runner, subject.prompt, 0, split, split)
    yield from _feed(subject.runner, subject.prompt, split, count, 1)


def _reset(subject: Subject) -> Finding:
    """The first answer again, after other tokens and a reset: what a reset leaves behind shows up here."""
    runner, tokens = subject.runner, subject.prompt.tokens
    half = max(1, tokens.size // 2)
    runner.reset()
    first = runner.forward(tokens[:half])
    runner.forward(tokens[::-1][:half] if runner.position + half <= runner.context_length else tokens[:1])
    runner.reset()
    again = runner.forward(tokens[:half])
    difference = compare(half - 1, again, _expect(first))
    return judge([difference], subject.reference, sampled=False), summarize([difference])


def _second_turn(subject: Subject) -> Iterator[Difference]:
    """A prefill, some steps, and a second prefill on top of them."""
    count = subject.prompt.tokens.size
    first = max(1, count // 3)
    second = min(count, first + 8)
    subject.runner.reset()
    yield from _feed(subject.runner, subject.prompt, 0, first, first)
    yield from _feed(subject.runner, subject.prompt, first, second, 1)
    if second < count:
        yield from _feed(subject.runner, subject.prompt, second, count, count - second)


def _snapshot(subject: Subject) -> Iterator[Difference]:
    """Leave a place, overwrite what lies behind and before it, come back, and go on as if nothing had happened."""
    runner, case = subject.runner, subject.prompt
    count = case.tokens.size
    half = max(1, count // 2)
    runner.reset()
    runner.forward(case.tokens[:half])
    saved = runner.snapshot()
    runner.forward(case.tokens[:1])
    runner.reset()
    runner.forward(case.tokens[::-1][:half])
    runner.restore(saved)
    if runner.position != half:
        raise RuntimeError(f"a restored runner is at {runner.position}, not at {half}")
    yield from _feed(runner, case, half, count, max(1, (count - half) // 2))
    runner.restore(saved)
    yield from _feed(runner, case, half, min(count, half + 4), 1)


def _views(subject: Subject) -> Finding:
    """A picture of each grid that the tower takes; the figures name those that were run."""
    grids: list[str] = []

    def differences() -> Iterator[Difference]:
        for name in subject.reference.views:
            yield _view(subject, name)
            grids.append(name.removeprefix(VIEW))

    reason, figures = _judged(subject, differences())
    return reason, {**figures, "grids": grids}


def _view(subject: Subject, name: str) -> Difference:
    """The last logits of a prompt with one picture, from its pixels on."""
    case, vision = subject.reference.cases[name], subject.artifact.manifest.vision
    if vision is None:
        raise SkippedError("the artifact sees no images")
    runner = cast(SeeingRunner, subject.runner)
    seen = [runner.see(image) for image in prepared(case.pictures, vision.images)]
    runner.reset()
    last = case.tokens.size - 1
    return compare(last, runner.forward_prompt(make_prompt(runner, case.tokens, seen)), case.expected[last])


def _images(subject: Subject) -> Iterator[Difference]:
    """Pictures between texts: at once, in pieces that cut images, and single steps behind them after a snapshot."""
    case, vision = subject.reference.cases["image"], subject.artifact.manifest.vision
    if vision is None:
        raise SkippedError("the artifact sees no images")
    runner = cast(SeeingRunner, subject.runner)
    seen = [runner.see(image) for image in prepared(case.pictures, vision.images)]
    count = case.tokens.size
    runner.reset()
    prompt = make_prompt(runner, case.tokens, seen)
    for size in (count, IMAGE_PIECES):
        runner.reset()
        for begin in range(0, count, size):
            end = min(begin + size, count)
            yield compare(end - 1, runner.forward_prompt(prompt.cut(begin, end)), case.expected[end - 1])
    behind = int(np.flatnonzero(case.tokens == vision.image_token_id).max()) + 1
    runner.reset()
    runner.forward_prompt(prompt.cut(0, behind))
    saved = runner.snapshot()
    runner.forward(case.tokens[:1])
    runner.restore(saved)
    yield from _feed(runner, case, behind, count, 1)


def _longest_context(subject: Subject) -> Finding:
    """Fill the context to its last place; one token more must be refused before it touches anything."""
    runner = subject.runner
    case = subject.reference.cases.get("long")
    runner.reset()
    differences = list(_fill(runner, case)) if case is not None else _fill_unchecked(subject)
    subject.seen.extend(differences)
    if runner.position != runner.context_length:
        return f"{runner.position} tokens are in a context of {runner.context_length}", {}
    figures: dict[str, Any] = {"tokens": runner.position, **(summarize(differences) if differences else {})}
    try:
        runner.forward([0])
    except ContextLimitError:
        reason = judge(differences, subject.reference) if differences else None
        return reason, figures
    finally:
        runner.reset()
    return "one token more than the context holds was accepted", figures


def _fill(runner: Runner, case: Case) -> Iterator[Difference]:
    """The long case: one prefill up to its last positions, those one by one."""
    count = case.tokens.size
    split = max(1, min(min(case.expected) + 1, count - LAST_POSITIONS))
    yield from _feed(runner, case, 0, split, split)
    yield from _feed(runner, case, split, count, 1)


def _fill_unchecked(subject: Subject) -> list[Difference]:
    """Without a recorded case: the prompt over and over, whose logits must at least be finite."""
    runner = subject.runner
    tokens = np.resize(subject.prompt.tokens, runner.context_length)
    logits = runner.forward(tokens)
    return [] if np.isfinite(logits).all() else [compare(tokens.size - 1, logits, _expect(np.zeros_like(logits)))]


def _expect(logits: Logits) -> Expected:
    """These logits as what is expected; where they are not finite, nothing will equal them."""
    finite = np.where(np.isfinite(logits), logits, np.float32(0))
    return Expected(ids=np.arange(logits.size), logits=finite, log_sum=log_sum_exp(finite))


def _all_positions(subject: Subject) -> Finding:
    """Everything that was compared, as one: where each check's few positions may scatter, their mean may not."""
    if not subject.seen:
        raise SkippedError("no check compared anything")
    return judge(subject.seen, subject.reference, sampled=False), summarize(subject.seen)


def _stock(subject: Subject) -> Finding:
    """The same text from the stock runner; a first difference may only come where two tokens are nearly equal."""
    stock_engine(subject.artifact.manifest.runtime.name)  # where there is none, nothing needs to run
    worst = _largest_error(subject)
    return compare_with_stock(subject.artifact, subject.runner, worst)


def _other_way(subject: Subject, open_way: Callable[[int], Runner]) -> Finding:
    """The prompt by prefill and by steps in another engine or layout; our runner gives its memory back first."""
    threads = subject.runner.threads
    subject.runner.close()
    runner = _patient(subject.artifact, open_way(threads))
    try:
        other = replace(subject, runner=runner, seen=[])
        reason, figures = _judged(other, _way(other))
        return reason, {**figures, "engine": engine_name(subject.artifact, runner)}
    finally:
        runner.close()


def _way(subject: Subject) -> Iterator[Difference]:
    """A prefill and steps; where time is limited, behind a few steps that are free of it."""
    if isinstance(subject.runner, PatientRunner):
        yield from _few_steps(subject)
        subject.runner.start()
    yield from _decode(subject)


def _largest_error(subject: Subject) -> float:
    """The largest logit error that parity allows or that a plain prefill shows: a smaller margin decides nothing."""
    case = subject.prompt
    differences = list(_decode(subject))
    size = max(float(np.abs(case.expected[difference.position].logits).max()) for difference in differences)
    shown = max(difference.max_error for difference in differences)
    return max(2 * shown, subject.reference.tolerance * size)


def failures(checks: Sequence[Check]) -> list[str]:
    """One line for each failed check."""
    return [f"{check.name}: {check.reason}" for check in checks if check.outcome == "failed"]

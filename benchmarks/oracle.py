"""What a device should have answered: our own runner on this machine, itself held against the recorded reference.

`reference.safetensors` holds logits of eager torch on the same quantized weights for a prompt of its own. So the runner
answers that prompt first; how far it is off is the error that two right answers may have. Then it generates greedily
for each prompt of the run. A device that chooses another token is wrong where the oracle's two best logits are further
apart than twice that error; where they are closer, either token is right and what follows cannot be compared.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.capped import ProgramTimeoutError, run_capped
from benchmarks.cases import Case, CaseFile, read_cases, write_cases
from benchmarks.errors import BenchmarkError
from benchmarks.record import Parity
from benchmarks.tethered import tethered
from runtimes.artifact import Artifact
from runtimes.errors import ProjectError
from runtimes.generate import prefill
from runtimes.reference import compare, judge, load_reference, summarize
from runtimes.runner import Runner, open_runner

__all__ = ["Answer", "Oracle", "OracleError", "ask_oracle", "compare_tokens"]

MAX_OUTPUT_BYTES = 64 * 1024 * 1024
REPOSITORY = Path(__file__).parents[1]


class OracleError(BenchmarkError):
    """The oracle has no answer, so no token can be checked."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(_Model):
    """The greedy tokens after one case's prompt, and at each the distance between the two best logits."""

    case: str
    tokens: list[int]
    margins: list[float]


class Oracle(_Model):
    """All answers of one artifact; `fault` says why the reference disowns them, `max_error` how far logits are off."""

    name: str
    positions: Annotated[int, Field(ge=0)]
    max_error: float
    fault: str | None
    answers: list[Answer]


def ask_oracle(artifact: Artifact, cases: Sequence[CaseFile], work: Path, *, timeout_s: float) -> Oracle:
    """The oracle's answers, from a process of its own: nothing of it is in the memory of what is measured later."""
    wanted = CaseFile(cases=[case for file in cases for case in file.cases])
    write_cases(wanted, work / "oracle-cases.json")
    words = [str(artifact.path.resolve()), str(work / "oracle-cases.json")]
    command = tethered([sys.executable, "-m", "benchmarks.oracle", *words])
    try:
        finished = run_capped(command, timeout_s=timeout_s, max_stdout_bytes=MAX_OUTPUT_BYTES, directory=REPOSITORY)
    except ProgramTimeoutError as error:
        raise OracleError(f"the oracle had not answered after {timeout_s:g} s; give more with --timeout") from error
    if finished.status != 0:
        raise OracleError(f"the oracle ended with status {finished.status}: {finished.error_text}")
    try:
        return Oracle.model_validate_json(finished.stdout.splitlines()[-1])
    except (ValidationError, IndexError) as error:
        raise OracleError(f"the oracle's answer is none: {finished.error_text}") from error


def compare_tokens(oracle: Oracle, case: str, generations: Sequence[Sequence[int]]) -> tuple[Parity, bool]:
    """Tokens of a case against the oracle's, and whether they are right: equal, or first different at a near tie."""
    answer = next(found for found in oracle.answers if found.case == case)
    compared = 0
    for number, tokens in enumerate(generations, start=1):
        pairs = list(zip(tokens, answer.tokens, strict=False))
        place = next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        if place is None and len(tokens) == len(answer.tokens):
            compared += len(pairs)
            continue
        place = len(pairs) if place is None else place
        reason, right = _difference(oracle, answer, tokens, place)
        told = f"generation {number} of {len(generations)}: {reason}"
        parity = Parity(oracle=oracle.name, compared_tokens=compared + place + 1, first_difference=place, reason=told)
        return parity, right
    return Parity(oracle=oracle.name, compared_tokens=compared, first_difference=None), True


def _difference(oracle: Oracle, answer: Answer, tokens: Sequence[int], place: int) -> tuple[str, bool]:
    if place >= min(len(tokens), len(answer.tokens)):
        return f"{len(tokens)} tokens, the oracle has {len(answer.tokens)}", False
    margin = answer.margins[place]
    near = margin <= 2 * oracle.max_error
    how = "a near tie" if near else "a clear margin"
    figures = f"{how}: {margin:.3g} between the two best logits, whose error is up to {oracle.max_error:.3g}"
    return f"token {place} is {tokens[place]}, the oracle's is {answer.tokens[place]}, at {figures}", near


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the cases of a file on stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("cases", type=Path)
    options = parser.parse_args(arguments)
    try:
        oracle = answer_cases(Artifact.open(options.artifact), read_cases(options.cases).cases)
    except ProjectError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{oracle.model_dump_json()}\n")
    return 0


def answer_cases(artifact: Artifact, cases: Sequence[Case]) -> Oracle:
    """The oracle's answers, in this process."""
    runner = open_runner(artifact)
    reference = load_reference(artifact)
    known = reference.cases["prompt"]
    differences = []
    for end in sorted(known.full_positions):
        logits = runner.forward(known.tokens[runner.position : end + 1])
        differences.append(compare(end, logits, known.expected[end]))
    name = artifact.manifest.runtime.name
    return Oracle(
        name=f"greedy {name} {version(name)} here, checked by reference.safetensors",
        positions=len(differences),
        max_error=float(summarize(differences)["max_error"]),
        fault=judge(differences, reference),
        answers=_answers(runner, cases),
    )


def _answers(runner: Runner, cases: Sequence[Case]) -> list[Answer]:
    """Each prompt is answered once, as long as any case wants it."""
    longest: dict[tuple[int, ...], int] = {}
    for case in cases:
        prompt = tuple(case.prompt)
        longest[prompt] = max(case.new_tokens, longest.get(prompt, 0))
    answered = {prompt: _greedy(runner, prompt, count) for prompt, count in longest.items()}
    return [
        Answer(case=case.case, tokens=tokens[: case.new_tokens], margins=margins[: case.new_tokens])
        for case in cases
        for tokens, margins in [answered[tuple(case.prompt)]]
    ]


def _greedy(runner: Runner, prompt: Sequence[int], count: int) -> tuple[list[int], list[float]]:
    runner.reset()
    logits = prefill(runner, prompt)
    tokens: list[int] = []
    margins: list[float] = []
    while len(tokens) < count:
        second, best = np.partition(logits, -2)[-2:]
        tokens.append(int(logits.argmax()))
        margins.append(float(best - second))
        if len(tokens) < count:
            logits = runner.forward([tokens[-1]])
    return tokens, margins


if __name__ == "__main__":
    sys.exit(main())

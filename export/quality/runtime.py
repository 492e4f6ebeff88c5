"""An artifact's own logits, from its real runtime, against the float checkpoint's.

An artifact answers with the logits after the last token of a call, as a chat needs them. So a text is fed token by
token wherever predictions are scored (what comes before the first one goes in a single call), which is how the model
will be used, at decoding speed: choose --tokens accordingly. The float model's side is made a batch of predictions at a
time from its hidden states, so a vocabulary of 250,000 takes a hundred rows of memory. Each sequence is remembered.
"""

import platform
from importlib.metadata import version

import numpy as np
import torch

from export.progress import Progress
from export.quality.evaluate import Measurement, Places, Subject, places, recall, remember
from export.quality.metrics import COLUMNS_AT_ONCE, Logits, TokenStats, TokenSums, join, with_blocks
from export.quality.reading import ROWS_AT_ONCE, Outputs, head_weight, read
from export.quality.texts import Sequences
from export.spec import digest
from runtimes.artifact import Artifact
from runtimes.runner import Runner, open_runner


def measure_in_runtime(
    reference: Subject, artifact: Artifact, sequences: Sequences, progress: Progress, threads: int | None = None
) -> Measurement:
    """Figures of an artifact as its runtime on this machine computes it."""
    runner = open_runner(artifact, threads)
    try:
        progress.stage(f"run in {artifact.manifest.runtime.name}", sequences.tokens.numel(), "token")
        machine = [artifact.manifest.artifact_hash(), runner.threads, platform.machine(), _version(artifact)]
        parts = []
        for row in range(len(sequences.tokens)):
            one = sequences.part(slice(row, row + 1))
            parts.append(_sequence(reference, runner, machine, one, progress))
        progress.end()
    finally:
        runner.close()
    return Measurement(stats=join(parts))


def _sequence(
    reference: Subject, runner: Runner, machine: list[object], one: Sequences, progress: Progress
) -> TokenStats:
    name = digest([reference.key(), "runtime", machine, one.sha256])
    known = recall(name)
    if known is None:
        outputs, _ = read([reference.reading], one.tokens, one.scored, lambda *_: None)
        known = Measurement(stats=_run(outputs[0], runner, one, progress))
        remember(name, known)
    else:
        progress.step("measured before", one.tokens.numel())
    return known.stats


def _run(expected: Outputs, runner: Runner, one: Sequences, progress: Progress) -> TokenStats:
    """Feed one sequence and compare after each scored token."""
    where = places(one)
    tokens = one.tokens[0].numpy()
    runner.reset()
    first = int(where.position[0])
    if first > 0:
        runner.forward(tokens[:first])
    parts: list[TokenStats] = []
    held: list[Logits] = []
    done = 0  # of the scored predictions
    for position in range(first, int(where.position[-1]) + 1):
        logits = runner.forward(tokens[position : position + 1])
        if one.scored[0, position]:
            held.append(logits)
        if len(held) == ROWS_AT_ONCE or position == where.position[-1]:
            parts.append(_compare(expected, np.stack(held), where, slice(done, done + len(held))))
            done += len(held)
            held = []
        progress.step("token by token", 1)
    return with_blocks(join(parts), where.block)


@torch.no_grad()
def _compare(expected: Outputs, found: Logits, where: Places, rows: slice) -> TokenStats:
    """Figures of some rows of logits, the reference's made a piece of the vocabulary at a time."""
    sums = TokenSums(where.targets[rows])
    weights = expected.reading.weights
    for start in range(0, found.shape[1], COLUMNS_AT_ONCE):
        columns = slice(start, min(start + COLUMNS_AT_ONCE, found.shape[1]))
        logits = expected.logits(head_weight(weights, columns), rows).numpy()
        sums.add(start, logits, found[:, columns])
    return sums.stats(position=where.position[rows])


def _version(artifact: Artifact) -> str:
    return version(artifact.manifest.runtime.name)

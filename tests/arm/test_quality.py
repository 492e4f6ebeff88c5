"""What an artifact lost against the float checkpoint, by its logits on aarch64, beside the same figure of eager torch.

The emulated machine has no torch, so it only gives logits; the float model's are made here. `python -m export quality
--runtime` does the whole on a real aarch64 machine.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.quality.metrics import TokenStats, summarize, token_stats, with_blocks
from export.quality.reading import Reading, head_weight, read
from export.quality.subjects import open_reference
from runtimes.artifact import Artifact
from runtimes.reference import load_reference
from tests.arm.conftest import ARM_ACTIVATIONS, TINY
from tests.arm.runs import Run
from tests.subjects import quantized

pytestmark = pytest.mark.arm

BLOCK = 16  # tokens: the recorded prompt is one short sequence, so the error is rough


def logits_of(reading: Reading, tokens: torch.Tensor) -> np.ndarray:
    """Logits (tokens, vocab) of one sequence."""
    (outputs,), _ = read(
        [reading], tokens.unsqueeze(0), torch.ones(1, tokens.numel(), dtype=torch.bool), lambda *_: None
    )
    weight = head_weight(reading.weights, slice(0, reading.weights.config.vocab_size))
    return outputs.logits(weight, slice(None)).numpy()


def stats_of(expected: np.ndarray, found: np.ndarray, tokens: torch.Tensor) -> TokenStats:
    stats = token_stats(expected[:-1], found[:-1], tokens[1:].numpy())
    return with_blocks(stats, stats.position // BLOCK)


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_quality_on_arm_is_that_of_eager_torch(
    runs: dict[str, Run], artifacts: dict[str, Path], cpu: str, scheme: str, figures: list[str], tmp_path: Path
) -> None:
    reference = open_reference(str(TINY)).subject.reading
    tokens = torch.from_numpy(load_reference(Artifact.open(artifacts[scheme])).cases["prompt"].tokens)
    store = quantized(TINY, tmp_path, scheme)
    expected = logits_of(reference, tokens)
    eager = logits_of(Reading(name=scheme, weights=store, activations=ARM_ACTIVATIONS[scheme]), tokens)
    theirs = summarize(stats_of(expected, eager, tokens))
    ours = summarize(stats_of(expected, runs[cpu].logits[scheme], tokens))
    kld = ours["mean_kld"]
    figures.append(
        f"{scheme} on {cpu}: mean KLD {kld.value:.3g} ± {kld.standard_error:.1g} against float, "
        f"{theirs['mean_kld'].value:.3g} in eager torch; top-1 {ours['top1_agreement'].value:.1%}"
    )
    assert kld.value == pytest.approx(theirs["mean_kld"].value, rel=0.25)

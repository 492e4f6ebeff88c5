"""Sealed tiny artifacts, verified on aarch64 against eager torch with the activation quantization of ARM's kernels.

A quantized network is chaotic: a sum that differs in its last bit puts an int8 code on the other side of a rounding,
and a few tokens later the two runs share no rounding. Where both round alike the logits agree to 1e-6; past that point
they differ as two quantizations of the same activations do. That difference is known: each run is off the unrounded
logits by the cost of its activation quantization, KLD(no quantization, emulation), and KLD is quadratic in the logits'
error, so two runs with independent rounding differ by twice the cost on average. That bounds a run on any kernels that
quantize as emulated; `verify` inside asks for more, twice what rounding noise alone does in eager torch.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from export.backends import IN_32_BITS
from export.decoder import Activations
from export.parity import Recorded, stream_logits
from runtimes.artifact import Artifact
from runtimes.reference import load_reference
from tests.arm.conftest import ARM_ACTIVATIONS, SCHEMES, TINY
from tests.arm.runs import Run
from tests.subjects import quantized, request

pytestmark = pytest.mark.arm

SAME_ROUNDING = 1e-5  # relative logit error while every code is the same
OTHER_ROUNDING = 1e-3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_artifact_verifies_on_arm(runs: dict[str, Run], cpu: str, scheme: str) -> None:
    report = runs[cpu].reports[scheme]
    assert report["passed"], [check for check in report["checks"] if check["outcome"] == "failed"]
    assert report["emulation"] == ARM_ACTIVATIONS[scheme].kind
    skipped = [check["name"] for check in report["checks"] if check["outcome"] == "skipped"]
    assert not skipped
    assert ("stock_runner" in [check["name"] for check in report["checks"]]) == (scheme == "int4")


def test_float_artifact_meets_the_float_tolerance_on_arm(runs: dict[str, Run], cpu: str, figures: list[str]) -> None:
    report = runs[cpu].reports["float"]
    assert report["tolerance"] == IN_32_BITS.float_error
    largest = max(check["figures"].get("relative_max_error", 0.0) for check in report["checks"])
    figures.append(f"float on {cpu}: largest relative logit error {largest:.1e}")
    assert 0 < largest <= IN_32_BITS.float_error


@dataclass(frozen=True, kw_only=True)
class Eager:
    """Logits (tokens, vocab) of the recorded prompt in eager torch."""

    unrounded: np.ndarray
    emulated: np.ndarray
    other: np.ndarray  # the other architecture's emulation


@pytest.fixture(scope="module")
def eager(artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Eager]:
    """What eager torch answers for both quantized schemes."""
    return {scheme: _eager(artifacts[scheme], scheme, tmp_path_factory.mktemp("eager")) for scheme in ("int4", "int8")}


def _eager(path: Path, scheme: str, root: Path) -> Eager:
    store = quantized(TINY, root, scheme)
    tokens = torch.from_numpy(load_reference(Artifact.open(path)).cases["prompt"].tokens)
    case = Recorded(tokens=tokens, full=tuple(range(tokens.numel())), top=())

    @cache
    def logits(activations: Activations) -> np.ndarray:
        return stream_logits(store, request(store), activations, case, lambda *_: None).numpy()

    others = {"int4": ARM_ACTIVATIONS["int8"], "int8": ARM_ACTIVATIONS["int4"]}
    return Eager(
        unrounded=logits(Activations()), emulated=logits(ARM_ACTIVATIONS[scheme]), other=logits(others[scheme])
    )


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_arm_differs_from_the_emulation_no_more_than_rounding_does(
    runs: dict[str, Run], eager: dict[str, Eager], cpu: str, scheme: str, figures: list[str]
) -> None:
    ours, found = eager[scheme], runs[cpu].logits[scheme]
    cost, difference = _divergence(ours.unrounded, ours.emulated), _divergence(ours.emulated, found)
    other = _divergence(ours.other, found)
    figures.append(
        f"{scheme} on {cpu}: KLD {difference:.2e} from its emulation, {other:.2e} from the other kernels'; "
        f"activation quantization by itself costs {cost:.2e}"
    )
    assert difference <= 2 * cost
    assert difference <= other / 2


@pytest.mark.parametrize(("cpu", "scheme"), [("cortex-a76", "int4"), ("max", "int4"), ("max", "int8")])
def test_logits_agree_to_the_last_bits_until_a_rounding_falls_apart(
    runs: dict[str, Run], eager: dict[str, Eager], cpu: str, scheme: str, figures: list[str]
) -> None:
    """Not for 8 bits without i8mm, whose larger sums (test_kernels.py) change a rounding at the first token."""
    ours, found = eager[scheme], runs[cpu].logits[scheme]
    errors = _relative_errors(ours.emulated, found)
    same = float((errors <= SAME_ROUNDING).mean())
    figures.append(f"{scheme} on {cpu}: {same:.0%} of positions within {SAME_ROUNDING:g}, the best {errors.min():.1e}")
    assert same > 0
    assert _relative_errors(ours.other, found).min() >= OTHER_ROUNDING


def _relative_errors(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The largest logit error relative to the largest logit, by position."""
    return np.abs(expected - found).max(-1) / np.abs(expected).max(-1)


def _divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence over all positions and the whole vocabulary, in nats."""
    first, second = _log_probabilities(expected), _log_probabilities(found)
    return float((np.exp(first) * (first - second)).sum(-1).mean())


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))

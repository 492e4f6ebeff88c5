"""What an oracle expects and what runtimes answer: figures and verdicts of `runtimes.reference`, on made-up logits.

An app asks the oracle of its bundle at first launch (`export/oracle.py` writes it) and has to judge alike.
"""

import math
from typing import Any

import numpy as np

from runtimes.artifact import parse_manifest
from runtimes.reference import Case, Difference, Expected, Reference, compare, judge, log_sum_exp, summarize
from runtimes.runner import Logits
from runtimes.sampling import SplitMix64
from tools.golden.files import FOLDER

VOCABULARY = 306  # that of manifest.json
TOKENS = 10
PREFILL = 8
TOP = 16
TOLERANCES: dict[str, tuple[str, float]] = {"float": ("relative_max_error", 5e-3), "quantized": ("mean_kld", 1e-3)}
# what is added to every logit, by a random factor between -1 and 1; and what happens to one of them
NOISE = {"exact": 0.0, "close": 1e-3, "rounded": 1e-2, "off": 0.3, "another model": 4.0}


def content() -> dict[str, Any]:
    """One oracle of each kind, and answers to it."""
    random = SplitMix64(77)
    logits = {position: _logits(random, 12.0) for position in range(PREFILL - 1, TOKENS)}
    manifest = parse_manifest((FOLDER / "manifest.json").read_bytes()).artifact_hash()
    answers = {name: {at: _shifted(random, row, noise) for at, row in logits.items()} for name, noise in NOISE.items()}
    answers["swapped best"] = {at: _swapped(row) if at == TOKENS - 1 else row for at, row in logits.items()}
    return {
        "oracles": [_oracle(kind, manifest, logits, random) for kind in TOLERANCES],
        "answers": [{"name": name, **_judged(given, logits)} for name, given in answers.items()],
    }


def _logits(random: SplitMix64, spread: float) -> Logits:
    return np.array([(random.uniform() - 0.5) * spread for _ in range(VOCABULARY)], np.float32).round(3)


def _shifted(random: SplitMix64, row: Logits, noise: float) -> Logits:
    moved = [np.float32(value + (random.uniform() * 2 - 1) * noise) for value in row]
    return np.array(moved, np.float32).round(4)


def _swapped(row: Logits) -> Logits:
    best, second = np.argsort(-row)[:2]
    swapped = row.copy()
    swapped[[best, second]] = row[[second, best]]
    return swapped


def _expected(row: Logits) -> Expected:
    ids = np.argsort(-row, kind="stable")[:TOP]
    return Expected(ids=ids, logits=row[ids], log_sum=log_sum_exp(row))


def _oracle(kind: str, artifact: str, logits: dict[int, Logits], random: SplitMix64) -> dict[str, Any]:
    name, tolerance = TOLERANCES[kind]
    positions = []
    for at, row in logits.items():
        expected = _expected(row)
        positions.append(
            {
                "position": at,
                "ids": expected.ids.tolist(),
                "logits": [float(value) for value in expected.logits],
                "log_sum": expected.log_sum,
            }
        )
    entry = {
        "artifact": artifact,
        "tolerance": {"kind": name, "value": tolerance},
        "tokens": [int(random.uniform() * VOCABULARY) for _ in range(TOKENS)],
        "prefill_tokens": PREFILL,
        "positions": positions,
    }
    return {"kind": kind, "file": {"format": 1, "artifacts": {"coreml": entry}}}


def _judged(given: dict[int, Logits], logits: dict[int, Logits]) -> dict[str, Any]:
    differences = [compare(at, given[at], _expected(row)) for at, row in logits.items()]
    figures = summarize(differences)
    return {
        "logits": [[float(value) for value in row] for row in given.values()],
        "relative_max_error": figures["relative_max_error"],
        "mean_kld": figures["mean_kld"],
        "refused_by": [kind for kind in TOLERANCES if _refused(kind, differences)],
    }


def _refused(kind: Any, differences: list[Difference]) -> bool:
    case = Case(tokens=np.zeros(TOKENS, np.int64), expected={}, full_positions=())
    reference = Reference(cases={"prompt": case}, emulation="", kind=kind, tolerance=TOLERANCES[kind][1])
    assert all(math.isfinite(difference.max_error) for difference in differences)
    return judge(differences, reference) is not None

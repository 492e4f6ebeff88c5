"""The oracle of a bundle: what each artifact must answer, small enough for an app to hold and to ask at first launch.

Every position was recorded from eager torch on the artifact's own weights (`reference.safetensors`, see
export/parity.py). An app feeds the tokens up to `prefill_tokens` as a prompt, the rest one by one, and compares the
logits after each of `positions`: the runtime's file was checked where it was made, but not the device's own compiler.
"""

import json
from pathlib import Path
from typing import Any

from export.user_cache import write_atomically
from runtimes.artifact import Artifact
from runtimes.reference import Case, Reference, load_reference

ORACLE_FILE = "oracle.json"
FORMAT = 1
STEPS = 32
TOP = 16
DIGITS = 6  # of a logit: float16 has three or four


def write_oracle(artifacts: dict[str, Artifact], place: Path) -> None:
    """Write the oracle of a bundle's artifacts, by backend."""
    content = {
        "format": FORMAT,
        "artifacts": {name: _of_artifact(artifact) for name, artifact in artifacts.items()},
    }
    write_atomically(place, (json.dumps(content, separators=(",", ":")) + "\n").encode())


def _of_artifact(artifact: Artifact) -> dict[str, Any]:
    reference = load_reference(artifact)
    return {
        "artifact": artifact.manifest.artifact_hash(),
        "tolerance": {"kind": _kind(reference), "value": reference.tolerance},
        **_of_case(reference.cases["prompt"]),
    }


def _kind(reference: Reference) -> str:
    """What the tolerance bounds; either way the best id must agree where its margin is twice the largest error."""
    return "relative_max_error" if reference.kind == "float" else "mean_kld"


def _of_case(case: Case) -> dict[str, Any]:
    """The tokens, and the best ids with their logits after the prompt and after each step."""
    count = int(case.tokens.size)
    prompt = max(1, count - STEPS)
    return {
        "tokens": case.tokens.tolist(),
        "prefill_tokens": prompt,
        "positions": [_of_position(case, position) for position in range(prompt - 1, count)],
    }


def _of_position(case: Case, position: int) -> dict[str, Any]:
    expected = case.expected[position]
    best = expected.logits.argsort()[::-1][:TOP]
    return {
        "position": position,
        "ids": expected.ids[best].tolist(),
        "logits": [float(f"{value:.{DIGITS}g}") for value in expected.logits[best]],
        "log_sum": float(f"{expected.log_sum:.{DIGITS}g}"),
    }

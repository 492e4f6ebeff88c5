"""The bundle: all artifacts of a target in one directory, with what must travel along.

Licences, card, index, and the oracle by which an app repeats the check on its device.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import BudgetError
from export.oracle import ORACLE_FILE, write_oracle
from export.plan import Plan
from export.progress import Progress
from export.sources import ResolvedCheckpoint
from export.user_cache import write_atomically
from runtimes.artifact import Artifact, Manifest, artifact_manifests

BUNDLE_FILE = "bundle.json"
CARD = "README.md"
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
LEGAL = Path(__file__).parent / "legal"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A finished bundle: its directory, its artifacts by backend, and bytes by file path."""

    path: Path
    artifacts: dict[str, Artifact]
    files: dict[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """The bundle as plain JSON values."""
        return {
            "bundle": str(self.path),
            "total_bytes": self.total_bytes,
            "files": self.files,
            "artifacts": {name: artifact.manifest.artifact_hash() for name, artifact in self.artifacts.items()},
        }


def break_open(out: Path) -> None:
    """Take the index away: a bundle whose artifacts are being replaced is not the one that it lists."""
    (out / BUNDLE_FILE).unlink(missing_ok=True)


def write_bundle(plan: Plan, resolved: ResolvedCheckpoint, progress: Progress) -> Bundle:
    """Write card, licence and index around the sealed artifacts, and hold the total against the budget."""
    out = plan.spec.out
    artifacts = {build.backend: Artifact.open(out / build.backend) for build in plan.builds}
    for stranger in sorted(
        {place.parent.relative_to(out).as_posix() for place in artifact_manifests(out)} - set(artifacts)
    ):
        progress.note(
            f"{out / stranger}: from an earlier export, not part of this bundle; remove it if it is not needed"
        )
    beside = [*_copy_licences(resolved.path, out), CARD, ORACLE_FILE]
    card = model_card(plan, resolved, [artifact.manifest for artifact in artifacts.values()])
    write_atomically(out / CARD, card.encode())
    write_oracle(artifacts, out / ORACLE_FILE)
    bundle = Bundle(path=out, artifacts=artifacts, files=_files(out, beside, artifacts))
    index = {"target": plan.spec.target, **bundle.to_dict(), "bundle": out.name}
    write_atomically(out / BUNDLE_FILE, (json.dumps(index, indent=2) + "\n").encode())
    if plan.spec.budget_bytes is not None and bundle.total_bytes > plan.spec.budget_bytes:
        raise BudgetError(
            f"{out}: the bundle takes {bundle.total_bytes} bytes, --budget is {plan.spec.budget_bytes}; the artifacts "
            "are sealed and usable, but over budget: choose a smaller scheme"
        )
    return bundle


def model_card(plan: Plan, resolved: ResolvedCheckpoint, manifests: list[Manifest]) -> str:
    """A short card: what this is, from what, how it was checked."""
    origin = (
        f"{resolved.hub_id} at revision {resolved.revision}" if resolved.hub_id else f"a {resolved.source} checkpoint"
    )
    lines = [
        f"# {plan.model}, {plan.spec.scheme}, for {plan.spec.target}",
        "",
        f"Made from {origin} by quantization method `{plan.method.name}`; context {plan.spec.context_length} tokens.",
    ]
    if resolved.weights == "random":
        lines += [
            "",
            "**The weights are random: this bundle is for measuring speed and memory only. It says nothing true.**",
        ]
    lines += [
        "",
        "| artifact | runtime | oldest version | bytes | largest KLD to eager torch |",
        "|---|---|---|---:|---:|",
    ]
    for manifest in manifests:
        total = sum(entry.bytes for entry in manifest.files)
        lines.append(
            f"| {manifest.backend} | {manifest.runtime.name} | {manifest.runtime.oldest_version} | {total} | "
            f"{_worst_kld(manifest):.1e} |"
        )
    lines += [
        "",
        "Each artifact was run in its own runtime after it was written and compared with eager torch on the same",
        "quantized weights; the figures are in its manifest.json, and `python -m runtimes verify ARTIFACT` repeats it.",
        "What quantization costs against the float model is a separate question: `measured.quality`, null where nobody",
        "measured.",
        "",
        "Qwen3.5 is licensed under Apache-2.0; see LICENSE and NOTICE. Push the directory to the device, or download "
        "it",
        "on first launch; models do not go inside an app's package.",
    ]
    return "\n".join(lines) + "\n"


def _worst_kld(manifest: Manifest) -> float:
    checks = (manifest.measured.parity or {}).get("checks", [])
    return max((check["figures"].get("mean_kld", 0.0) for check in checks), default=0.0)


def _copy_licences(checkpoint: Path, out: Path) -> list[str]:
    """Our licence and notice, and a fine-tune's own licence under its own name; returns the names."""
    sources = {file.name: file for file in sorted(LEGAL.iterdir())}
    sources |= {f"CHECKPOINT_{name}": checkpoint / name for name in LICENCES if (checkpoint / name).is_file()}
    for name, source in sources.items():
        write_atomically(out / name, source.read_bytes())
    return list(sources)


def _files(out: Path, beside: list[str], artifacts: dict[str, Artifact]) -> dict[str, int]:
    """Bytes of each file that belongs to the bundle, by path."""
    inside = [path for name in artifacts for path in sorted((out / name).rglob("*")) if path.is_file()]
    files = [*(out / name for name in sorted(beside)), *inside]
    return {path.relative_to(out).as_posix(): path.stat().st_size for path in files}

"""Artifacts for a night, made by `python -m export` in a process of its own and kept from night to night.

A bundle is used again where the exporter's sources are the same and every artifact's manifest still has the hash that
was noted when it was made; otherwise the exporter is asked again, which itself redoes only what changed. Which of both
it was, and why, is said.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.nightly.plan import ExportJob
from benchmarks.tethered import run_tethered
from runtimes.artifact import Artifact, artifact_manifests
from runtimes.errors import ProjectError

__all__ = ["command", "make_bundle"]

NOTE = "nightly.json"
REPOSITORY = Path(__file__).parents[2]
# what an export depends on besides its command
SOURCES = ("export", "runtimes", "requirements.lock")
EXPORT_LIMIT_S = 6 * 3600
MOST_TEXT = 600


def command(job: ExportJob, out: Path) -> list[str]:
    """The exporter's command line."""
    words = [sys.executable, "-m", "export", "--target", job.target, "--model", job.model, "--scheme", job.scheme]
    for backend in job.backends:
        words += ["--backend", backend]
    for name, value in (("--checkpoint", job.checkpoint), ("--method", job.method)):
        words += [] if value is None else [name, value]
    return [*words, "--out", str(out)]


def source_hash() -> str | None:
    """One word for the state of everything an export depends on; None outside a clone, or where it was changed."""
    trees = ["git", "rev-parse", *(f"HEAD:{name}" for name in SOURCES)]
    changes = ["git", "status", "--porcelain", "--", *SOURCES]
    try:
        said = [
            subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60).stdout.split()
            for words in (trees, changes)
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return None if said[1] else " ".join(said[0])


def make_bundle(
    job: ExportJob, root: Path, say: Callable[[str], None], *, hashed: Callable[[], str | None] = source_hash
) -> dict[str, Artifact | str]:
    """The artifact of each backend, or the reason why there is none; `say` is told what is done and why."""
    out = root / job.name
    sources = hashed()
    kept = _kept(job, out, sources)
    if not isinstance(kept, str):
        say(f"{job.name}: used again, nothing it was made from has changed")
        return dict(kept)
    say(f"{job.name}: exporting, {kept}")
    failed = _export(job, out)
    found = _artifacts(out)
    if failed is None:
        _note(out, sources, found)
    missing = failed or f"the exporter ended well, but {out} has no such artifact"
    return {backend: found.get(backend, missing) for backend in job.backends}


def _kept(job: ExportJob, out: Path, sources: str | None) -> dict[str, Artifact] | str:
    """The artifacts of an earlier night, or why they can't be used again."""
    if sources is None:
        return "since the exporter's sources are not committed"
    try:
        note = json.loads((out / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "for the first time"
    found = _artifacts(out)
    hashes = {backend: artifact.manifest.artifact_hash() for backend, artifact in found.items()}
    if not isinstance(note, dict) or note.get("sources") != sources:
        return "since the exporter's sources have changed"
    if note != {"sources": sources, "artifacts": hashes} or set(job.backends) - set(found):
        return "since its manifests are not those that were noted"
    try:
        for artifact in found.values():
            artifact.check_hashes()
    except ProjectError as error:
        return f"since a file of it was altered: {error}"
    return found


def _export(job: ExportJob, out: Path) -> str | None:
    """Run the exporter; why it failed, or None."""
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.parent / f"{job.name}.log"
    with log.open("wb") as file:
        try:
            ended = run_tethered(
                command(job, out), stdout=file, stderr=file, timeout_s=EXPORT_LIMIT_S, directory=REPOSITORY
            )
        except subprocess.TimeoutExpired:
            return f"the export took longer than {EXPORT_LIMIT_S:g} s; its output is in {log.name}"
    if ended == 0:
        return None
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    told = next((line for line in reversed(said) if "error" in line.lower()), said[-1] if said else "it said nothing")
    return f"the export ended with status {ended}: {told[:MOST_TEXT]}"


def _artifacts(out: Path) -> dict[str, Artifact]:
    found = {}
    for manifest in artifact_manifests(out) if out.is_dir() else []:
        try:
            artifact = Artifact.open(manifest.parent)
        except ProjectError:
            continue
        found[artifact.manifest.backend] = artifact
    return found


def _note(out: Path, sources: str | None, found: Mapping[str, Artifact]) -> None:
    if sources is not None:
        hashes = {backend: artifact.manifest.artifact_hash() for backend, artifact in found.items()}
        (out / NOTE).write_text(json.dumps({"sources": sources, "artifacts": hashes}), encoding="utf-8")

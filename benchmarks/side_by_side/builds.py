"""Make each build once and remember what it cost.

A build's directory is named by the hash of its commands, its exporter's version and the checkpoint's bytes. Its cost is
recorded after its last command ended well; a directory without a record is the rest of a killed run and is made anew.
"""

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.side_by_side.measure import run_measured, run_worker
from benchmarks.side_by_side.steps import ResultStore, step_key
from benchmarks.side_by_side.subjects import OUT, Build

__all__ = ["Made", "build_key", "checkpoint_hash", "given_build", "make_build", "model_bytes", "verification_s"]

MODEL_SUFFIXES = {".onnx", ".data", ".pte", ".ptd", ".gguf"}
BLOCK_BYTES = 1 << 24
VERIFICATION_LINE = re.compile(r"^\w+: (?:record reference|verify[^:]*): ([0-9.]+) s$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A build on disk and what it cost."""

    build: Build
    directory: Path
    record: dict[str, Any]


def checkpoint_hash(checkpoint: Path) -> str:
    """A hash over the bytes of the checkpoint's config, weights and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(p for p in checkpoint.iterdir() if p.suffix in {".json", ".safetensors"}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def build_key(build: Build, checkpoint_sha256: str, export_round: int) -> str:
    return step_key("build", build.commands, build.made_by, checkpoint_sha256, export_round)


def make_build(build: Build, key: str, work_dir: Path, store: ResultStore, environment: dict[str, str]) -> Made:
    """Make a build, or find it made."""
    directory = work_dir / "builds" / f"{build.name}-{key}"
    record = store.get(key)
    if record is None or not directory.is_dir():
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        record = _make(build, directory, environment)
        store.put(key, f"build {build.name}", record)
    return Made(build=build, directory=directory, record=record)


def given_build(build: Build, directory: Path, environment: dict[str, str]) -> Made:
    """A build that the user made before: its cost isn't known."""
    if not directory.is_dir():
        raise BenchmarkError(f"--artifact {build.name}={directory}: no such directory; give the one the export wrote")
    record = {"wall_s": None, "verification_s": None, **_inspect(build, directory, environment)}
    return Made(build=build, directory=directory, record=record)


def model_bytes(directory: Path) -> int:
    """Bytes of the model files, without tokenizers, configs and references."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.suffix in MODEL_SUFFIXES]
    if not files:
        raise BenchmarkError(f"{directory}: no model file in it ({', '.join(sorted(MODEL_SUFFIXES))})")
    return sum(path.stat().st_size for path in files)


def filled(command: Sequence[str], directory: Path) -> list[str]:
    """A command with the build's directory put in."""
    return [word.replace(OUT, str(directory)) for word in command]


def _make(build: Build, directory: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a build's commands, with empty caches: codes left by an earlier export would make a second one look fast."""
    cache = directory.with_name(f"{directory.name}.cache")
    shutil.rmtree(cache, ignore_errors=True)
    costs, spent_verifying_s = [], 0.0
    for index, command in enumerate(build.commands):
        log = directory.with_name(f"{directory.name}.{index}.log")
        own = {**environment, "XDG_CACHE_HOME": str(cache)}
        cost, _ = run_measured(f"build {build.name}", filled(command, directory), log=log, environment=own)
        costs.append(cost)
        spent_verifying_s += verification_s(log.read_text(errors="replace"))
    shutil.rmtree(cache, ignore_errors=True)
    return {
        "wall_s": sum(cost.wall_s for cost in costs),
        "cpu_s": sum(cost.cpu_s for cost in costs),
        "peak_rss_bytes": max(cost.peak_rss_bytes for cost in costs),
        "verification_s": spent_verifying_s,
        **_inspect(build, directory, environment),
    }


def _inspect(build: Build, directory: Path, environment: dict[str, str]) -> dict[str, Any]:
    log = directory.with_name(f"{directory.name}.weights.log")
    weights = run_worker(
        f"weights of {build.name}", filled(build.weight_bytes, directory), log=log, environment=environment
    )
    return {"file_bytes": model_bytes(directory), **weights}


def verification_s(progress_log: str) -> float:
    """What our own export spent on recording a reference and verifying against it, which no peer does; 0 for the peers.

    `python -m export` ends each stage with a line `BACKEND: STAGE: SECONDS s` on stderr.
    """
    return sum(float(seconds) for seconds in VERIFICATION_LINE.findall(progress_log))

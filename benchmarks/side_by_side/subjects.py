"""What is compared: builds, files that some exporter makes of the checkpoint, and subjects, builds in a runtime.

Two subjects may share a build: our ONNX artifact is one export, run in two runtimes. Every command is data, so that a
build or a run can be recognised by the hash of what makes it.
"""

import hashlib
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["OUT", "ROOT", "Build", "Context", "Peer", "Subject", "module_command", "package_versions", "source_hash"]

ROOT = Path(__file__).resolve().parents[2]

OUT = "{out}"
"""Stands for the build's directory in a command."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The run's choices that commands depend on."""

    model: str
    checkpoint: Path
    text_config: dict[str, Any]
    threads: int
    context_length: int
    llama_python: Path


@dataclass(frozen=True, kw_only=True)
class Build:
    """One export of the checkpoint; its commands run in order and their cost is added up."""

    name: str
    label: str
    commands: tuple[tuple[str, ...], ...]
    weight_bytes: tuple[str, ...]
    """A command that says how many bytes of weights one decoded token reads."""
    made_by: tuple[str, ...]
    """Versions or source hashes of the exporter: another one makes another build."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A build in a runtime with settings."""

    name: str
    build: str
    label: str
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What one exporter family brings to the comparison."""

    builds: tuple[Build, ...]
    subjects: tuple[Subject, ...]


def module_command(module: str, *arguments: object, python: Path | None = None) -> tuple[str, ...]:
    """A command line that runs a module of this repository, or of an installed package."""
    return (str(python or sys.executable), "-m", module, *map(str, arguments))


def package_versions(*distributions: str) -> tuple[str, ...]:
    """The installed versions of some distributions, as pip writes them."""
    return tuple(f"{name}=={version(name)}" for name in distributions)


def source_hash(package: str) -> str:
    """A hash of a package's Python source in this repository."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / package).rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return f"{package}@{digest.hexdigest()[:12]}"

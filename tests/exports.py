"""What tests of whole exports share: a spec, a listener that remembers, and one that stops before any work."""

from pathlib import Path
from typing import Any

from export.bundle import Bundle
from export.pipeline import export
from export.progress import Silent
from export.spec import ExportSpec


class Listener(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None, str]] = []
        self.steps: dict[str, list[tuple[str, int]]] = {}
        self.notes: list[str] = []

    def stage(self, name: str, total: int | None = None, unit: str = "B") -> None:
        self.stages.append((name, total, unit))
        self.steps[name] = []

    def step(self, name: str, count: int = 0) -> None:
        self.steps[self.stages[-1][0]].append((name, count))

    def note(self, text: str) -> None:
        self.notes.append(text)


class _StoppedError(Exception):
    """Raised where work would begin."""


class _Stopper(Listener):
    def stage(self, name: str, total: int | None = None, unit: str = "B") -> None:
        if "quantize" in name:
            raise _StoppedError(name)
        super().stage(name, total, unit)


def small_spec(out: Path, checkpoint: Path, **changes: Any) -> ExportSpec:
    """An export that takes seconds: one backend, the shortest useful context."""
    settings: dict[str, Any] = {"backends": ("onnx",), "context_length": 64, "scheme": "int4", "method": "rtn"}
    return ExportSpec(target="android", out=out, checkpoint=str(checkpoint), **{**settings, **changes})


def exported(spec: ExportSpec) -> tuple[Bundle, Listener]:
    listener = Listener()
    return export(spec, listener), listener


def would_rebuild(spec: ExportSpec) -> bool:
    """Whether the export would make an artifact anew; it is stopped where that work begins."""
    try:
        export(spec, _Stopper())
    except _StoppedError:
        return True
    return False

"""The runner protocol: our thin class over a runtime, the same for each of them.

A runner holds one sequence: `forward` appends tokens to it and answers with the logits after the last one. Nothing here
knows a layer, a file format or a sampling rule. A runtime is one file, `runtimes/<name>.py`, with a function
`load_runner`; the name in the manifest is the name of that file.
"""

import ast
import importlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from runtimes.artifact import Artifact
from runtimes.errors import ContextLimitError, RuntimeUnavailableError, TokenRangeError

Tokens = Sequence[int] | NDArray[np.int64]
Logits = NDArray[np.float32]

HALF_WRITTEN = "the last call failed and left the state half written; reset or restore first"


class Snapshot(Protocol):
    """The state of a runner at one position; it stays good until it is dropped, whatever the runner does meanwhile."""

    @property
    def position(self) -> int: ...


class Runner(Protocol):
    """One sequence in one runtime."""

    @property
    def context_length(self) -> int:
        """Tokens the sequence may hold."""

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""

    @property
    def prefill_chunk(self) -> int:
        """Tokens that one call of the model takes at most; longer inputs are split."""

    @property
    def threads(self) -> int:
        """Threads the runtime was told to use."""

    @property
    def position(self) -> int:
        """Tokens in the sequence so far."""

    def forward(self, tokens: Tokens) -> Logits:
        """Append tokens, one or more; the logits after the last one: float32, (vocab_size,), the caller's own."""

    def reset(self) -> None:
        """Forget the sequence."""

    def snapshot(self) -> Snapshot:
        """Remember the sequence so far."""

    def restore(self, snapshot: Snapshot) -> None:
        """Go back (or forth) to a sequence that was remembered."""

    def close(self) -> None:
        """Give the model's memory back; the runner is of no further use."""


def open_runner(artifact: Artifact, threads: int | None = None) -> Runner:
    """The runner for an artifact; `threads` None lets it choose by the device it runs on."""
    return cast(Runner, runtime_module(artifact.manifest.runtime.name).load_runner(artifact, threads))


def engine_name(artifact: Artifact, runner: Runner) -> str:
    """What really computes: a runtime with several engines says which (`describe_engine`), any other is its own."""
    describe = getattr(runtime_module(artifact.manifest.runtime.name), "describe_engine", None)
    return artifact.manifest.runtime.name if describe is None else str(describe(runner))


def other_ways(artifact: Artifact) -> list[tuple[str, Callable[[int], Runner]]]:
    """Further ways to run an artifact on this machine, by name: where its runtime module defines `ways` and `open_way`.

    Core ML artifacts hold their state in two layouts, and a Mac runs them on several compute units.
    """
    module = runtime_module(artifact.manifest.runtime.name)
    if not hasattr(module, "ways"):
        return []
    return [(way.name, partial(module.open_way, artifact, way)) for way in module.ways(artifact)]


def runtime_module(name: str) -> Any:
    """The module of a runtime, found by its file name."""
    if name not in known_runtimes():
        raise RuntimeUnavailableError(f"unknown runtime {name!r}; known: {', '.join(known_runtimes())}")
    try:
        return importlib.import_module(f"runtimes.{name}")
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"runtime {name!r} needs the Python package {error.name!r}, which is not installed; "
            "install this project's extra for it"
        ) from error


@cache
def known_runtimes() -> tuple[str, ...]:
    """The names of the runtimes: the files beside this one that define `load_runner`, found without importing them."""
    return tuple(place.stem for place in sorted(Path(__file__).parent.glob("*.py")) if _defines_load_runner(place))


def _defines_load_runner(place: Path) -> bool:
    tree = ast.parse(place.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == "load_runner" for node in tree.body)


def check_version(artifact: Artifact, installed: str) -> None:
    """Refuse a runtime older than the artifact's oldest."""
    runtime = artifact.manifest.runtime
    if release_of(installed) < release_of(runtime.oldest_version):
        raise RuntimeUnavailableError(
            f"{artifact.path}: needs {runtime.name} {runtime.oldest_version} or newer, not {installed}; update it"
        )


def release_of(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: '1.31.1+cpu' is (1, 31, 1)."""
    numbers: list[int] = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def check_tokens(tokens: Tokens, runner: Runner) -> NDArray[np.int64]:
    """The tokens as int64, (T,), once they are known to lie in the vocabulary and to fit the context."""
    ids = np.asarray(tokens, dtype=np.int64).reshape(-1)
    if ids.size == 0:
        raise TokenRangeError("no token to run; give one or more")
    if ids.min() < 0 or ids.max() >= runner.vocab_size:
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise TokenRangeError(f"token id {wrong} is outside the vocabulary of {runner.vocab_size}")
    if runner.position + ids.size > runner.context_length:
        raise ContextLimitError(
            f"{ids.size} tokens after {runner.position} do not fit the context of {runner.context_length}; "
            "shorten the prompt, start a new conversation, or export with a longer --context-length"
        )
    return ids

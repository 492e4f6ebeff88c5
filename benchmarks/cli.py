"""The command line of the benchmarks: one word for each command, the rest is its own.

`benchmarks/commands/NAME.py` is the command NAME (a hyphen is an underscore in the file's name): its `main(words)` runs
it and gives the exit status, the first line of its docstring is what `--help` says of it. Listing imports nothing.
"""

import ast
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from benchmarks.errors import BenchmarkError, MissingPackageError
from runtimes.errors import ProjectError

COMMANDS_DIR = Path(__file__).parent / "commands"


def commands() -> list[str]:
    """The names of all commands, sorted."""
    files = COMMANDS_DIR.glob("*.py")
    return sorted(file.stem.replace("_", "-") for file in files if not file.stem.startswith("_"))


def usage() -> str:
    """What `--help` prints: each command with the first line of its module."""
    width = max(len(name) for name in commands())
    lines = [f"  {name:<{width}}  {_summary(name)}" for name in commands()]
    return "\n".join(
        [
            "usage: python -m benchmarks COMMAND ...",
            "",
            *lines,
            "",
            "python -m benchmarks COMMAND --help says more.\n",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 done, 1 a named error, 2 usage, 130 interrupted; `compare` has its own."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["-h"], ["--help"]):
        sys.stdout.write(usage())
        return 0
    if not words or words[0] not in commands():
        found = repr(words[0]) if words else "nothing"
        sys.stderr.write(f"{usage()}error: {found} is no command; the commands are {', '.join(commands())}\n")
        return 2
    try:
        return _load(words[0])(words[1:])
    except ProjectError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except BrokenPipeError:  # whoever read has read enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _load(name: str) -> Callable[[Sequence[str]], int]:
    try:
        module = importlib.import_module(f"benchmarks.commands.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "benchmarks":
            raise
        raise MissingPackageError(name, error.name.partition(".")[0]) from error
    if not hasattr(module, "main"):
        raise BenchmarkError(f"{module.__name__} has no main(words); give it one, or start its file name with '_'")
    return cast("Callable[[Sequence[str]], int]", module.main)


def _summary(name: str) -> str:
    source = (COMMANDS_DIR / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")

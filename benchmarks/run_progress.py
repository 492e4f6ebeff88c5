"""What a run is doing, as a bar on stderr; nothing where stderr is no terminal but a line a phase."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["RunProgress", "showing"]


@dataclass(kw_only=True)
class RunProgress:
    """One bar, renamed from phase to phase."""

    console: Console
    bar: Progress
    task: TaskID
    phase: str = ""

    def report(self, phase: str, done: int, total: int) -> None:
        """What is being done now, and how far; a total of 0 is not known."""
        self.bar.update(self.task, description=phase, completed=done, total=total or None)
        if phase != self.phase and not self.console.is_terminal:
            self.console.print(phase, markup=False, highlight=False)
        self.phase = phase

    def warn(self, text: str) -> None:
        """A line that stays."""
        self.console.print(f"warning: {text}", markup=False, highlight=False)


@contextmanager
def showing(stream: TextIO) -> Iterator[RunProgress]:
    """A bar for as long as this lasts."""
    console = Console(file=stream)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield RunProgress(console=console, bar=bar, task=bar.add_task("starting", total=None))

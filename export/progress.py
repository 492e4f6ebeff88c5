"""How long work reports itself: stages with a total, steps within them. The command line draws it; tests ignore it."""

from typing import Protocol


class Progress(Protocol):
    """Told what happens; must not slow it down."""

    def stage(self, name: str, total: int | None = None, unit: str = "B") -> None:
        """A new stage begins; `total` counts `unit`s if known."""

    def step(self, name: str, count: int = 0) -> None:
        """`count` more units of the stage are done; `name` says on what."""

    def end(self) -> None:
        """The stage is over; beginning another one says so too."""

    def note(self, text: str) -> None:
        """A line worth reading that is no error."""


class Silent:
    """Reports nothing."""

    def stage(self, name: str, total: int | None = None, unit: str = "B") -> None: ...

    def step(self, name: str, count: int = 0) -> None: ...

    def end(self) -> None: ...

    def note(self, text: str) -> None: ...

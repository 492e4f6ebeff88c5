"""What runs the packages of a Core ML artifact: Core ML itself on a Mac, elsewhere the evaluator of the written file.

An engine is one file here; it knows packages, functions and states, and nothing of tokens. `description` reads how an
artifact is put together.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """Runs functions of packages, and keeps the states of one sequence."""

    @property
    def name(self) -> str:
        """What computes, for reports: never more than what really ran."""

    def input_names(self, package: str, function: str) -> list[str]:
        """The inputs of one function, states left out."""

    def call(self, package: str, function: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs of one function; its package's states are read and written."""

    def read_states(self) -> dict[str, NDArray[Any]]:
        """A copy of every state, by name."""

    def write_states(self, states: Arrays) -> None:
        """Put copies of these values in the states."""

    def reset(self) -> None:
        """Zero every state."""

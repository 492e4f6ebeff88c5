"""The evaluator of written programs as an engine: what checks a Core ML artifact where there is no Core ML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.coreml_engines import Arrays
from runtimes.mil import Accumulate, Constants, Program, ProgramError, State, load_package, open_package
from runtimes.mil.threads import limited_threads, torch_version


class Evaluator:
    """The functions of some packages; a package's functions share its states and its decoded weights."""

    def __init__(
        self, packages: Mapping[str, Path], functions: tuple[str, ...], threads: int, accumulate: Accumulate = "float32"
    ) -> None:
        self._threads = threads
        self._accumulate = accumulate
        self._programs: dict[tuple[str, str], Program] = {}
        self._states: dict[str, State] = {}
        constants = Constants()
        for name, place in packages.items():
            package = open_package(place)
            for function in functions:
                program = load_package(package, function, accumulate=accumulate, constants=constants)
                self._programs[name, function] = program
            self._states[name] = _common_state([self._programs[name, function] for function in functions])

    @property
    def name(self) -> str:
        exact = "" if self._accumulate == "float32" else f", sums rounded to {self._accumulate}"
        return f"evaluator of the written program (torch {torch_version()}){exact}; Core ML itself did not run"

    def input_names(self, package: str, function: str) -> list[str]:
        """The inputs of one function."""
        return list(self._programs[package, function].inputs)

    def call(self, package: str, function: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs of one function."""
        with limited_threads(self._threads):
            return self._programs[package, function].run(inputs, self._states[package])

    def read_states(self) -> dict[str, NDArray[Any]]:
        """A copy of every state."""
        return {name: state.array(name).copy() for state in self._states.values() for name in state.types}

    def write_states(self, states: Arrays) -> None:
        """Put these values in the states."""
        for held in self._states.values():
            for name in held.types:
                np.copyto(held.array(name), states[name])

    def reset(self) -> None:
        """Zero every state."""
        for state in self._states.values():
            state.reset()


def _common_state(programs: list[Program]) -> State:
    """The states of functions that share them; where two call different things by one name, they cannot."""
    first, *others = programs
    for other in others:
        if other.states != first.states:
            odd = sorted(dict(set(first.states.items()) ^ set(other.states.items())))
            raise ProgramError(
                f"{first.package.path}: functions {first.name!r} and {other.name!r} differ in state {odd[0]!r}"
            )
    return first.new_state()

"""Core ML itself, through coremltools, on a Mac: one engine for each compute unit.

This file has never run where it was written: on Linux coremltools has no Core ML to call. `MLModel(function_name=...)`,
`make_state` and `MLState.read_state`/`write_state` are coremltools 9.0's.
"""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from numpy.typing import NDArray

from runtimes.coreml_engines import Arrays
from runtimes.errors import RuntimeFailedError


class CoreMl:
    """The functions of some packages, compiled for one compute unit; functions share their package's `MLState`."""

    def __init__(self, packages: Mapping[str, Path], functions: tuple[str, ...], compute_unit: str) -> None:
        self._unit = compute_unit
        units = ct.ComputeUnit[compute_unit]
        self._models: dict[tuple[str, str], Any] = {}
        for name, place in packages.items():
            for function in functions:
                try:
                    model = ct.models.MLModel(str(place), compute_units=units, function_name=function)
                except Exception as error:  # coremltools passes on what Core ML says as RuntimeError and others
                    raise RuntimeFailedError(f"Core ML could not open {function!r} of {place}: {error}") from error
                self._models[name, function] = model
        self._first = functions[0]
        self._packages = tuple(packages)
        self._states: dict[str, Any] = {}
        self.reset()

    @property
    def name(self) -> str:
        return f"Core ML of macOS {platform.mac_ver()[0]}, {self._unit} (coremltools {ct.__version__})"

    def input_names(self, package: str, function: str) -> list[str]:
        """The inputs of one function."""
        return [feature.name for feature in self._described(package, function).input]

    def call(self, package: str, function: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs of one function."""
        state = self._states[package]
        try:
            found = self._models[package, function].predict(dict(inputs), state=state)
        except Exception as error:
            raise RuntimeFailedError(f"Core ML could not run {function!r} of {package}: {error}") from error
        return {name: np.asarray(value) for name, value in found.items()}

    def read_states(self) -> dict[str, NDArray[Any]]:
        """A copy of every state."""
        return {
            name: np.array(self._states[package].read_state(name))
            for package in self._packages
            for name in self._state_names(package)
        }

    def write_states(self, states: Arrays) -> None:
        """Put these values in the states."""
        for package in self._packages:
            for name in self._state_names(package):
                self._states[package].write_state(name, np.asarray(states[name]))

    def reset(self) -> None:
        """New states, which Core ML makes of zeros."""
        for package in self._packages:
            has_states = bool(self._state_names(package))  # a vision tower has none
            self._states[package] = self._models[package, self._first].make_state() if has_states else None

    def _state_names(self, package: str) -> list[str]:
        return [feature.name for feature in self._described(package, self._first).state]

    def _described(self, package: str, function: str) -> Any:
        """What the model says of one function."""
        description = self._models[package, function].get_spec().description
        return next((entry for entry in description.functions if entry.name == function), description)

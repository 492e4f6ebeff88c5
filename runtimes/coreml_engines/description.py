"""`coreml.json`, the model file of a Core ML artifact: read as untrusted input, like the manifest beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import jsonschema

from runtimes.artifact import Artifact, validator_of
from runtimes.errors import ManifestError

FORMAT: Final = 1
MAX_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class State:
    """A state tensor as functions of one layout see it; without names of an input and an output, Core ML keeps it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    input_name: str | None
    output_name: str | None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where state lives: the functions for it by what they do, and the states."""

    functions: Mapping[str, str]
    states: tuple[State, ...]


@dataclass(frozen=True, kw_only=True)
class Description:
    """How the packages of an artifact are put together."""

    packages: Mapping[str, Path]  # by name, in order
    prefill_tokens: int
    default_layout: str
    layouts: Mapping[str, Layout]


def read_description(artifact: Artifact) -> Description:
    """The checked description of an artifact; its packages are there."""
    place = artifact.model_file
    data = _parse(place)
    problem = next(iter(sorted(_validator().iter_errors(data), key=lambda error: list(map(str, error.path)))), None)
    if problem is not None:
        field = ".".join(map(str, problem.absolute_path)) or "the description"
        raise _refused(place, f"{field}: {problem.message[:300]}")
    if data["format"] != FORMAT:
        raise _refused(place, f"format {data['format']}; this version reads {FORMAT}")
    if data["default_layout"] not in data["layouts"]:
        raise _refused(place, f"default_layout {data['default_layout']!r} is none of {', '.join(data['layouts'])}")
    return Description(
        packages={name: _package(artifact, name) for name in data["packages"]},
        prefill_tokens=data["tokens"]["prefill"],
        default_layout=data["default_layout"],
        layouts={name: _layout(place, layout) for name, layout in data["layouts"].items()},
    )


def _layout(place: Path, data: Mapping[str, Any]) -> Layout:
    fields = ("name", "dtype", "input_name", "output_name")
    states = tuple(
        State(shape=tuple(state["shape"]), **{field: state[field] for field in fields}) for state in data["states"]
    )
    names = [state.name for state in states]
    if len(set(names)) != len(names):
        raise _refused(place, "a state is listed twice")
    for state in states:
        if (state.input_name is None) != (state.output_name is None):
            raise _refused(place, f"state {state.name!r} needs input_name and output_name, or neither")
    return Layout(functions=dict(data["functions"]), states=states)


def _package(artifact: Artifact, name: str) -> Path:
    """A package whose files are among those that the manifest lists, so that their hashes are checked."""
    listed = [entry.path for entry in artifact.manifest.files if entry.path.startswith(f"{name}/")]
    place = artifact.file(name)
    if not listed or not place.is_dir():
        raise _refused(artifact.model_file, f"package {name!r} is not among the artifact's files")
    return place


def _parse(place: Path) -> Any:
    if place.stat().st_size > MAX_BYTES:
        raise _refused(place, f"{place.stat().st_size} bytes, more than the {MAX_BYTES} it may have")
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise _refused(place, f"not JSON: {error}") from error


@cache
def _validator() -> jsonschema.Draft202012Validator:
    place = Path(__file__).with_suffix(".schema.json")
    return validator_of(cast(dict[str, Any], json.loads(place.read_text(encoding="utf-8"))))


def _refused(place: Path, problem: str) -> ManifestError:
    return ManifestError(f"{place}: {problem}; copy the artifact or export it again")

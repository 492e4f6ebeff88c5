"""Open a `.mlpackage` from disk: its list of contents, the model's protobuf, the file of constants.

Everything is untrusted: the list of contents may name anything, the protobuf may be cut short, and a program may point
outside its weights. Nothing is taken from the memory of whoever wrote the package.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from google.protobuf.message import DecodeError

from runtimes.mil.blobs import BlobFile
from runtimes.mil.errors import PackageError, ProgramError
from runtimes.mil.protobufs import Model

CONTENTS: Final = "Manifest.json"
MODEL_PREFIX: Final = "@model_path/"
MAX_CONTENTS_BYTES: Final = 1024 * 1024
MAX_MODEL_BYTES: Final = 512 * 1024 * 1024
OPSETS: Final = {9: "CoreML8", 10: "CoreML9"}  # by specification version: iOS 18 and iOS 26


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package whose model was read; `functions` are protobufs, not yet checked."""

    path: Path
    specification_version: int
    functions: dict[str, Any]
    default_function: str
    description: Any
    weights: dict[str, BlobFile]
    model_directory: Path

    def blob_file(self, name: str) -> BlobFile:
        """The file of constants that a program calls by this name, kept inside the package."""
        if name not in self.weights:
            self.weights[name] = BlobFile(self._place_of(name))
        return self.weights[name]

    def _place_of(self, name: str) -> Path:
        place = self.model_directory / name.removeprefix(MODEL_PREFIX)
        inside = place.resolve().is_relative_to(self.path.resolve())
        if not name.startswith(MODEL_PREFIX) or not inside:
            raise PackageError(f"{self.path}: constants in {name!r} lie outside the package; export it again")
        if not place.is_file():
            raise PackageError(f"{self.path}: constants lie in {name!r}, which is missing; copy or export it again")
        return place

    def function(self, name: str | None) -> tuple[str, Any]:
        """A function of the program by name, the default one where no name is given."""
        wanted = name or self.default_function
        if wanted not in self.functions:
            known = ", ".join(sorted(self.functions))
            raise ProgramError(f"{self.path}: no function {wanted!r}; it has {known}")
        return wanted, self.functions[wanted]


def open_package(path: str | Path) -> Package:
    """The package at a path: an ML program of a version that the evaluator knows."""
    directory = Path(path)
    model_file = _model_file(directory)
    model = _read_model(model_file)
    version = int(model.specificationVersion)
    if version not in OPSETS:
        known = ", ".join(map(str, OPSETS))
        raise PackageError(f"{directory}: specification version {version}; this project reads {known} (iOS 18 and on)")
    kind = model.WhichOneof("Type")
    if kind != "mlProgram":
        raise PackageError(f"{directory}: holds {kind or 'no model'}, not an ML program; export it again")
    functions = dict(model.mlProgram.functions)
    if not functions:
        raise PackageError(f"{directory}: its program has no function; export it again")
    default = model.description.defaultFunctionName or ("main" if "main" in functions else min(functions))
    return Package(
        path=directory,
        specification_version=version,
        functions=functions,
        default_function=default,
        description=model.description,
        weights={},
        model_directory=model_file.parent,
    )


def _model_file(directory: Path) -> Path:
    """The model's protobuf: what the list of contents calls its root."""
    contents = _read_contents(directory / CONTENTS)
    items, root = contents.get("itemInfoEntries"), contents.get("rootModelIdentifier")
    entry = items.get(root) if isinstance(items, dict) and isinstance(root, str) else None
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str) or PurePosixPath(path).is_absolute():
        raise PackageError(f"{directory / CONTENTS}: names no root model; copy or export the package again")
    place = directory / "Data" / path
    if not place.resolve().is_relative_to(directory.resolve()):
        raise PackageError(f"{directory / CONTENTS}: {path!r} leads outside the package; export it again")
    if not place.is_file():
        raise PackageError(f"{directory}: its model {path!r} is missing; copy or export it again")
    return place


def _read_contents(place: Path) -> dict[str, Any]:
    if not place.is_file():
        raise PackageError(f"{place.parent}: no {CONTENTS} here, so no package; copy or export it again")
    if place.stat().st_size > MAX_CONTENTS_BYTES:
        raise PackageError(f"{place}: {place.stat().st_size} bytes, more than a list of contents takes")
    try:
        contents = json.loads(place.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise PackageError(f"{place}: not a list of contents: {error}; copy or export the package again") from error
    if not isinstance(contents, dict):
        raise PackageError(f"{place}: expected a JSON object, found {type(contents).__name__}")
    return contents


def _read_model(place: Path) -> Any:
    length = place.stat().st_size
    if length > MAX_MODEL_BYTES:
        raise PackageError(f"{place}: {length} bytes, more than the {MAX_MODEL_BYTES} this project reads")
    model = Model.Model()
    try:
        model.ParseFromString(place.read_bytes())
    except (DecodeError, OSError) as error:
        raise PackageError(f"{place}: not a Core ML model: {error}; copy or export the package again") from error
    return model

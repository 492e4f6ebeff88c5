"""An artifact: a directory with `manifest.json`, read as untrusted input.

A manifest may come from anywhere, so nothing in it is believed before it was checked: its size, its JSON, its schema,
that each path stays inside the directory, that sizes agree with each other. `manifest.schema.json` beside this file is
the one definition; the exporter writes through `Manifest.to_dict`, the Kotlin and Swift readers follow the same schema.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn, cast

import jsonschema

from runtimes.errors import FileMismatchError, ManifestError, ManifestVersionError, NotAnArtifactError
from runtimes.vision.spec import ImageSpec

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
DTYPE_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}

StateKind = Literal["conv", "recurrent", "key", "value"]
StateDtype = Literal["float32", "float16", "int8", "uint8"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the checkpoint came from: a pinned revision of a hub, or a path with the hash of what lay there."""

    kind: Literal["huggingface", "modelscope", "local", "random"]
    id: str
    revision: str | None
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class RuntimeVersion:
    """The engine that runs the file: its name is the file name of our runner, `runtimes/<name>.py`."""

    name: str
    version: str
    oldest_version: str


@dataclass(frozen=True, kw_only=True)
class StateTensor:
    """One tensor that lives from call to call; `token_axis` is the axis that holds one entry a token."""

    name: str
    kind: StateKind
    layer: int
    shape: tuple[int, ...]
    dtype: StateDtype
    bytes: int
    input_name: str | None
    output_name: str | None
    token_axis: int | None


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of the artifact, its path relative to the manifest."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the artifact was made from; equal hashes mean the work need not be done again.

    `calibration` is the text that its weights were quantized for (kind, sha256 of the token ids, their number).
    """

    spec_hash: str
    checkpoint_hash: str
    calibration: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What the weights became and what is multiplied: `formats` by matrix, such as "int4_g64".

    `activations` says what the runtime does to the inputs of quantized matrices; `search` how the formats were found,
    null where a scheme's rules gave them.
    """

    formats: Mapping[str, str]
    activations: str
    search: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Vision:
    """The part of an artifact that sees: its files, the tokens around an image, and how an image is prepared.

    `hidden_size` is the width of a feature; `format` that of the tower's blocks, such as "int8_row".
    """

    tower_file: str
    embedding_file: str
    format: str
    hidden_size: int
    image_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    images: ImageSpec


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures taken from the finished artifact; null where nobody measured."""

    parity: Mapping[str, Any] | None
    quality: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a runner needs to know about an artifact, and everything a reader needs to trust it."""

    schema_version: int = SCHEMA_VERSION
    model: str
    source: Source
    weights: Literal["trained", "random"]
    scheme: str
    method: str
    backend: str
    runtime: RuntimeVersion
    context_length: int
    prefill_chunk: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    model_file: str
    tokenizer_file: str
    chat_template_file: str | None
    reference_file: str | None
    modalities: tuple[str, ...]
    threads: int
    state: tuple[StateTensor, ...]
    files: tuple[FileEntry, ...]
    bytes_read_per_decoded_token: int
    toolchain: Mapping[str, str]
    inputs: Inputs
    quantization: Quantization | None = None
    vision: Vision | None = None
    measured: Measured

    def to_dict(self) -> dict[str, Any]:
        """The manifest as plain JSON values, in the order of the fields; `vision` and `grids` only where there are."""
        content = cast(dict[str, Any], json.loads(json.dumps(asdict(self), allow_nan=False)))
        if self.vision is None:
            del content["vision"]
        elif not self.vision.images.grids:
            del content["vision"]["images"]["grids"]
        return content

    def to_json(self) -> str:
        """The text of `manifest.json`: the same manifest always gives the same bytes."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def artifact_hash(self) -> str:
        """The sha256 that names the artifact: everything except what was measured on it."""
        content = {name: value for name, value in self.to_dict().items() if name != "measured"}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A directory whose manifest was read and whose files are all there."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> "Artifact":
        """Check the manifest, and that each file is there with the promised length; hashes are for `check_hashes`.

        `path` is the artifact's directory, or a manifest file in it: an exporter verifies before it seals, under a name
        that nobody takes for a finished artifact.
        """
        place = Path(path)
        manifest = read_manifest(place)
        artifact = cls(path=place.parent if place.is_file() else place, manifest=manifest)
        for entry in manifest.files:
            _check_length(artifact.file(entry.path), entry)
        return artifact

    def file(self, relative: str) -> Path:
        """The place of one file of the artifact, refused if a symbolic link leads it outside."""
        place = self.path / relative
        if not place.resolve().is_relative_to(self.path.resolve()):
            raise ManifestError(
                f"{self.path / MANIFEST_NAME}: {relative!r} leads outside the artifact; export it again"
            )
        return place

    @property
    def model_file(self) -> Path:
        return self.file(self.manifest.model_file)

    @property
    def tokenizer_file(self) -> Path:
        return self.file(self.manifest.tokenizer_file)

    def check_hashes(self) -> None:
        """Read each file whole and compare its sha256; the first that differs is an error."""
        for entry in self.manifest.files:
            found = sha256_of(self.file(entry.path))
            if found != entry.sha256:
                raise FileMismatchError(
                    f"{self.path / entry.path}: sha256 is {found}, the manifest says {entry.sha256}; "
                    "copy or export it again"
                )


def read_manifest(directory: Path) -> Manifest:
    """The checked manifest of a directory, or the one in this file."""
    place = directory if directory.is_file() else directory / MANIFEST_NAME
    if not place.is_file():
        raise NotAnArtifactError(
            f"{directory}: no {MANIFEST_NAME} here, so no finished artifact; export one, or name its directory"
        )
    length = place.stat().st_size
    if length > MAX_MANIFEST_BYTES:
        raise _refused(str(place), f"{length} bytes, more than the {MAX_MANIFEST_BYTES} a manifest may have")
    try:
        content = place.read_bytes()
    except OSError as error:
        raise NotAnArtifactError(f"{place}: cannot be read: {error.strerror}; see to its permissions") from error
    return parse_manifest(content, where=str(place))


def parse_manifest(content: bytes, *, where: str = MANIFEST_NAME) -> Manifest:
    """The checked manifest in these bytes; `where` names them in errors."""
    data = _parse_json(content, where)
    if not isinstance(data, dict):
        raise _refused(where, f"expected a JSON object, found {type(data).__name__}")
    _check_version(data.get("schema_version"), where)
    _check_schema(data, where)
    manifest = _build(data)
    _check_files(manifest, where)
    _check_state(manifest, where)
    _check_tokens(manifest, where)
    _check_vision(manifest, where)
    return manifest


def find_artifact(path: str | Path, runtime: str | None = None) -> Artifact:
    """The artifact at `path`, or the one of that runtime in the bundle at `path`."""
    directory = Path(path)
    if directory.is_file() or (directory / MANIFEST_NAME).is_file():
        artifact = Artifact.open(directory)
        if runtime not in (None, artifact.manifest.runtime.name):
            raise NotAnArtifactError(
                f"{directory}: runs on {artifact.manifest.runtime.name!r}, not on {runtime!r}; leave out --runtime, or "
                "name another artifact"
            )
        return artifact
    return Artifact.open(_choose(directory, runtime))


def _choose(bundle: Path, runtime: str | None) -> Path:
    """The one artifact directory below a bundle that fits the wanted runtime."""
    if not bundle.is_dir():
        raise NotAnArtifactError(f"{bundle}: no such directory; name an artifact or a bundle")
    found = {place.parent: read_manifest(place.parent).runtime.name for place in artifact_manifests(bundle)}
    fitting = [place for place, name in found.items() if runtime in (None, name)]
    if len(fitting) == 1:
        return fitting[0]
    listing = ", ".join(f"{place.relative_to(bundle)} ({name})" for place, name in found.items())
    if not found:
        raise NotAnArtifactError(f"{bundle}: no {MANIFEST_NAME} here or one level below; export an artifact first")
    if not fitting:
        raise NotAnArtifactError(f"{bundle}: no artifact for runtime {runtime!r}; it holds {listing}, name one")
    raise NotAnArtifactError(f"{bundle}: holds {len(fitting)} artifacts, {listing}; name one, or narrow with --runtime")


def artifact_manifests(bundle: Path) -> list[Path]:
    """The manifests one or two levels below a bundle (`<name>/` or `models/<name>/`), sorted.

    Hidden directories are not looked into: an export works in them.
    """
    found = [*bundle.glob(f"*/{MANIFEST_NAME}"), *bundle.glob(f"*/*/{MANIFEST_NAME}")]
    return sorted(place for place in found if not any(name.startswith(".") for name in place.relative_to(bundle).parts))


def sha256_of(place: Path) -> str:
    """The sha256 of a file in hex."""
    try:
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileMismatchError(f"{place}: cannot be read: {error.strerror}; copy or export it again") from error


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a manifest."""
    place = Path(__file__).parent / "manifest.schema.json"
    return cast(dict[str, Any], json.loads(place.read_text(encoding="utf-8")))


def _refused(where: str, problem: str) -> ManifestError:
    return ManifestError(f"{where}: {problem}; copy the artifact or export it again")


def _parse_json(content: bytes, where: str) -> Any:
    def refuse_constant(text: str) -> NoReturn:
        raise _refused(where, f"{text} is not a JSON number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _refused(where, f"key {twice!r} stands twice in one object")
        return dict(pairs)

    try:
        return json.loads(content.decode("utf-8"), parse_constant=refuse_constant, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise _refused(where, f"not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise _refused(where, f"not JSON: {error}") from error
    except RecursionError as error:
        raise _refused(where, "nested too deeply to be a manifest") from error


def _check_version(version: object, where: str) -> None:
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
        raise ManifestVersionError(
            f"{where}: schema_version {version} was made by a newer version of this project; "
            f"this one reads {SCHEMA_VERSION}: update it, or export again"
        )


def _check_schema(data: Mapping[str, Any], where: str) -> None:
    problem = next(iter(sorted(_validator().iter_errors(data), key=lambda error: list(map(str, error.path)))), None)
    if problem is not None:
        field = ".".join(map(str, problem.absolute_path)) or "the manifest"
        raise _refused(where, f"{field}: {problem.message[:300]}")


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return validator_of(schema())


def validator_of(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    """A validator to which 256.0 is no integer, as it is none to the readers in Kotlin and Swift."""
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    extend: Any = jsonschema.validators.extend
    return cast(
        jsonschema.Draft202012Validator, extend(jsonschema.Draft202012Validator, type_checker=types)(dict(schema))
    )


def _is_integer(_checker: jsonschema.TypeChecker, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _build(data: Mapping[str, Any]) -> Manifest:
    """The dataclasses for data that the schema accepts."""
    built = {
        "source": Source(**data["source"]),
        "runtime": RuntimeVersion(**data["runtime"]),
        "eos_token_ids": tuple(data["eos_token_ids"]),
        "modalities": tuple(data["modalities"]),
        "state": tuple(StateTensor(**{**tensor, "shape": tuple(tensor["shape"])}) for tensor in data["state"]),
        "files": tuple(FileEntry(**entry) for entry in data["files"]),
        "inputs": Inputs(**data["inputs"]),
        "quantization": Quantization(**data["quantization"]) if data.get("quantization") else None,
        "vision": _vision(data["vision"]) if data.get("vision") else None,
        "measured": Measured(**data["measured"]),
    }
    return Manifest(**{**data, **built})


def _vision(data: Mapping[str, Any]) -> Vision:
    raw = data["images"]
    grids = tuple((down, across) for down, across in raw.get("grids", ()))
    images = {**raw, "mean": tuple(raw["mean"]), "std": tuple(raw["std"]), "grids": grids}
    return Vision(**{**data, "images": ImageSpec(**images)})


def _check_vision(manifest: Manifest, where: str) -> None:
    """Whether what sees fits the rest; there is such a part exactly where "image" is among the modalities."""
    vision = manifest.vision
    if (vision is None) == ("image" in manifest.modalities):
        has = "no vision" if vision is None else "vision"
        raise _refused(where, f"modalities are {list(manifest.modalities)}, yet there is {has}")
    if vision is None:
        return
    listed = {entry.path for entry in manifest.files}
    for path in (vision.tower_file, vision.embedding_file):
        if path not in listed:
            raise _refused(where, f"vision file {path!r} is not among its files")
    for token in (vision.image_token_id, vision.vision_start_token_id, vision.vision_end_token_id):
        if token >= manifest.vocab_size:
            raise _refused(where, f"vision token id {token} is outside vocab_size {manifest.vocab_size}")
    images = vision.images
    if images.max_pixels < max(images.min_pixels, images.factor**2):
        sizes = f"{images.min_pixels} to {images.max_pixels} pixels"
        raise _refused(where, f"images of {sizes} leave no room for a token of {images.factor} x {images.factor}")
    for down, across in images.grids:
        if down * across * images.factor**2 > images.max_pixels:
            raise _refused(where, f"a grid of {down} x {across} tokens has more than max_pixels {images.max_pixels}")


def _check_files(manifest: Manifest, where: str) -> None:
    listed = [entry.path for entry in manifest.files]
    for path in listed:
        _check_path(path, where)
    # two names that differ in case only are one file on a Mac
    _check_unique([path.casefold() for path in listed], "file", where)
    roles = ("model_file", "tokenizer_file", "chat_template_file", "reference_file")
    for role in roles:
        path = getattr(manifest, role)
        if path is not None and path not in listed:
            raise _refused(where, f"{role} {path!r} is not among its files")


def _check_path(path: str, where: str) -> None:
    parts = PurePosixPath(path).parts
    plain = str(PurePosixPath(path)) == path and not path.startswith("/") and ".." not in parts and path != "."
    if not plain or any(letter in path for letter in "\\:\0"):
        raise _refused(where, f"file path {path!r} must be relative, plain and stay inside the artifact")
    if path.casefold() == MANIFEST_NAME:
        raise _refused(where, f"{path!r} cannot list itself")


def _check_state(manifest: Manifest, where: str) -> None:
    _check_unique([tensor.name for tensor in manifest.state], "state tensor", where)
    for tensor in manifest.state:
        wanted = math.prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]
        if tensor.bytes != wanted:
            found = f"says {tensor.bytes} bytes, shape {tensor.shape} of {tensor.dtype} has {wanted}"
            raise _refused(where, f"state {tensor.name!r} {found}")
        if (tensor.input_name is None) != (tensor.output_name is None):
            raise _refused(where, f"state {tensor.name!r} needs input_name and output_name, or neither")
        if tensor.token_axis is None:
            continue
        if tensor.token_axis >= len(tensor.shape) or tensor.shape[tensor.token_axis] < manifest.context_length:
            room = f"context_length {manifest.context_length} on token_axis {tensor.token_axis}"
            raise _refused(where, f"state {tensor.name!r} of shape {tensor.shape} has no room for {room}")


def _check_tokens(manifest: Manifest, where: str) -> None:
    special = [*manifest.eos_token_ids, *([] if manifest.pad_token_id is None else [manifest.pad_token_id])]
    outside = [token for token in special if token >= manifest.vocab_size]
    if outside:
        raise _refused(where, f"token id {outside[0]} is outside vocab_size {manifest.vocab_size}")
    if manifest.prefill_chunk > manifest.context_length:
        longer = f"prefill_chunk {manifest.prefill_chunk} is longer than context_length {manifest.context_length}"
        raise _refused(where, longer)


def _check_unique(names: Iterable[str], what: str, where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _refused(where, f"{what} {name!r} is listed twice")
        seen.add(name)


def _check_length(place: Path, entry: FileEntry) -> None:
    if not place.is_file():
        raise FileMismatchError(f"{place}: listed in {MANIFEST_NAME} but missing; copy or export it again")
    found = place.stat().st_size
    if found != entry.bytes:
        raise FileMismatchError(f"{place}: {found} bytes, the manifest says {entry.bytes}; copy or export it again")

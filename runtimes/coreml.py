"""Run a Core ML artifact: packages in a row, each with functions for one token and for many.

On a Mac this is Core ML itself. Elsewhere it is the evaluator of the written program (`runtimes.mil`), which shows that
the file means what its exporter meant and is much too slow for anything else. Either way the runner does what the app
does: prompts in chunks of the prefill function, padded to its length, single tokens by the decode function, states in
the layout that the artifact chose. Where a padded chunk would reach beyond the context, tokens go one by one.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from runtimes.artifact import Artifact, Vision
from runtimes.coreml_engines import Engine
from runtimes.coreml_engines.description import Description, Layout, State, read_description
from runtimes.device import default_threads
from runtimes.errors import RuntimeFailedError, RuntimeUnavailableError, SnapshotError
from runtimes.runner import HALF_WRITTEN, Logits, Tokens, check_tokens, check_version
from runtimes.vision.fed import FedSeeingRunner, ImageFeed, position_ids, spread_features
from runtimes.vision.grids import function_name, grid_of
from runtimes.vision.prompt import Features
from runtimes.vision.spec import PatchedImage

READS_SPECIFICATION: Final = "10"  # the newest that the evaluator reads; the manifest's version is that of the file
LOGITS: Final = "logits"
PATCHES: Final = "pixel_values"
IMAGE_FEATURES: Final = "image_features"
CHECK_SECONDS: Final = 60.0  # of one check of `verify`: the evaluator takes seconds a call of a large model
MACOS: Final = "darwin"

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class CoremlSnapshot:
    """A position of one sequence with a copy of all its state."""

    owner: object
    position: int
    kept: dict[str, Array]  # by Core ML
    carried: dict[str, Array]  # by us, from call to call


class CoremlRunner:
    """One sequence in the packages of one artifact."""

    def __init__(self, artifact: Artifact, description: Description, engine: Engine, layout: str, threads: int) -> None:
        manifest = artifact.manifest
        self.context_length = manifest.context_length
        self.vocab_size = manifest.vocab_size
        self.prefill_chunk = manifest.prefill_chunk
        self.threads = threads
        self.layout = layout
        self.feed: ImageFeed | None = None  # where the functions take images between the tokens
        self._description = description
        self._layout = self._description.layouts[layout]
        self._engine: Engine | None = engine
        self._position = 0
        self._failed = False
        self._carried: dict[str, Array] = {}
        self._carriers = _carriers(artifact, self._layout)
        self.reset()

    @property
    def position(self) -> int:
        return self._position

    @property
    def engine_name(self) -> str:
        """What computes."""
        return self._open_engine().name

    def forward(self, tokens: Tokens) -> Logits:
        """Append tokens and return the logits after the last one."""
        ids = check_tokens(tokens, self)
        if self._failed:
            raise RuntimeFailedError(HALF_WRITTEN)
        start = 0
        while start < ids.size:
            count = self._next_count(ids.size - start)
            logits = self._run(ids[start : start + count])
            start += count
        return logits

    def reset(self) -> None:
        """Forget the sequence."""
        self._open_engine().reset()
        self._carried = {state.name: np.zeros(state.shape, state.dtype) for state in self._carriers}
        self._position = 0
        self._failed = False

    def snapshot(self) -> CoremlSnapshot:
        """Remember the sequence so far."""
        if self._failed:
            raise RuntimeFailedError(HALF_WRITTEN)
        kept = self._open_engine().read_states()
        return CoremlSnapshot(owner=self, position=self._position, kept=kept, carried=dict(self._carried))

    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot of this runner."""
        if not isinstance(snapshot, CoremlSnapshot) or snapshot.owner is not self:
            raise SnapshotError("this snapshot was taken from another runner; a snapshot can only return to its own")
        self._open_engine().write_states(snapshot.kept)
        self._carried = dict(snapshot.carried)
        self._position = snapshot.position
        self._failed = False

    def close(self) -> None:
        """Give the model's memory back."""
        self._failed = True
        self._engine = None

    def _next_count(self, waiting: int) -> int:
        """Tokens of the next call: a chunk, padded if need be, where it fits the context; else one."""
        chunk = self._description.prefill_tokens
        fits = self._position + chunk <= self.context_length
        return min(chunk, waiting) if waiting > 1 and fits else 1

    def _run(self, ids: NDArray[np.int64]) -> Logits:
        """One call of every package."""
        call = "decode" if ids.size == 1 else "prefill"
        function = self._layout.functions[call]
        flow = {"input_ids": self._padded(ids, call)}
        given: dict[str, Array] = {
            "position": np.array([self._position], np.int32),
            "length": np.array([ids.size], np.int32),
        }
        piece = None if self.feed is None else self.feed.piece(ids, self._position)
        if piece is not None:
            size = flow["input_ids"].size
            given |= {"position_ids": position_ids(piece, size), "image_features": spread_features(piece, size)}
        self._failed = True  # also when a signal interrupts between the call and the new position
        for package in self._description.packages:
            flow = self._call(package, function, flow, given)
        logits = _logits(flow, self.vocab_size)
        if self.feed is not None and piece is not None:
            self.feed.was_read(piece, self._position)
        self._position += ids.size
        self._failed = False
        return logits

    def _call(self, package: str, function: str, flow: dict[str, Array], given: dict[str, Array]) -> dict[str, Array]:
        """One package: what flows in and out besides states is one tensor; `given` is for all packages."""
        engine = self._open_engine()
        offered = {
            **flow,
            **given,
            **{str(state.input_name): self._carried[state.name] for state in self._carriers},
        }
        wanted = engine.input_names(package, function)
        missing = sorted(set(wanted) - set(offered))
        if missing:
            raise RuntimeFailedError(
                f"{package}: function {function!r} wants input {missing[0]!r}, which nothing gives"
            )
        outputs = dict(engine.call(package, function, {name: offered[name] for name in wanted}))
        for state in self._carriers:
            if state.output_name in outputs:
                self._carried[state.name] = outputs.pop(state.output_name)
        return outputs

    def _padded(self, ids: NDArray[np.int64], call: str) -> Array:
        size = 1 if call == "decode" else self._description.prefill_tokens
        padded = np.zeros((1, size), np.int32)
        padded[0, : ids.size] = ids
        return padded

    def _open_engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeFailedError("this runner was closed; open the artifact again")
        return self._engine


CoremlRunners = CoremlRunner | FedSeeingRunner


def load_runner(artifact: Artifact, threads: int | None = None) -> CoremlRunners:
    """The runner of a Core ML artifact in its default layout, on the best engine of this machine."""
    check_version(artifact, READS_SPECIFICATION)
    description = read_description(artifact)
    return open_way(artifact, Way(layout=description.default_layout, engine=_engines()[0]), threads)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run an artifact: a layout of its state on an engine."""

    layout: str
    engine: str

    @property
    def name(self) -> str:
        return f"{self.engine}_{self.layout}"


def ways(artifact: Artifact) -> list[Way]:
    """Every way to run an artifact on this machine, besides the one that `load_runner` takes."""
    description = read_description(artifact)
    found = [Way(layout=layout, engine=engine) for engine in _engines() for layout in description.layouts]
    return [way for way in found if way != Way(layout=description.default_layout, engine=_engines()[0])]


def open_way(artifact: Artifact, way: Way, threads: int | None = None) -> CoremlRunners:
    """A runner for one way."""
    count = threads or default_threads()
    description = read_description(artifact)
    functions = tuple(dict.fromkeys(description.layouts[way.layout].functions.values()))
    engine = _engine(way.engine, description.packages, functions, count)
    runner = CoremlRunner(artifact, description, engine, way.layout, count)
    vision = artifact.manifest.vision
    if vision is None:
        return runner
    runner.feed = ImageFeed(vision=vision)
    tower = Tower(artifact, vision, way.engine, count)
    return FedSeeingRunner(text=runner, feed=runner.feed, encode=tower.encode, close_tower=tower.close)


class Tower:
    """The package that encodes images, opened when the first one comes."""

    def __init__(self, artifact: Artifact, vision: Vision, engine: str, threads: int) -> None:
        self._name = vision.tower_file.split("/")[0]
        self._place = artifact.file(self._name)
        self._images, self._engine_name, self._threads = vision.images, engine, threads
        self._engine: Engine | None = None

    def encode(self, image: PatchedImage) -> Features:
        """The image's features."""
        function = function_name(grid_of(image, self._images))
        if self._engine is None:
            functions = tuple(function_name(grid) for grid in self._images.grids)
            self._engine = _engine(self._engine_name, {self._name: self._place}, functions, self._threads)
        found = self._engine.call(self._name, function, {PATCHES: image.patches})
        features: Features = found[IMAGE_FEATURES].astype(np.float32)
        return features

    def close(self) -> None:
        """Give its memory back."""
        self._engine = None


def describe_engine(runner: Any) -> str:
    """What computes."""
    text = getattr(runner, "text", runner)  # of a runner that sees
    name: str = text.engine_name
    return name


def _engines() -> list[str]:
    """The engines of this machine, the best first."""
    if sys.platform != MACOS:
        return ["evaluator"]
    return ["cpu_and_ne", "cpu_only", "cpu_and_gpu", "all", "evaluator"]


def _engine(name: str, packages: Mapping[str, Path], functions: tuple[str, ...], threads: int) -> Engine:
    """The engine of this name with these functions of packages."""
    if name == "evaluator":
        return cast(Engine, _import("runtimes.coreml_engines.evaluator").Evaluator(packages, functions, threads))
    return cast(Engine, _import("runtimes.coreml_engines.native").CoreMl(packages, functions, name.upper()))


def _import(name: str) -> Any:
    """An engine's module; torch and coremltools are looked for only now."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            f"running a Core ML artifact here needs the Python package {error.name!r}, which is not installed; "
            "install this project's extra 'coreml'"
        ) from error


def _carriers(artifact: Artifact, layout: Layout) -> list[State]:
    """States that go in and out of each call, held against the manifest, which lists the default layout."""
    listed = {tensor.name: tensor for tensor in artifact.manifest.state}
    for state in layout.states:
        if state.name not in listed or listed[state.name].shape != state.shape:
            found = listed[state.name].shape if state.name in listed else "not there"
            raise RuntimeFailedError(
                f"{artifact.model_file}: state {state.name!r} is {state.shape}, in the manifest it is {found}; "
                "export it again"
            )
    return [state for state in layout.states if state.input_name is not None]


def _logits(flow: dict[str, Array], vocab_size: int) -> Logits:
    """The logits of the last token out of what the last package gives."""
    if set(flow) != {LOGITS} or flow[LOGITS].size < vocab_size:
        shapes = {name: value.shape for name, value in flow.items()}
        raise RuntimeFailedError(f"the last package gives {shapes}; expected {LOGITS!r} of {vocab_size}")
    return cast(Logits, flow[LOGITS].reshape(-1)[-vocab_size:].astype(np.float32))

"""Run a Core AI artifact by Apple's own runtime, which its Python package brings for Linux too.

The asset has two functions over the same weights and states: `decode` takes one token, `prefill` a fixed number, of
which the first `length` count. States are arrays of ours that the runtime updates in place. Where a padded chunk would
reach beyond the context, tokens go one by one. The runtime speaks asyncio; a thread of its own keeps that out of sight,
so that a runner works in plain code and under any event loop.
"""

import asyncio
import hashlib
import importlib.metadata
import threading
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from coreai.authoring import AIModelAsset
from coreai.runtime import NDArray as RuntimeArray
from numpy.typing import NDArray

from runtimes.artifact import Artifact, StateTensor, Vision
from runtimes.device import default_threads
from runtimes.errors import RuntimeFailedError, SnapshotError
from runtimes.runner import Logits, check_version
from runtimes.state import SequenceState, StateSnapshot
from runtimes.state_runner import StateRunner
from runtimes.vision.fed import FedSeeingRunner, ImageFeed, position_ids, spread_features
from runtimes.vision.grids import function_name, grid_of
from runtimes.vision.prompt import Features
from runtimes.vision.spec import PatchedImage

PACKAGE: Final = "coreai-core"
DECODE, PREFILL, LOGITS = "decode", "prefill", "logits"
TOKENS, POSITION, LENGTH = "input_ids", "position", "length"
POSITION_IDS, IMAGE_FEATURES, PATCHES = "position_ids", "image_features", "pixel_values"
IMAGE_INPUTS: Final = {POSITION_IDS, IMAGE_FEATURES}
INPUTS: Final = {DECODE: {TOKENS, POSITION}, PREFILL: {TOKENS, POSITION, LENGTH}}
CHECK_SECONDS: Final = 60.0  # of one check of `verify`: a large model takes a minute or two a call on Linux
HASH_FILE: Final = "main.hash"
SUFFIX: Final = ".aimodel"

Result = TypeVar("Result")


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="coreai", daemon=True)
        self._thread.start()

    def run(self, what: str, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Wait for a call into Core AI; its errors are plain RuntimeError, TypeError or KeyError."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise RuntimeFailedError(f"coreai could not {what}: {reason}") from error

    def close(self) -> None:
        """Let the thread end."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class RuntimeState(SequenceState):
    """The states of one sequence in the runtime's memory, which Python reads and gives as copies.

    A snapshot has copies of all of it, of caches the rows before its position.
    """

    def __init__(self, tensors: Sequence[StateTensor]) -> None:
        super().__init__([])  # there are no buffers to share
        self._tensors = tensors
        self.arrays = {tensor.name: RuntimeArray(np.zeros(tensor.shape, tensor.dtype)) for tensor in tensors}

    def clear(self) -> None:
        """Zero the fixed states; cache rows stay, since nothing reads beyond the position."""
        for tensor in self._tensors:
            if tensor.token_axis is None:
                self.arrays[tensor.name] = RuntimeArray(np.zeros(tensor.shape, tensor.dtype))

    def snapshot(self, position: int) -> StateSnapshot:
        """Remember the states at a position."""
        saved = [self.arrays[tensor.name].numpy()[_before(tensor, position)].copy() for tensor in self._tensors]
        return StateSnapshot(self, position, saved)

    def restore(self, snapshot: object) -> int:
        """Bring a snapshot's states back and return its position."""
        if not isinstance(snapshot, StateSnapshot) or snapshot.owner is not self:
            raise SnapshotError("this snapshot was taken from another runner; a snapshot can only return to its own")
        for tensor, saved in zip(self._tensors, snapshot.fixed, strict=True):
            whole = np.zeros(tensor.shape, tensor.dtype)
            whole[_before(tensor, snapshot.position)] = saved
            self.arrays[tensor.name] = RuntimeArray(whole)
        return snapshot.position


def _before(tensor: StateTensor, position: int) -> tuple[slice, ...]:
    """The part of a state that belongs to a sequence of this length."""
    axis = tensor.token_axis
    return () if axis is None else (*(slice(None),) * axis, slice(0, position))


class Asset:
    """The functions of an asset, compiled for this machine."""

    def __init__(self, artifact: Artifact, program: Path) -> None:
        _check_whole(artifact, program)
        self._program = program
        self._loop: Loop | None = Loop()
        self._open = AsyncExitStack()
        self.functions: dict[str, Any] = {}
        try:
            model = self._loop.run(f"open {program}", self._opened())
            self.functions = {name: model.load_function(name) for name in model.function_names}
        except BaseException:
            self.close()
            raise

    def call(
        self, what: str, name: str, inputs: Mapping[str, NDArray[Any]], states: dict[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """The outputs of a function; `states` are updated in place."""
        if self._loop is None:
            raise RuntimeFailedError("this runner was closed; open the artifact again")
        given = {key: RuntimeArray(value) for key, value in inputs.items()}
        outputs = self._loop.run(what, self.functions[name](given, states))
        return {key: value.numpy() for key, value in outputs.items()}

    def close(self) -> None:
        """Give the memory back."""
        if self._loop is None:
            return
        self.functions = {}
        self._loop.run("close the asset", self._open.aclose())
        self._loop.close()
        self._loop = None

    async def _opened(self) -> Any:
        return await self._open.enter_async_context(AIModelAsset.load(self._program.parent).executable())


class CoreaiRunner(StateRunner):
    """One sequence in the functions of one asset."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        super().__init__(artifact, threads)
        self.feed: ImageFeed | None = None  # where the functions take images between the tokens
        self._state: RuntimeState = RuntimeState(artifact.manifest.state)
        self._asset = Asset(artifact, artifact.model_file)
        try:
            self._check(artifact)
        except BaseException:
            self.close()
            raise

    def reset(self) -> None:
        """Forget the sequence; cached rows stay behind the mask until they are overwritten."""
        self._state.clear()
        super().reset()

    def close(self) -> None:
        """Give the model's memory back."""
        self._failed = True
        self._state.arrays = {}
        self._asset.close()

    def _check(self, artifact: Artifact) -> None:
        if set(self._asset.functions) != set(INPUTS):
            raise RuntimeFailedError(
                f"{artifact.model_file}: its functions are {', '.join(sorted(self._asset.functions))}; "
                f"expected {DECODE} and {PREFILL}"
            )
        for name, function in self._asset.functions.items():
            _check_function(artifact, name, function.desc)

    def _run(self, ids: NDArray[np.int64]) -> None:
        fits = self._position + self.prefill_chunk <= self.context_length
        if ids.size > 1 and fits:
            self._call(PREFILL, ids, self._position)
            return
        for offset in range(ids.size):
            self._call(DECODE, ids[offset : offset + 1], self._position + offset)

    def _call(self, name: str, ids: NDArray[np.int64], position: int) -> None:
        """One call of a function, the tokens padded to what it takes."""
        padded = np.zeros((1, 1 if name == DECODE else self.prefill_chunk), np.int32)
        padded[0, : ids.size] = ids
        given: dict[str, NDArray[Any]] = {TOKENS: padded, POSITION: np.array([position], np.int32)}
        if name == PREFILL:
            given[LENGTH] = np.array([ids.size], np.int32)
        piece = None if self.feed is None else self.feed.piece(ids, position)
        if piece is not None:
            given[POSITION_IDS] = position_ids(piece, padded.size)
            given[IMAGE_FEATURES] = spread_features(piece, padded.size)
        what = f"run {ids.size} tokens after {position}"
        self._output = self._asset.call(what, name, given, self._state.arrays)[LOGITS]
        if self.feed is not None and piece is not None:
            self.feed.was_read(piece, position)

    def _last_logits(self) -> Logits:
        logits: Logits = self._output.reshape(-1)[-self.vocab_size :].astype(np.float32)
        return logits


class Tower:
    """The asset that encodes images, opened when the first one comes."""

    def __init__(self, artifact: Artifact, vision: Vision) -> None:
        self._artifact, self._vision = artifact, vision
        self._asset: Asset | None = None

    def encode(self, image: PatchedImage) -> Features:
        """The image's features."""
        name = function_name(grid_of(image, self._vision.images))
        if self._asset is None:
            self._asset = Asset(self._artifact, self._artifact.file(self._vision.tower_file))
        if name not in self._asset.functions:
            raise RuntimeFailedError(f"{self._vision.tower_file}: has no function {name!r}; export it again")
        found = self._asset.call(f"encode {len(image.patches)} patches", name, {PATCHES: image.patches}, {})
        features: Features = found[IMAGE_FEATURES].astype(np.float32)
        return features

    def close(self) -> None:
        """Give its memory back."""
        if self._asset is not None:
            self._asset.close()
            self._asset = None


def load_runner(artifact: Artifact, threads: int | None = None) -> CoreaiRunner | FedSeeingRunner:
    """The runner of a Core AI artifact; its runtime takes no number of threads."""
    check_version(artifact, importlib.metadata.version(PACKAGE))
    runner, vision = CoreaiRunner(artifact, threads or default_threads()), artifact.manifest.vision
    if vision is None:
        return runner
    runner.feed, tower = ImageFeed(vision=vision), Tower(artifact, vision)
    return FedSeeingRunner(text=runner, feed=runner.feed, encode=tower.encode, close_tower=tower.close)


def _check_whole(artifact: Artifact, place: Path) -> None:
    """Refuse a damaged program before it is parsed: Apple's parser ends the process then.

    An asset holds the hash of its program.
    """
    if place.parent.suffix != SUFFIX:
        raise RuntimeFailedError(f"{place}: not inside a directory *{SUFFIX}; export it again")
    found = artifact.file(f"{place.parent.relative_to(artifact.path).as_posix()}/{HASH_FILE}")
    with place.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    if not found.is_file() or found.read_bytes() != digest:
        raise RuntimeFailedError(
            f"{place}: its hash is not the one in {HASH_FILE}; copy the artifact or export it again"
        )


def _check_function(artifact: Artifact, name: str, found: Any) -> None:
    """Refuse a function whose inputs, states and shapes are not those that the manifest gives."""
    manifest, where = artifact.manifest, f"{artifact.model_file}: function {name!r}"
    states = {tensor.name: tensor for tensor in manifest.state}
    for what, wanted, names in (
        ("input", INPUTS[name] | (IMAGE_INPUTS if manifest.vision else set()), found.input_names),
        ("state", set(states), found.state_names),
        ("output", {LOGITS}, found.output_names),
    ):
        odd = sorted(set(names) ^ wanted)
        if odd:
            raise RuntimeFailedError(
                f"{where}: {what} {odd[0]!r} is in only one of model and manifest; export it again"
            )
    for state, tensor in states.items():
        described = found.state_descriptor(state)
        if (tuple(described.shape), described.dtype) != (tensor.shape, tensor.dtype):
            raise RuntimeFailedError(
                f"{where}: state {state!r} is {described.dtype} {tuple(described.shape)}, the manifest says "
                f"{tensor.dtype} {tensor.shape}; export it again"
            )
    taken = tuple(found.input_descriptor(TOKENS).shape)
    wanted_tokens = (1, 1 if name == DECODE else manifest.prefill_chunk)
    if taken != wanted_tokens:
        raise RuntimeFailedError(f"{where}: takes token ids {taken}, by the manifest they are {wanted_tokens}")


def describe_engine(runner: object) -> str:  # noqa: ARG001 (every runtime's signature)
    """What computes."""
    return f"Apple's Core AI runtime ({PACKAGE} {importlib.metadata.version(PACKAGE)})"

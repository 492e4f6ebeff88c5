"""Run an ONNX artifact in plain ONNX Runtime, without onnxruntime-genai.

All state is bound once and stays where it is. The KV cache is one buffer, as long as the context, that is past and
present at the same time: GroupQueryAttention appends to it in place and reads how much is filled from the length of the
attention mask. The buffer comes from anonymous memory, so the system commits its pages as tokens reach them and a short
chat stays small. Convolution and recurrent states are updated in place as well, as onnxruntime-genai does; `verify`
proves for each artifact that this gives the logits of a one-shot run. A step costs one binding and one call.

A model that sees comes as three graphs over one data file: the text model reads embeddings, which a second graph makes
of tokens and image features, which a third makes of patches. The third is opened when the first image comes.
"""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, as the library loads: nothing phones home

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from runtimes.artifact import Artifact, StateTensor
from runtimes.device import default_threads
from runtimes.errors import RuntimeFailedError
from runtimes.runner import Logits, check_version
from runtimes.state import SequenceState, StateBuffer
from runtimes.state_runner import StateRunner
from runtimes.vision.prompt import Prompt, SeenImage
from runtimes.vision.seeing import SeeingStateRunner, seen_image
from runtimes.vision.spec import PatchedImage

IDS: Final = "input_ids"
EMBEDDINGS: Final = "inputs_embeds"
IMAGE_FEATURES: Final = "image_features"
SHARED_INPUTS: Final = ("attention_mask", "position_ids")
LOGITS: Final = "logits"
POSITION_ROWS: Final = 3  # time, height, width: equal for text
ELEMENT_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
ERROR_LOG_LEVEL: Final = 3

Result = TypeVar("Result")


class OnnxRunner(StateRunner):
    """One sequence in one ONNX Runtime session."""

    reads = IDS

    def __init__(self, artifact: Artifact, threads: int) -> None:
        super().__init__(artifact, threads)
        self._bound_tokens = 0
        self._session = _open_session(artifact.model_file, threads)
        _check_interface(artifact, self._session, self.reads)
        buffers = [_buffer(tensor) for tensor in artifact.manifest.state]
        self._state = SequenceState(buffers)
        self._ids = np.zeros(self.prefill_chunk, np.int64)
        self._positions = np.zeros(POSITION_ROWS * self.prefill_chunk, np.int64)
        self._mask = np.ones(self.context_length, np.int64)
        self._logits = np.zeros((1, 1, self.vocab_size), ELEMENT_TYPES[_type_of(self._session, LOGITS)])
        self._binding = self._session.io_binding()
        self._bind_for_good(buffers)

    def reset(self) -> None:
        """Forget the sequence; cached rows stay behind the mask until they are overwritten."""
        self._state.clear()
        super().reset()

    def close(self) -> None:
        """Give the model's memory back."""
        self._failed = True
        del self._binding, self._session

    def _run(self, ids: NDArray[np.int64]) -> None:
        count = ids.size
        total = self._position + count
        self._ids[:count] = ids
        self._place(self._positions[: POSITION_ROWS * count].reshape(POSITION_ROWS, count))
        self._bind_input("attention_mask", self._mask, (1, total))
        if count != self._bound_tokens:  # from step to step only the mask grows
            self._bind_tokens(count)
            self._bind_input("position_ids", self._positions, (POSITION_ROWS, 1, count))
            self._bound_tokens = count
        _call(f"run {count} tokens after {self._position}", lambda: self._session.run_with_iobinding(self._binding))

    def _place(self, rows: NDArray[np.int64]) -> None:
        """Write the positions of the next tokens, (3, count)."""
        rows[:] = np.arange(self._position, self._position + rows.shape[1])

    def _bind_tokens(self, count: int) -> None:
        """Let the model read that many tokens from now on."""
        self._bind_input(IDS, self._ids, (1, count))

    def _last_logits(self) -> Logits:
        return self._logits.reshape(-1).astype(np.float32)

    def _bind_for_good(self, buffers: list[StateBuffer]) -> None:
        for buffer in buffers:
            tensor = buffer.tensor
            self._bind_input(tensor.input_name, buffer.array, tensor.shape)
            self._bind_output(tensor.output_name, buffer.array)
        self._bind_output(LOGITS, self._logits)

    def _bind_input(self, name: str | None, array: NDArray[Any], shape: tuple[int, ...]) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)

    def _bind_output(self, name: str | None, array: NDArray[Any]) -> None:
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


class OnnxSeeingRunner(SeeingStateRunner, OnnxRunner):
    """One sequence of tokens and images."""

    reads = EMBEDDINGS

    def __init__(self, artifact: Artifact, threads: int) -> None:
        super().__init__(artifact, threads)
        vision = self.vision
        self._embedding = _open_session(artifact.file(vision.embedding_file), threads)
        self._tower_file = artifact.file(vision.tower_file)
        self._tower: onnxruntime.InferenceSession | None = None
        self._embeddings = np.zeros((self.prefill_chunk, vision.hidden_size), np.float32)
        self._nothing_seen = np.zeros((0, vision.hidden_size), np.float32)

    def see(self, image: PatchedImage) -> SeenImage:
        """Run the vision tower on an image."""
        self._check_size(image)
        count = image.height * image.width
        if self._tower is None:
            self._tower = _open_session(self._tower_file, self.threads)
        tower = self._tower
        feed = {"pixel_values": image.patches, "image_grid_thw": np.array([[1, image.height, image.width]], np.int64)}
        found = _call(f"encode {count} patches", lambda: tower.run([IMAGE_FEATURES], feed))
        return seen_image(image, found[0])

    def close(self) -> None:
        """Give the model's memory back."""
        super().close()
        del self._embedding
        self._tower = None

    def _read(self, ids: NDArray[np.int64], piece: Prompt | None) -> None:
        features = self._nothing_seen if piece is None else piece.features
        feed = {IDS: ids[None], IMAGE_FEATURES: features}
        embedded = _call(f"embed {ids.size} tokens", lambda: self._embedding.run([EMBEDDINGS], feed))
        self._embeddings[: ids.size] = embedded[0][0]
        OnnxRunner._run(self, ids)

    def _place(self, rows: NDArray[np.int64]) -> None:
        count = rows.shape[1]
        piece = self._piece(count)
        rows[:] = np.arange(self.next_position, self.next_position + count) if piece is None else piece.rows

    def _bind_tokens(self, count: int) -> None:
        self._bind_input(EMBEDDINGS, self._embeddings, (1, count, self.vision.hidden_size))


def load_runner(artifact: Artifact, threads: int | None = None) -> OnnxRunner:
    """The runner of an ONNX artifact."""
    check_version(artifact, onnxruntime.__version__)
    if artifact.manifest.vision is not None:
        return OnnxSeeingRunner(artifact, threads or default_threads())
    return OnnxRunner(artifact, threads or default_threads())


def _buffer(tensor: StateTensor) -> StateBuffer:
    """Memory of our own for one state tensor."""
    array = lazy_zeros(tensor)
    return StateBuffer(tensor=tensor, find=lambda: array)


def lazy_zeros(tensor: StateTensor) -> NDArray[Any]:
    """Zeros that take up memory only where they were touched; numpy's own would ask for huge pages."""
    try:
        memory = mmap.mmap(-1, tensor.bytes)
    except (OSError, OverflowError) as error:
        raise RuntimeFailedError(f"no memory for state {tensor.name!r} of {tensor.bytes} bytes: {error}") from error
    return np.frombuffer(memory, dtype=tensor.dtype).reshape(tensor.shape)


def _open_session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERROR_LOG_LEVEL
    options.enable_mem_pattern = False  # plans memory per shape, and every prefill length is a new shape
    return _call(
        f"open {model}",
        lambda: onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]),
    )


def _check_interface(artifact: Artifact, session: onnxruntime.InferenceSession, reads: str) -> None:
    """Refuse a model whose inputs and outputs are not those the manifest lists."""
    state = artifact.manifest.state
    wanted_inputs = {reads, *SHARED_INPUTS, *(tensor.input_name for tensor in state)}
    wanted_outputs = {LOGITS, *(tensor.output_name for tensor in state)}
    _check_names("input", wanted_inputs, session.get_inputs(), artifact)
    _check_names("output", wanted_outputs, session.get_outputs(), artifact)
    if _type_of(session, LOGITS) not in ELEMENT_TYPES:
        found = _type_of(session, LOGITS)
        raise RuntimeFailedError(f"{artifact.model_file}: logits are {found}; expected float or float16")


def _check_names(what: str, wanted: set[str | None], nodes: list[Any], artifact: Artifact) -> None:
    odd = sorted(map(str, {node.name for node in nodes} ^ wanted))
    if odd:
        raise RuntimeFailedError(
            f"{artifact.model_file}: {what} {odd[0]!r} is in only one of model and manifest; export it again"
        )


def _type_of(session: onnxruntime.InferenceSession, output: str) -> str:
    return next(str(node.type) for node in session.get_outputs() if node.name == output)


def _call(what: str, action: Callable[[], Result]) -> Result:
    """Run a call into ONNX Runtime; its errors share no base class below Exception."""
    try:
        return action()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RuntimeFailedError(f"onnxruntime could not {what}: {reason}") from error

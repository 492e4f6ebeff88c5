"""Run an ExecuTorch artifact: one `.pte` whose method `forward(tokens, input_pos)` keeps its state inside.

The file follows the contract of ExecuTorch's own text runner, so state is never passed: the model clears it when
`input_pos` is 0. It can still be reached. The exporter emits the names of the mutable buffers, and `get_attribute` then
gives a tensor that shares their memory, through which snapshots are taken and restored at the speed of a copy. This is
the one module that brings torch, since ExecuTorch's Python binding takes and returns its tensors.
"""

import importlib.metadata
import warnings
from collections.abc import Callable
from typing import Any, Final, TypeVar

import torch
from numpy.typing import NDArray

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the binding warns that it is experimental, torchao about itself
    from executorch.extension.llm.custom_ops import custom_ops as _llm_operators  # noqa: F401 (registers llama::)
    from executorch.extension.pybindings import portable_lib
    from executorch.kernels import quantized as _quantized_operators  # noqa: F401 (registers quantized_decomposed::)

import numpy as np

from runtimes.artifact import Artifact, StateTensor
from runtimes.device import default_threads
from runtimes.errors import RuntimeFailedError
from runtimes.runner import Logits, check_version
from runtimes.state import SequenceState, StateBuffer
from runtimes.state_runner import StateRunner
from runtimes.vision.prompt import Prompt, SeenImage
from runtimes.vision.seeing import SeeingStateRunner, seen_image
from runtimes.vision.spec import PatchedImage

METHOD: Final = "forward"
ENCODE_METHOD: Final = "vision_encoder"
EMBED_METHOD: Final = "token_embedding"
DECODE_METHOD: Final = "text_decoder"
LAG: Final = "position_lag"  # a state tensor of the decoder: by how much positions are behind places

Result = TypeVar("Result")


class ExecutorchRunner(StateRunner):
    """One sequence in one ExecuTorch method; the model clears its state when it sees position 0."""

    decoder = METHOD

    def __init__(self, artifact: Artifact, threads: int) -> None:
        super().__init__(artifact, threads)
        self._file = artifact.model_file
        self._program = _call(
            f"open {artifact.model_file}", lambda: portable_lib._load_program(str(artifact.model_file))
        )
        self._method = self._load(self.decoder)
        _check_interface(artifact, self._method)
        self._state = SequenceState([self._buffer(artifact, tensor) for tensor in artifact.manifest.state])
        self._output = torch.zeros(self.vocab_size)

    def close(self) -> None:
        """Give the model's memory back."""
        self._failed = True
        del self._state, self._output, self._method, self._program

    def _load(self, name: str) -> Any:
        return _call(f"load {name!r} of {self._file}", lambda: self._program.load_method(name))

    def _run(self, ids: NDArray[np.int64]) -> None:
        self._decode(_tokens(ids), ids.size)

    def _decode(self, rows: torch.Tensor, count: int) -> None:
        """Call the decoder on what it reads of so many tokens."""
        inputs = (rows, torch.tensor([self._position]))
        self._output = _call(
            f"run {count} tokens after {self._position}", lambda: self._method.call(inputs, clone_outputs=False)
        )[0]

    def _last_logits(self) -> Logits:
        logits: Logits = self._output.reshape(-1)[-self.vocab_size :].to(torch.float32, copy=True).numpy()
        return logits

    def _buffer(self, artifact: Artifact, tensor: StateTensor) -> StateBuffer:
        """One state tensor inside the program; its memory is looked up each time, since programs exchange buffers."""

        def find() -> NDArray[Any]:
            found: NDArray[Any] = self._method.get_attribute(tensor.name).numpy()
            return found

        array = _call(f"find state {tensor.name!r} in {artifact.model_file}", find)
        if array.shape != tensor.shape or array.dtype != tensor.dtype:
            raise RuntimeFailedError(
                f"{artifact.model_file}: state {tensor.name!r} is {array.dtype} {array.shape}, "
                f"the manifest says {tensor.dtype} {tensor.shape}; export it again"
            )
        return StateBuffer(tensor=tensor, find=find)


class ExecutorchSeeingRunner(SeeingStateRunner, ExecutorchRunner):
    """One sequence of tokens and images, in the three methods that ExecuTorch's own multimodal runner calls."""

    decoder = DECODE_METHOD

    def __init__(self, artifact: Artifact, threads: int) -> None:
        super().__init__(artifact, threads)
        self._embedding = self._load(EMBED_METHOD)
        self._tower: Any = None
        self._lagging = self._method.get_attribute(LAG)

    def see(self, image: PatchedImage) -> SeenImage:
        """Run the vision tower on an image; its method is loaded when the first one comes."""
        self._check_size(image)
        if self._tower is None:
            self._tower = self._load(ENCODE_METHOD)
        levels = torch.from_numpy(image.levels.transpose(2, 0, 1).copy())
        rows, columns = levels.shape[1:]
        found = _call(f"encode an image of {rows} x {columns}", lambda: self._tower.call((levels,)))
        return seen_image(image, found[0][0].numpy())

    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot of this runner."""
        super().restore(snapshot)
        self._lagging.fill_(self._lag)

    def close(self) -> None:
        """Give the model's memory back."""
        super().close()
        del self._embedding, self._lagging
        self._tower = None

    def _read(self, ids: NDArray[np.int64], piece: Prompt | None) -> None:
        inputs = (_tokens(ids),)
        rows = _call(f"embed {ids.size} tokens", lambda: self._embedding.call(inputs, clone_outputs=False))[0]
        if piece is not None:
            rows[0, torch.from_numpy(ids == self.vision.image_token_id)] = torch.from_numpy(piece.features)
        self._decode(rows, ids.size)


def _tokens(ids: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(ids.copy()).unsqueeze(0)


def load_runner(artifact: Artifact, threads: int | None = None) -> ExecutorchRunner:
    """The runner of an ExecuTorch artifact; its threads are one pool for the whole process."""
    check_version(artifact, importlib.metadata.version("executorch"))
    count = threads or default_threads()
    portable_lib._unsafe_reset_threadpool(count)
    seeing = artifact.manifest.vision is not None
    return ExecutorchSeeingRunner(artifact, count) if seeing else ExecutorchRunner(artifact, count)


def _check_interface(artifact: Artifact, method: Any) -> None:
    """Refuse a program that does not take tokens and a position, or takes fewer tokens than the manifest says."""
    meta = method.method_meta()
    if (meta.num_inputs(), meta.num_outputs()) != (2, 1):
        raise RuntimeFailedError(
            f"{artifact.model_file}: the decoder has {meta.num_inputs()} inputs and {meta.num_outputs()} outputs; "
            "expected tokens or their rows and a place in, logits out"
        )
    most = meta.input_tensor_meta(0).sizes()[1]
    if most < artifact.manifest.prefill_chunk:
        raise RuntimeFailedError(
            f"{artifact.model_file}: takes {most} tokens a call, the manifest says {artifact.manifest.prefill_chunk}"
        )


def _call(what: str, action: Callable[[], Result]) -> Result:
    """Run a call into ExecuTorch; its errors are plain RuntimeError with a code."""
    try:
        return action()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RuntimeFailedError(f"executorch could not {what}: {reason}") from error

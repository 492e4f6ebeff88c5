"""Run a GGUF file in llama.cpp through llama-cpp-python's low-level calls, which add nothing to a step."""

import ctypes
import time
from pathlib import Path

import llama_cpp
import numpy as np

from benchmarks.side_by_side.workers.engine import Settings, Timing, run

BATCH_TOKENS = 512


class LlamaCppEngine:
    def __init__(self, settings: Settings) -> None:
        self.llama = llama_cpp.Llama(
            model_path=str(_file(settings.artifact)),
            n_ctx=settings.context_length,
            n_batch=BATCH_TOKENS,
            n_ubatch=BATCH_TOKENS,
            n_threads=settings.threads,
            n_threads_batch=settings.threads,
            verbose=False,
        )
        self.context = self.llama._ctx.ctx
        self.vocabulary = self.llama.n_vocab()

    def generate(self, text: str, ids: list[int], decode_steps: int) -> Timing:
        del text  # this runtime takes tokens
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        started = time.perf_counter()
        for first in range(0, len(ids), BATCH_TOKENS):
            self._decode(ids[first : first + BATCH_TOKENS])
        token = self._best()
        prefilled = time.perf_counter()
        for _ in range(decode_steps):
            self._decode([token])
            token = self._best()
        ended = time.perf_counter()
        return Timing(prefill_s=prefilled - started, decode_s=ended - prefilled, decode_steps=decode_steps)

    def _decode(self, ids: list[int]) -> None:
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        status = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        if status != 0:
            raise SystemExit(f"llama_decode returned {status} for {len(ids)} tokens")

    def _best(self) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        pointer = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * self.vocabulary))
        return int(np.frombuffer(pointer.contents, dtype=np.float32).argmax())


def _file(artifact: Path) -> Path:
    found = sorted(artifact.rglob("*.gguf"))
    if len(found) != 1:
        raise SystemExit(f"{artifact}: {len(found)} .gguf files, one is needed")
    return found[0]


if __name__ == "__main__":
    run(LlamaCppEngine, __doc__)

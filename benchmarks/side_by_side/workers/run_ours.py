"""Run one of our artifacts in our own runner."""

import time

import numpy as np

from benchmarks.side_by_side.workers.engine import Settings, Timing, run
from runtimes.artifact import find_artifact
from runtimes.runner import open_runner, runtime_module


class OurEngine:
    def __init__(self, settings: Settings) -> None:
        self.runner = open_runner(find_artifact(settings.artifact), settings.threads)

    def generate(self, text: str, ids: list[int], decode_steps: int) -> Timing:
        del text  # our runners take tokens
        self.runner.reset()
        started = time.perf_counter()
        token = int(np.argmax(self.runner.forward(ids)))
        prefilled = time.perf_counter()
        for _ in range(decode_steps):
            token = int(np.argmax(self.runner.forward([token])))
        ended = time.perf_counter()
        return Timing(prefill_s=prefilled - started, decode_s=ended - prefilled, decode_steps=decode_steps)


def import_runtime(settings: Settings) -> None:
    """Import what runs the artifact, the package of its runtime with it."""
    runtime_module(find_artifact(settings.artifact).manifest.runtime.name)


if __name__ == "__main__":
    run(OurEngine, __doc__, import_runtime=import_runtime)

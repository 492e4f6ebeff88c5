"""Logits of one of our artifacts in our own runner, token by token."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.side_by_side.workers.logits import LogitsOf, Settings, collect
from runtimes.artifact import find_artifact
from runtimes.runner import open_runner


def load(settings: Settings) -> LogitsOf:
    runner = open_runner(find_artifact(settings.artifact), settings.threads)

    def logits_of(window: list[int]) -> NDArray[np.float32]:
        runner.reset()
        return np.stack([runner.forward([token]) for token in window])

    return logits_of


if __name__ == "__main__":
    collect(load, __doc__)

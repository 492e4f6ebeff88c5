"""The one way logits are collected: windows of tokens in, an array of logits out, the same for every engine."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["LogitsOf", "collect"]

LogitsOf = Callable[[list[int]], NDArray[np.float32]]
"""From one window's tokens to its logits, (tokens, vocabulary), starting from an empty sequence."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a worker is told on its command line."""

    artifact: Path
    threads: int


def collect(load: Callable[[Settings], LogitsOf], description: str | None) -> None:
    """Run every window through one engine and save the logits as one array."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True, help="JSON: a list of lists of token ids")
    parser.add_argument("--out", type=Path, required=True, help="the .npy to write")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logits_of = load(Settings(artifact=options.artifact, threads=options.threads))
    windows = json.loads(options.windows.read_text())
    np.save(options.out, np.concatenate([logits_of(window) for window in windows]))
    sys.stdout.write("\n" + json.dumps({"positions": sum(len(window) for window in windows)}) + "\n")

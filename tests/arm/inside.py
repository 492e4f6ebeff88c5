"""What runs on the emulated machine, in one process since starting ONNX Runtime there takes ten seconds.

Reads a job (JSON) and writes into its directory `out`: NAME.jsonl, what `python -m runtimes verify` prints of an
artifact; NAME.npy, its logits after each token of the recorded prompt; products.npz, matrix products by kernel choice.
"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnxruntime

from runtimes.artifact import Artifact
from runtimes.cli import main as runtimes_main
from runtimes.reference import load_reference
from runtimes.runner import open_runner

THREADS = 1
KERNELS = {"default": {}, "no_kleidiai": {"mlas.disable_kleidiai": "1"}}


def main(job_file: str) -> None:
    """Do everything that the job asks for."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    out = Path(job["out"])
    if "matrices" in job:
        np.savez(out / "products.npz", **_products(Path(job["matrices"])))
    for name, artifact in job["artifacts"].items():
        _verify(artifact, out / f"{name}.jsonl")
        if artifact["logits"]:
            np.save(out / f"{name}.npy", _logits(Path(artifact["path"])))


def _verify(artifact: dict[str, object], report: Path) -> None:
    options = [] if artifact["stock"] else ["--no-stock"]
    with report.open("w", encoding="utf-8") as file, redirect_stdout(file):
        runtimes_main(["verify", str(artifact["path"]), "--json", "--threads", str(THREADS), *options])


def _logits(path: Path) -> np.ndarray:
    """Logits (tokens, vocab) of the recorded prompt, one token at a time."""
    artifact = Artifact.open(path)
    runner = open_runner(artifact, THREADS)
    return np.stack([runner.forward([int(token)]) for token in load_reference(artifact).cases["prompt"].tokens])


def _products(directory: Path) -> dict[str, np.ndarray]:
    """The output of every model in a directory on the input beside it, for each choice of kernels."""
    found = {}
    for model in sorted(directory.glob("*.onnx")):
        for choice, entries in KERNELS.items():
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = THREADS
            for key, value in entries.items():
                options.add_session_config_entry(key, value)
            session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
            found[f"{model.stem}.{choice}"] = session.run(None, {"x": np.load(model.with_suffix(".npy"))})[0]
    return found


if __name__ == "__main__":
    main(sys.argv[1])

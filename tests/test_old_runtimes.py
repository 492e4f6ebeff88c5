"""Each ONNX profile in the oldest runtime that its manifest names, from the real wheel."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export import catalog
from tests.subjects import quantized, request

pytestmark = pytest.mark.slow

RUN = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
feeds = {
    "input_ids": np.arange(1, 41, dtype=np.int64)[None],
    "attention_mask": np.ones((1, 40), np.int64),
    "position_ids": np.broadcast_to(np.arange(40), (3, 1, 40)).astype(np.int64),
}
for entry in session.get_inputs()[3:]:
    feeds[entry.name] = np.zeros([0 if isinstance(size, str) else size for size in entry.shape], np.float32)
logits = session.run(["logits"], feeds)[0]
print(json.dumps({"version": onnxruntime.__version__, "argmax": int(logits.argmax()), "largest": float(logits.max())}))
"""


def run_with(model: Path, wheel_dir: Path | None) -> dict[str, object]:
    """The answer of one session in a fresh process, with the installed runtime or the one unpacked in `wheel_dir`."""
    paths = [str(wheel_dir)] if wheel_dir is not None else []
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", RUN, str(model)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("backend", [name for name in catalog.names("backends") if name.startswith("onnx")])
def test_the_oldest_runtime_named_opens_and_answers(
    backend: str, fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    module = catalog.load("backends", backend)
    wheels = tmp_path / "wheels"
    version = module.OLDEST_RUNTIME
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(wheels)]
    found = subprocess.run([*pip, f"onnxruntime=={version}"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip(f"pip cannot install onnxruntime {version} here: {found.stderr.strip()[-200:]}")
    store = quantized(fixture_checkpoint("like_4b"), tmp_path / "store", "int4")
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    lowered = module.lower(store, request(store), artifact, lambda *_: None)
    old, new = run_with(artifact / lowered.model_file, wheels), run_with(artifact / lowered.model_file, None)
    assert old["version"] == version
    assert old["argmax"] == new["argmax"]
    assert abs(float(str(old["largest"])) - float(str(new["largest"]))) < 1e-2

"""From training adapters to an artifact that loads them, by the commands a user gives."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from export.cli import main
from export.finetune import FinetuneError
from export.finetune.adapted_artifact import adapt
from export.progress import Silent
from runtimes.artifact import Artifact
from tests.fixtures import TINY

pytestmark = pytest.mark.slow
EXPORT = ["--target", "android", "--backend", "onnx", "--context-length", "64", "--json"]


def logits(artifact: Artifact, adapter: Path | None) -> np.ndarray:
    """Of a few tokens, in ONNX Runtime."""
    options, settings = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(artifact.model_file), options)
    known = {
        "input_ids": np.arange(6)[None],
        "attention_mask": np.ones((1, 6), np.int64),
        "position_ids": np.broadcast_to(np.arange(6), (3, 1, 6)).copy(),
    }
    if adapter is not None:
        loaded = onnxruntime.LoraAdapter()
        loaded.Load(str(adapter))
        settings.add_active_adapter(loaded)
    empty = {
        one.name: np.zeros([axis if isinstance(axis, int) else 0 for axis in one.shape], np.float32)
        for one in session.get_inputs()
        if one.name not in known
    }
    found: np.ndarray = session.run(["logits"], known | empty, settings)[0]
    return found


def test_adapters_are_trained_exported_and_loaded(
    chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora, bundle, adapted = (str(tmp_path / name) for name in ("lora", "bundle", "adapted"))
    train = ["finetune", "--qlora", "--keep-adapters", "--checkpoint", str(TINY), "--data", str(chat), "--steps", "3"]
    assert main([*train, "--nll", "1", "--method", "rtn", "--out", lora, "--json"]) == 0
    assert main([*EXPORT, "--checkpoint", lora, "--method", "recovered", "--out", bundle]) == 0
    capsys.readouterr()
    assert main(["adapters", f"{bundle}/onnx", "--checkpoint", lora, "--out", adapted, "--json"]) == 0
    adapter = Path(json.loads(capsys.readouterr().out)["adapter"])
    plain, taking = Artifact.open(f"{bundle}/onnx"), Artifact.open(f"{adapted}/onnx")
    taking.check_hashes()
    assert taking.manifest.measured.parity is not None
    assert adapter.relative_to(taking.path).as_posix() in {entry.path for entry in taking.manifest.files}
    assert np.array_equal(logits(taking, None), logits(plain, None))
    assert not np.allclose(logits(taking, adapter), logits(plain, None), atol=1e-3)
    with pytest.raises(FinetuneError, match="was not exported with --method recovered from"):
        adapt(Path(bundle) / "onnx", TINY, tmp_path / "other", Silent())

"""The tiny model's float-against-quantized subjects and a real bundle, made once a session."""

from pathlib import Path
from typing import Any

import pytest
import torch

from export.pipeline import export
from export.progress import Silent
from export.quality.subjects import Reference, open_reference
from export.quality.texts import Sequences
from export.quantized import QuantizedCheckpoint
from export.spec import ExportSpec
from tests.subjects import quantized

QUICK: dict[str, Any] = {"scheme": "int4", "method": "rtn", "context_length": 256}
TINY = Path(__file__).parents[2] / "export" / "models" / "tiny"


@pytest.fixture(scope="session")
def reference() -> Reference:
    return open_reference(str(TINY))


@pytest.fixture(scope="session")
def int4(tmp_path_factory: pytest.TempPathFactory) -> QuantizedCheckpoint:
    return quantized(TINY, tmp_path_factory.mktemp("int4"), "int4")


@pytest.fixture(scope="session")
def int8(tmp_path_factory: pytest.TempPathFactory) -> QuantizedCheckpoint:
    return quantized(TINY, tmp_path_factory.mktemp("int8"), "int8")


@pytest.fixture(scope="session")
def sequences(reference: Reference) -> Sequences:
    """Eight sequences of 32 tokens of the tiny model's held-out text."""
    ids = reference.text.encode((TINY / "held_out.txt").read_text())[: 8 * 32]
    tokens = torch.tensor(ids).view(8, 32)
    scored = torch.ones_like(tokens, dtype=torch.bool)
    scored[:, -1] = False
    return Sequences(tokens=tokens, scored=scored, source=(0,) * 8, names=("held out",))


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's ONNX artifact."""
    out = tmp_path_factory.mktemp("artifact")
    export(ExportSpec(target="android", out=out, model="tiny", backends=("onnx",), **QUICK), Silent())
    return out / "onnx"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both Android artifacts of the tiny model."""
    out = tmp_path_factory.mktemp("bundle")
    export(ExportSpec(target="android", out=out, model="tiny", **QUICK), Silent())
    return out

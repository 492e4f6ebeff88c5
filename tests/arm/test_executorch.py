"""The tiny ExecuTorch artifact on aarch64: a lane of its own, since `llama::` operators come only with torch.

XNNPACK quantizes activations alike on both architectures, so the artifact's own reference is the one to meet.
"""

from pathlib import Path

import pytest

from export.cli import main as export_main
from tests.arm.conftest import CACHE
from tests.arm.machine import CPUS, EXECUTORCH_WHEELS, WHEELS, Machine, UnavailableError, pinned, prepare
from tests.arm.runs import run_everywhere
from tests.subjects import CONTEXT

pytestmark = [pytest.mark.arm, pytest.mark.slow]


@pytest.fixture(scope="module")
def torch_machine() -> Machine:
    """The emulated machine with torch and ExecuTorch, or a skip that says what is missing."""
    try:
        return prepare(CACHE, pinned([*WHEELS, *EXECUTORCH_WHEELS]))
    except UnavailableError as error:
        pytest.skip(str(error))


def test_executorch_artifact_verifies_on_arm(torch_machine: Machine, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    options = ["--backend", "executorch", "--scheme", "int4", "--method", "rtn"]
    options += ["--context-length", str(CONTEXT), "--out", str(bundle)]
    assert export_main(["--target", "android", "--model", "tiny", *options]) == 0
    asked = {"int4": {"path": str(bundle / "executorch"), "stock": True, "logits": False}}
    root = tmp_path / "runs"
    root.mkdir()
    runs = run_everywhere(torch_machine, {"artifacts": asked}, root)
    failed = {
        cpu: [check for check in runs[cpu].reports["int4"]["checks"] if check["outcome"] != "passed"] for cpu in CPUS
    }
    assert failed == {cpu: [] for cpu in CPUS}

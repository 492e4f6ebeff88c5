"""One session's work on the emulated machine: export here, run there on each CPU model, at once."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from export import user_cache
from export.cli import main as export_main
from export.decoder import Activations
from export.manifest import file_entries
from export.parity import record_reference
from runtimes.artifact import Artifact
from runtimes.reference import load_reference
from tests.arm.machine import CPUS, WHEELS, Machine, UnavailableError, pinned, prepare
from tests.arm.products import write_models
from tests.arm.runs import Run, run_everywhere
from tests.subjects import CONTEXT, quantized, request

# read before tests/conftest.py moves the caches away: this one is worth keeping
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / user_cache.NAME / "arm"
TINY = Path(__file__).parents[2] / "export" / "models" / "tiny"
# context lengths; a float product costs twenty times an int8 one here, and the prompt is as long as the context allows
CONTEXTS = {"int4": CONTEXT, "int8": 128, "float": 96}
SCHEMES = tuple(CONTEXTS)
# what ONNX Runtime's ARM kernels do to activations; tests/arm/test_kernels.py holds it against single products
ARM_ACTIVATIONS: Mapping[str, Activations] = {
    "int4": Activations(kind="int8_token"),
    "int8": Activations(kind="int8_group", group_cap=32),
    "float": Activations(),
}
FIGURES = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """State what was measured, passed or not."""
    for line in config.stash.get(FIGURES, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> list[str]:
    """Lines to print at the end."""
    return pytestconfig.stash.setdefault(FIGURES, [])


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The emulated machine, or a skip that says what is missing."""
    try:
        return prepare(CACHE, pinned(WHEELS))
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def artifacts(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sealed tiny artifacts by scheme, each with the reference that its ARM kernels must meet."""
    root = tmp_path_factory.mktemp("artifacts")
    return {scheme: _with_arm_reference(_export(scheme, root / scheme), scheme, root) for scheme in SCHEMES}


@pytest.fixture(scope="session")
def matrices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of one MatMulNBits each, and their inputs."""
    return write_models(tmp_path_factory.mktemp("matrices"))


@pytest.fixture(scope="session")
def runs(
    machine: Machine, artifacts: dict[str, Path], matrices: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Run]:
    """Everything that is to be run, on each CPU model."""
    asked = {
        scheme: {"path": str(path), "stock": scheme == "int4", "logits": scheme != "float"}
        for scheme, path in artifacts.items()
    }
    return run_everywhere(machine, {"matrices": str(matrices), "artifacts": asked}, tmp_path_factory.mktemp("runs"))


@pytest.fixture(params=CPUS)
def cpu(request: pytest.FixtureRequest) -> Any:
    """Each CPU model."""
    return request.param


def _export(scheme: str, out: Path) -> Path:
    options = ["--backend", "onnx", "--scheme", scheme, "--method", "rtn"]
    options += ["--context-length", str(CONTEXTS[scheme]), "--out", str(out)]
    assert export_main(["--target", "android", "--model", "tiny", *options]) == 0
    return out / "onnx"


def _with_arm_reference(path: Path, scheme: str, root: Path) -> Path:
    """A copy of an artifact whose reference was recorded with ARM's activation quantization, where that differs."""
    copy = Path(shutil.copytree(path, root / f"{scheme}-arm"))
    artifact = Artifact.open(copy)
    reference = load_reference(artifact)
    if reference.emulation == ARM_ACTIVATIONS[scheme].kind:
        return copy
    store = quantized(TINY, root / "store", scheme)
    prompt = reference.cases["prompt"].tokens.tolist()
    place = artifact.file("reference.safetensors")
    record_reference(store, request(store), ARM_ACTIVATIONS[scheme], prompt, place, lambda *_: None)
    (copy / "manifest.json").unlink()
    resealed = replace(artifact.manifest, files=file_entries(copy))
    (copy / "manifest.json").write_text(resealed.to_json(), encoding="utf-8")
    return copy


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The emulated machine needs the cores more than eager torch does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

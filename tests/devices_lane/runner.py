"""The phone's C++ runner, built from `runtimes/phone` for a machine of the lane and kept in the cache.

ONNX Runtime's library and ExecuTorch's package come from PyPI's wheels in the versions of `requirements.lock`, ONNX
Runtime's C header and nlohmann/json from Debian. ExecuTorch's `llama::` operators are in no wheel for use without
libtorch: they are compiled where the environment names the sources (`operator_sources`).
"""

import hashlib
import importlib.util
import os
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.arm.machine import pinned
from tests.devices_lane.debian import UnavailableError, made_once, run, unpacked
from tests.devices_lane.phone import require

SOURCES = Path(__file__).resolve().parents[2] / "runtimes" / "phone"
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux2014")
COMPILERS = {"x86_64": ("g++", "g++"), "aarch64": ("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")}
EXECUTORCH_SOURCES, TORCHAO_SOURCES = "QWEN_EDGE_EXECUTORCH_SOURCES", "QWEN_EDGE_TORCHAO_SOURCES"
EXECUTORCH_LIBRARIES = ("", "_kernels_optimized", "_kernels_quantized", "_backend_xnnpack", "_threadpool")


@dataclass(frozen=True, kw_only=True)
class OperatorSources:
    """Where ExecuTorch's `llama::` operators are compiled from: checkouts of two repositories."""

    executorch: Path
    torchao: Path


def operator_sources() -> OperatorSources:
    """The checkouts that the environment names, or why there are none."""
    executorch, torchao = (os.environ.get(name) for name in (EXECUTORCH_SOURCES, TORCHAO_SOURCES))
    if not executorch or not torchao:
        raise UnavailableError(
            f"ExecuTorch's wheel lacks the llama:: operators: name checkouts of pytorch/executorch and pytorch/ao by "
            f"{EXECUTORCH_SOURCES} and {TORCHAO_SOURCES} to compile them"
        )
    return OperatorSources(executorch=Path(executorch).resolve(), torchao=Path(torchao).resolve())


def built(runtime: str, architecture: str, cache: Path, operators: OperatorSources | None = None) -> Path:
    """A folder with `runner` and its libraries, as `benchmarks run --runner` takes it."""
    sources = sorted(place for place in SOURCES.rglob("*") if place.suffix in (".cpp", ".h", ".txt", ".cmake"))
    if operators is not None:
        sources += sorted((operators.executorch / "extension" / "llm" / "custom_ops").glob("op_*"))
    digest = hashlib.sha256(b"".join(place.read_bytes() for place in sources)).hexdigest()[:16]
    return made_once(
        cache / f"runner-{runtime}-{architecture}-{digest}",
        lambda work: _build(_parts(runtime, architecture, cache, operators), architecture, work),
    )


def wheel(name: str, architecture: str, cache: Path) -> Path:
    """A wheel of the lock's version for that architecture, unpacked."""
    (requirement,) = pinned([name])
    return made_once(
        cache / f"{requirement}-{architecture}", lambda work: _fetch_wheel(requirement, architecture, work)
    )


def _fetch_wheel(requirement: str, architecture: str, work: Path) -> Path:
    platforms = [f"--platform={platform}_{architecture}" for platform in PLATFORMS]
    python = ["--python-version=3.11", "--implementation=cp", "--abi=cp311", "--only-binary=:all:"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *python, *platforms]
    run([*pip, "--dest", str(work), requirement], work)
    (packed,) = work.glob("*.whl")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(work / "content")
    return work / "content"


def _build(parts: tuple[list[str], dict[str, Path]], architecture: str, work: Path) -> Path:
    compiler, package = COMPILERS[architecture]
    require(compiler, package)
    require("cmake", "cmake")
    require("make", "make")
    options, libraries = parts
    options += ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={architecture}"]
    options += [f"-DCMAKE_CXX_COMPILER={compiler}"]
    build = work / "build"
    build.mkdir()
    run(["cmake", "-S", str(SOURCES), "-B", str(build), "-G", "Unix Makefiles", *options], work)
    run(["cmake", "--build", str(build), "--parallel", "2"], work)
    made = work / "made"
    made.mkdir()
    shutil.copy(build / "runner", made / "runner")
    for name, library in libraries.items():
        shutil.copy(library, made / name)
    return made


def _parts(
    runtime: str, architecture: str, cache: Path, operators: OperatorSources | None
) -> tuple[list[str], dict[str, Path]]:
    """What CMake is told, and which libraries lie beside the runner under which names."""
    include = unpacked("headers", cache) / "usr" / "include"
    options = [f"-DRUNTIME={runtime}", f"-DNLOHMANN_JSON_INCLUDE={include}"]
    package = wheel(runtime, architecture, cache)
    if runtime == "executorch":
        lib = package / "executorch" / "lib"
        names = [f"libexecutorch{part}.so" for part in EXECUTORCH_LIBRARIES]
        if operators is not None:
            options += [f"-DEXECUTORCH_SOURCES={operators.executorch}", f"-DTORCHAO_SOURCES={operators.torchao}"]
            options += [f"-DTORCH_INCLUDE={_torch() / 'include'}"]
        return [*options, f"-DEXECUTORCH_PACKAGE={package / 'executorch'}"], {name: lib / name for name in names}
    found = sorted((package / "onnxruntime" / "capi").glob("libonnxruntime.so.*"))
    if not found:
        raise UnavailableError(f"{package.name} has no libonnxruntime.so: build the runner with another")
    options += [f"-DONNXRUNTIME_INCLUDE={include / 'onnxruntime'}", f"-DONNXRUNTIME_LIBRARY={found[0]}"]
    return options, {"libonnxruntime.so.1": found[0]}


def _torch() -> Path:
    """The folder of this environment's torch; its headers are the same for every processor."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent

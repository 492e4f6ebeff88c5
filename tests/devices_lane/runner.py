"""The phone's C++ runner, built from `runtimes/phone` for a machine of the lane and kept in the cache.

ONNX Runtime's library and ExecuTorch's package come from PyPI's wheels in the versions of `requirements.lock`, ONNX
Runtime's C header and nlohmann/json from Debian.
"""

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path

from filelock import FileLock

from tests.arm.machine import pinned
from tests.devices_lane.debian import UnavailableError, run, unpacked
from tests.devices_lane.phone import require

SOURCES = Path(__file__).resolve().parents[2] / "runtimes" / "phone"
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux2014")
COMPILERS = {"x86_64": ("g++", "g++"), "aarch64": ("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")}
EXECUTORCH_LIBRARIES = ("", "_kernels_optimized", "_kernels_quantized", "_backend_xnnpack", "_threadpool")


def built(runtime: str, architecture: str, cache: Path) -> Path:
    """A folder with `runner` and its libraries, as `benchmarks run --runner` takes it."""
    sources = sorted(place for place in SOURCES.rglob("*") if place.suffix in (".cpp", ".h", ".txt", ".cmake"))
    digest = hashlib.sha256(b"".join(place.read_bytes() for place in sources)).hexdigest()[:16]
    place = cache / f"runner-{runtime}-{architecture}-{digest}"
    with FileLock(cache / f".runner-{runtime}-{architecture}.lock"):
        if not place.exists():
            partial = cache / f".runner-{runtime}-{architecture}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            try:
                _build(runtime, architecture, cache, partial).rename(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return place


def wheel(name: str, architecture: str, cache: Path) -> Path:
    """A wheel of the lock's version for that architecture, unpacked."""
    (requirement,) = pinned([name])
    place = cache / f"{requirement}-{architecture}"
    with FileLock(cache / f".{name}-{architecture}.lock"):
        if not place.exists():
            partial = cache / f".{name}-{architecture}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                platforms = [f"--platform={platform}_{architecture}" for platform in PLATFORMS]
                python = ["--python-version=3.11", "--implementation=cp", "--abi=cp311", "--only-binary=:all:"]
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *python, *platforms]
                run([*pip, "--dest", str(partial), requirement], partial)
                (packed,) = partial.glob("*.whl")
                with zipfile.ZipFile(packed) as archive:
                    archive.extractall(partial / "content")
                (partial / "content").rename(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return place


def _build(runtime: str, architecture: str, cache: Path, work: Path) -> Path:
    compiler, package = COMPILERS[architecture]
    require(compiler, package)
    require("cmake", "cmake")
    require("make", "make")
    options, libraries = _parts(runtime, architecture, cache)
    options += ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={architecture}"]
    options += [f"-DCMAKE_CXX_COMPILER={compiler}", f"-DRUNTIME={runtime}"]
    build = work / "build"
    build.mkdir(parents=True)
    run(["cmake", "-S", str(SOURCES), "-B", str(build), "-G", "Unix Makefiles", *options], work)
    run(["cmake", "--build", str(build), "--parallel", "2"], work)
    made = work / "made"
    made.mkdir()
    shutil.copy(build / "runner", made / "runner")
    for name, library in libraries.items():
        shutil.copy(library, made / name)
    return made


def _parts(runtime: str, architecture: str, cache: Path) -> tuple[list[str], dict[str, Path]]:
    """What CMake is told, and which libraries lie beside the runner under which names."""
    include = unpacked("headers", cache) / "usr" / "include"
    options = [f"-DNLOHMANN_JSON_INCLUDE={include}"]
    package = wheel(runtime, architecture, cache)
    if runtime == "executorch":
        lib = package / "executorch" / "lib"
        names = [f"libexecutorch{part}.so" for part in EXECUTORCH_LIBRARIES]
        return [*options, f"-DEXECUTORCH_PACKAGE={package / 'executorch'}"], {name: lib / name for name in names}
    found = sorted((package / "onnxruntime" / "capi").glob("libonnxruntime.so.*"))
    if not found:
        raise UnavailableError(f"{package.name} has no libonnxruntime.so: build the runner with another")
    options += [f"-DONNXRUNTIME_INCLUDE={include / 'onnxruntime'}", f"-DONNXRUNTIME_LIBRARY={found[0]}"]
    return options, {"libonnxruntime.so.1": found[0]}

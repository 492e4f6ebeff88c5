"""ONNX Runtime's own Java library, built here: Java and C sources from Debian, the runtime itself from PyPI's wheel.

Maven's library cannot be had without network, but what it is made of can. The C API is stable from version to version,
so the binding of 1.21 runs on the runtime that `requirements.lock` pins, with all its operators.
"""

import hashlib
import shutil
import tarfile
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import onnxruntime
from filelock import FileLock

from tests.apps.kotlin import compile_java, run
from tests.devices_lane.debian import MIRROR, UnavailableError

SOURCE = f"{MIRROR}/pool/main/o/onnxruntime/onnxruntime_1.21.0+dfsg.orig.tar.xz"  # trixie
SOURCE_SHA256 = "32df1f82bd6b07b18372c0f387133214905cbde7a586b3ad83f0ed0075f80273"
ROOT = "onnxruntime-1.21.0"
WANTED = (f"{ROOT}/java/src/main/", f"{ROOT}/include/")
TIMEOUT_S = 300
LIBRARY, BINDING = "libonnxruntime.so", "libonnxruntime4j_jni.so"


def java_library(cache: Path) -> Path:
    """A folder with the Java classes and, in `lib`, the native libraries; made on first use."""
    place = cache / f"onnxruntime-java-{version('onnxruntime')}-{SOURCE_SHA256[:8]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".onnxruntime-java.lock"):
        if not place.exists():
            partial = place.with_name(f".{place.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                _build(partial)
                (partial / "made").rename(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return place


def _build(work: Path) -> None:
    source = _sources(work)
    classes, headers, libraries = work / "made" / "classes", work / "headers", work / "made" / "lib"
    libraries.mkdir(parents=True)
    headers.mkdir()
    java = source / "java" / "src" / "main"
    compile_java([*(java / "java").rglob("*.java"), *(java / "jvm").rglob("*.java")], classes, headers=headers)
    (headers / "onnxruntime_config.h").write_text(f'#define ORT_VERSION "{version("onnxruntime")}"\n')
    wheel = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    shutil.copy(wheel, libraries / LIBRARY)
    (libraries / f"{LIBRARY}.1").symlink_to(LIBRARY)
    jdk = Path(shutil.which("javac") or "").resolve().parents[1] / "include"
    include = source / "include"
    folders = [jdk, jdk / "linux", source, include, include / "onnxruntime"]
    folders += [include / "onnxruntime" / "core" / "session", headers]
    c_sources = [place for place in (java / "native").glob("*.c") if "Training" not in place.name]
    words = ["gcc", "-shared", "-fPIC", "-O1", "-w", *(f"-I{folder}" for folder in folders), "-o"]
    words += [str(libraries / BINDING), *map(str, c_sources), str(libraries / LIBRARY), "-Wl,-rpath,$ORIGIN"]
    done = run(words)
    if done.returncode:
        raise UnavailableError(f"gcc could not build ONNX Runtime's Java binding: {done.stderr[-500:]}")


def _sources(work: Path) -> Path:
    archive = work / "source.tar.xz"
    try:
        with urllib.request.urlopen(SOURCE, timeout=TIMEOUT_S) as answer, archive.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, urllib.error.URLError) as error:
        raise UnavailableError(f"{SOURCE} cannot be fetched: {error}; pin the version that Debian has now") from error
    with archive.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SOURCE_SHA256:
            raise UnavailableError(f"{SOURCE} is not the one that was pinned")
    with tarfile.open(archive) as packed:
        packed.extractall(work, [member for member in packed if member.name.startswith(WANTED)], filter="data")
    return work / ROOT

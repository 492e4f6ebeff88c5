"""The Kotlin compiler and JUnit, fetched once into the user's cache: what a machine without the Android SDK can check.

The compiler comes from npm (JetBrains publishes the whole of kotlinc there), JUnit from Debian. Both are pinned by
hash. Where one cannot be had, `UnavailableError` says why, and the tests that need it are skipped with that reason.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from tests.devices_lane import debian

KOTLIN = "2.4.20"  # the version in android_demo/gradle/libs.versions.toml
KOTLIN_SHA512 = "IF5IVM7LpPhA/ntHQQpaVt1yxpaaQovtEVYLyqWMuaLr0XelLPPm7/sM6HLhtcRjjjoSsK7I7lP2kzYJkMy73w=="
CLASSES = ("kotlin-compiler", "kotlin-stdlib", "kotlin-reflect", "kotlinx-coroutines-core-jvm", "annotations-13.0")
JVM_TARGET = "17"
MINUTES = 60
HEAP = "-Xmx2g"


class KotlinError(Exception):
    """What the compiler said."""


class Kotlin:
    """The compiler and the libraries of the tests."""

    def __init__(self, compiler: Path, junit: Path) -> None:
        self._libraries = compiler / "lib"
        self.home = compiler
        self.stdlib = self._libraries / "kotlin-stdlib.jar"
        java = junit / "usr" / "share" / "java"
        self.test_libraries = [
            self._libraries / "kotlin-test.jar",
            self._libraries / "kotlin-test-junit.jar",
            java / "junit4.jar",
            java / "hamcrest.jar",
        ]

    def compile(self, sources: Sequence[Path], target: Path, classpath: Sequence[Path] = ()) -> None:
        """Compile Kotlin; a warning is an error."""
        classes = os.pathsep.join(str(self._libraries / f"{name}.jar") for name in CLASSES)
        done = run([
            "java", HEAP, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classes,
            "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-kotlin-home", str(self.home), "-Werror", "-no-reflect",
            "-jvm-target", JVM_TARGET, "-classpath", joined(classpath), "-d", str(target), *map(str, sources),
        ])  # fmt: skip
        if done.returncode:
            raise KotlinError(done.stdout + done.stderr)

    def run_tests(
        self, classes: Path, classpath: Sequence[Path], properties: Sequence[str] = (), only: str = "*Test"
    ) -> str:
        """Run the classes of tests below a folder; what JUnit printed, failures included."""
        names = [".".join(file.relative_to(classes).with_suffix("").parts) for file in classes.rglob(f"{only}.class")]
        path = joined([classes, *classpath, self.stdlib, *self.test_libraries])
        done = run(["java", HEAP, *properties, "-cp", path, "org.junit.runner.JUnitCore", *sorted(names)])
        return done.stdout + done.stderr


def compile_java(sources: Sequence[Path], target: Path, headers: Path | None = None) -> None:
    """Compile Java, quietly; `headers` is where those of native methods go."""
    target.mkdir(parents=True, exist_ok=True)
    words = ["javac", "-nowarn", "-proc:none", "-Xlint:none", "-d", str(target)]
    if headers is not None:
        words += ["-h", str(headers)]
    done = run([*words, *map(str, sources)])
    if done.returncode:
        raise KotlinError(done.stdout + done.stderr)


def open_kotlin(cache: Path) -> Kotlin:
    """The compiler in the cache, fetched on first use."""
    for tool in ("java", "javac", "npm"):
        if shutil.which(tool) is None:
            raise debian.UnavailableError(f"no {tool} here; install a JDK 17 and npm (apt install default-jdk npm)")
    return Kotlin(_compiler(cache), debian.unpacked("junit", cache))


def run(words: Sequence[str], directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(words, cwd=directory, capture_output=True, text=True, timeout=MINUTES * 60, check=False)


def joined(places: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, places))


def _compiler(cache: Path) -> Path:
    place = cache / f"kotlin-compiler-{KOTLIN}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".kotlin.lock"):
        if not place.exists():
            _fetch_compiler(place)
    return place


def _fetch_compiler(place: Path) -> None:
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        done = run(["npm", "pack", "--silent", f"kotlin-compiler@{KOTLIN}"], partial)
        archives = list(partial.glob("*.tgz"))
        if done.returncode or not archives:
            raise debian.UnavailableError(f"npm could not fetch kotlin-compiler {KOTLIN}: {done.stderr.strip()[-500:]}")
        if base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode() != KOTLIN_SHA512:
            raise debian.UnavailableError(f"{archives[0].name} is not the one that was pinned in tests/apps/kotlin.py")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(partial, filter="data")
        (partial / "package").rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

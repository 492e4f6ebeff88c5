"""What the tests of the apps share: the compiler, and classes compiled once a session."""

import os
import shutil
from pathlib import Path

import pytest

from tests.apps import android_api, resources
from tests.apps.kotlin import Kotlin, compile_java, open_kotlin
from tests.apps.sources import ANDROID_DEMO, ANDROID_SOURCES, ENGINES, JVM_MODULES, kotlin_files, main_sources
from tests.devices_lane.debian import UnavailableError

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qwen-edge" / "apps"  # before tests move it
STUBS = Path(__file__).with_name("stubs")
PACKAGE = "org.qwenedge.demo"


@pytest.fixture(scope="session")
def kotlin() -> Kotlin:
    """The Kotlin compiler; where it cannot be had, the reason is what is skipped with."""
    try:
        return open_kotlin(CACHE)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def android(kotlin: Kotlin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes of Android 14's API, and what Android's build would make of the app's resources."""
    sources = tmp_path_factory.mktemp("android")
    app = ANDROID_DEMO / "app"
    java = {
        **android_api.java_stubs(android_api.parse(android_api.CUT.read_text(encoding="utf-8"))),
        "R.java": resources.r_class(PACKAGE, app / "src" / "main" / "res"),
        "BuildConfig.java": resources.build_config(PACKAGE, app / "build.gradle.kts"),
    }
    for name, text in java.items():
        place = sources / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    classes = tmp_path_factory.mktemp("android-classes")
    compile_java([*sources.rglob("*.java"), *(STUBS / "android").rglob("*.java")], classes)
    return classes


@pytest.fixture(scope="session")
def engine_stubs(kotlin: Kotlin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes with the signatures of both engines' libraries."""
    classes = tmp_path_factory.mktemp("engines")
    compile_java(list((STUBS / "onnxruntime").rglob("*.java")), classes)
    kotlin.compile(list((STUBS / "executorch").rglob("*.kt")), classes)
    return classes


@pytest.fixture(scope="session")
def library(kotlin: Kotlin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules that need neither Android nor an engine."""
    classes = tmp_path_factory.mktemp("library")
    kotlin.compile(main_sources(*JVM_MODULES), classes)
    return classes


@pytest.fixture(scope="session")
def app(
    kotlin: Kotlin, library: Path, android: Path, engine_stubs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Engines, probe and app, checked against the signatures of what they call."""
    classes = tmp_path_factory.mktemp("app")
    sources = [*main_sources(*ENGINES), *kotlin_files(*(place / "kotlin" for place in ANDROID_SOURCES))]
    kotlin.compile(sources, classes, [library, android, engine_stubs])
    return classes


@pytest.fixture(scope="session")
def compiler_is_there() -> None:
    """Skip where a test needs the machine's C compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here; install it (apt install gcc)")

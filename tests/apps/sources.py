"""The sources of the apps, by language and module."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANDROID_LIBRARY = ROOT / "runtimes" / "android"
ANDROID_DEMO = ROOT / "android_demo"
JVM_MODULES = ("core", "engine-api")
ENGINES = ("engine-onnxruntime", "engine-executorch")
# what sees Android's own classes
ANDROID_SOURCES = (ANDROID_LIBRARY / "probe" / "src" / "main", ANDROID_DEMO / "app" / "src" / "main")


def kotlin_files(*places: Path) -> list[Path]:
    """Every Kotlin file below some folders, build scripts included."""
    return sorted(file for place in places for ending in ("*.kt", "*.kts") for file in place.rglob(ending))


def swift_files(*places: Path) -> list[Path]:
    """Every Swift file below some folders."""
    return sorted(file for place in places for file in place.rglob("*.swift"))


def main_sources(*modules: str) -> list[Path]:
    """What a library's modules are made of."""
    return kotlin_files(*(ANDROID_LIBRARY / module / "src" / "main" for module in modules))


def sources_of_tests(*modules: str) -> list[Path]:
    """The tests of some modules."""
    return kotlin_files(*(ANDROID_LIBRARY / module / "src" / "test" for module in modules))

"""The Android library and app: compiled without a warning, tested on the JVM, and checked against real signatures.

Minutes of a CPU, and a compiler of 90 MB fetched once: `make test-apps`.
"""

import re
from pathlib import Path

import pytest

from benchmarks.stream import parse_stream
from export.qwen_tokenizer import tokenizer_json
from tests.apps.kotlin import Kotlin, KotlinError
from tests.apps.sources import JVM_MODULES, sources_of_tests

pytestmark = pytest.mark.slow

WRONG_NAMES = {
    "android": "fun wrong(power: android.os.PowerManager) = power.thermalHeadroomOfToday",
    "onnxruntime": "fun wrong(session: ai.onnxruntime.OrtSession) = session.runWithBinding()",
    "executorch": "fun wrong(module: org.pytorch.executorch.Module) = module.forwardTokens(longArrayOf(1))",
    "our own library": "fun wrong(engine: org.qwenedge.engine.Engine) = engine.prefillAll()",
    "a resource": "fun wrong() = org.qwenedge.demo.R.string.no_such_string",
    "null": "fun wrong(intent: android.content.Intent): Int = intent.getStringExtra(\"x\").length",
}  # fmt: skip


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real tokenizer of Qwen3.5."""
    place = tmp_path_factory.mktemp("qwen") / "tokenizer.json"
    place.write_bytes(tokenizer_json())
    return place


@pytest.fixture(scope="session")
def junit(kotlin: Kotlin, library: Path, qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What JUnit said of every test, and the stream that the benchmark's test has written."""
    classes = tmp_path_factory.mktemp("tests")
    kotlin.compile(sources_of_tests(*JVM_MODULES), classes, [library, *kotlin.test_libraries])
    stream = tmp_path_factory.mktemp("stream") / "events.jsonl"
    properties = [f"-Dqwen.tokenizer={qwen}", f"-Dbenchmark.stream={stream}"]
    return kotlin.run_tests(classes, [library], properties), stream


def test_every_test_in_kotlin_passes(junit: tuple[str, Path]) -> None:
    said, _ = junit
    passed = re.search(r"^OK \((\d+) tests\)$", said, re.MULTILINE)
    assert passed, said[-5000:]
    written = sum(file.read_text(encoding="utf-8").count("@Test") for file in sources_of_tests(*JVM_MODULES))
    assert int(passed[1]) == written


def test_a_stream_of_the_app_is_one_of_the_device_lab(junit: tuple[str, Path]) -> None:
    _, place = junit
    stream = parse_stream(place.read_bytes())
    assert stream.complete
    assert stream.start.series == "app"
    assert [case.name for case in stream.timeline.cases] == ["warm-p8", "memory-p3"]
    assert [len(case.generations) for case in stream.timeline.cases] == [2, 1]


def test_the_app_and_its_engines_compile_against_real_signatures(app: Path) -> None:
    assert (app / "org" / "qwenedge" / "demo" / "MainActivity.class").is_file()
    assert (app / "org" / "qwenedge" / "engine" / "executorch" / "ExecuTorchFactory.class").is_file()


def test_every_wrong_name_is_caught(
    kotlin: Kotlin, library: Path, android: Path, engine_stubs: Path, tmp_path: Path
) -> None:
    """One compilation of many mistakes, each of which has to be reported."""
    for number, (_, text) in enumerate(WRONG_NAMES.items()):
        (tmp_path / f"Wrong{number}.kt").write_text(f"package wrong{number}\n{text}\n")
    with pytest.raises(KotlinError) as caught:
        kotlin.compile(sorted(tmp_path.glob("*.kt")), tmp_path / "out", [library, android, engine_stubs])
    unnoticed = [name for number, name in enumerate(WRONG_NAMES) if f"Wrong{number}.kt:2" not in str(caught.value)]
    assert not unnoticed


def test_a_deprecated_call_is_caught(kotlin: Kotlin, android: Path, tmp_path: Path) -> None:
    place = tmp_path / "Old.kt"
    place.write_text("fun old(context: android.content.Context) = context.getWallpaper()\n")
    with pytest.raises(KotlinError, match="deprecated"):
        kotlin.compile([place], tmp_path / "out", [android])

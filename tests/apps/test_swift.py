"""The Swift package and the iOS app: compiled without a warning, tested, and held against signatures of what they call.

`swift test` runs the core with every golden vector and every fault; adapters are compiled with modules of signatures in
place of Apple's and ExecuTorch's (`stubs/apple`); the app itself is parsed by the real compiler. Minutes of a CPU, and
a toolchain of 526 MB fetched once: `make test-apps`.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.stream import parse_stream
from tests.apps.sources import ROOT, swift_files
from tests.apps.swift_toolchain import Swift, swift_toolchain
from tests.devices_lane.debian import UnavailableError
from tools.golden import qwen_tokenizer

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "runtimes" / "ios"
SOURCES = PACKAGE / "Sources"
EXECUTORCH = PACKAGE / "ExecuTorchEngine" / "Sources" / "QwenEdgeExecuTorch"
APP = ROOT / "ios_demo" / "App"
STUBS = Path(__file__).with_name("stubs") / "apple"
STRICT = ("-swift-version", "6", "-warnings-as-errors", "-parse-as-library", "-package-name", "qwenedge")
# lines that only the real modules could accept, each in a module that imports one of the stubs
WRONG_NAMES = {
    "CoreML": "import CoreML\nfunc wrong(model: MLModel) { _ = model.newStateOfToday() }",
    "CoreML argument": "import CoreML\nfunc wrong(model: MLModel) throws { _ = try model.prediction(from: 1) }",
    "CoreAI": "import CoreAI\nfunc wrong(model: AIModel) { _ = model.loadEverything() }",
    "ExecuTorch": "import ExecuTorch\nfunc wrong(module: Module) { module.forwardTokens([1]) }",
    "our own library": "import QwenEdgeCore\nfunc wrong(engine: any Engine) { engine.prefillAll() }",
}


@pytest.fixture(scope="session")
def swift() -> Swift:
    """The toolchain; where it cannot be had, the reason is what is skipped with."""
    try:
        return swift_toolchain()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def modules(swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled: the signatures of Apple's and ExecuTorch's modules, and the core on top of them."""
    place = tmp_path_factory.mktemp("modules")
    for stub in sorted(STUBS.glob("*.swift")):
        emit = ["-emit-module", "-module-name", stub.stem, "-emit-module-path", str(place / f"{stub.stem}.swiftmodule")]
        run_compiler(swift, place, ["-swift-version", "6", "-parse-as-library", *emit, str(stub)])
    emit = ["-emit-module", "-emit-module-path", str(place / "QwenEdgeCore.swiftmodule")]
    compile_module(swift, place, "QwenEdgeCore", swift_files(SOURCES / "QwenEdgeCore"), emit)
    return place


def run_compiler(swift: Swift, directory: Path, arguments: Sequence[str]) -> str:
    """What the compiler says; a failure of it is a failure of the test."""
    done = swift.run(["swiftc", *arguments], directory=directory, shared=[ROOT])
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    return done.stdout + done.stderr


def compile_module(swift: Swift, modules: Path, name: str, files: Sequence[Path], arguments: Sequence[str] = ()) -> str:
    """Compile a module to machine code (races between threads show only then), with those made before in sight."""
    whole = ["-wmo", "-Onone", "-c", "-o", str(modules / f"{name}.o"), "-module-name", name, "-I", str(modules)]
    return run_compiler(swift, modules, [*STRICT, *whole, *arguments, *map(str, files)])


@pytest.fixture(scope="session")
def tested(swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `swift test` said of every test, and the stream that the benchmark's test has written."""
    work = tmp_path_factory.mktemp("swift")
    package = work / "package"
    shutil.copytree(PACKAGE, package)
    qwen = work / "qwen.json"
    qwen.write_bytes(qwen_tokenizer.tokenizer_json())
    stream = work / "events.jsonl"
    done = swift.run(
        ["swift", "test", "--package-path", str(package), "--disable-sandbox", "--scratch-path", str(work / "build"),
         "-Xswiftc", "-warnings-as-errors"],
        directory=work,
        shared=[ROOT],
        environment={
            "QWEN_EDGE_ROOT": str(ROOT), "QWEN_EDGE_TOKENIZER": str(qwen), "QWEN_EDGE_STREAM": str(stream),
        },
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    return done.stdout + done.stderr, stream


def test_every_test_in_swift_passes(tested: tuple[str, Path]) -> None:
    said, _ = tested
    executed = re.findall(r"Executed (\d+) tests?, with 0 failures", said)
    written = sum(len(re.findall(r"func test\w+\(", file.read_text())) for file in swift_files(PACKAGE / "Tests"))
    assert max(map(int, executed)) == written
    assert "skipped" not in said


def test_a_stream_of_the_app_is_one_of_the_device_lab(tested: tuple[str, Path]) -> None:
    _, place = tested
    stream = parse_stream(place.read_bytes())
    assert stream.complete
    assert stream.start.series == "app"


def test_the_core_compiles_with_apples_hash(modules: Path) -> None:
    assert (modules / "QwenEdgeCore.swiftmodule").is_file()


@pytest.mark.parametrize("name", ["QwenEdgeCoreML", "QwenEdgeCoreAI", "QwenEdgeExecuTorch"])
def test_an_adapter_compiles_against_signatures(swift: Swift, modules: Path, name: str) -> None:
    folder = EXECUTORCH if name == "QwenEdgeExecuTorch" else SOURCES / name
    compile_module(swift, modules, name, swift_files(folder))
    symbols = subprocess.run(["nm", str(modules / f"{name}.o")], check=True, capture_output=True, text=True).stdout
    assert "Factory" in symbols, "canImport hid the adapter"


def test_every_wrong_name_is_caught(swift: Swift, modules: Path, tmp_path: Path) -> None:
    for name, text in WRONG_NAMES.items():
        place = tmp_path / "Wrong.swift"
        place.write_text(text + "\n")
        done = swift.run(
            ["swiftc", "-swift-version", "6", "-typecheck", "-I", str(modules), str(place)],
            directory=tmp_path,
            shared=[modules],
        )
        assert done.returncode != 0, name
        assert "error:" in done.stderr, name


def test_the_app_is_parsed_by_the_compiler(swift: Swift, tmp_path: Path) -> None:
    files = list(map(str, swift_files(APP)))
    assert len(files) > 10
    run_compiler(swift, tmp_path, ["-frontend", "-parse", *files])

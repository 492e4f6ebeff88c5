"""The app's ONNX engine on the real ONNX Runtime, on this machine's JVM: the same chat as our Python runner has."""

import base64
import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from export.spec import ExportSpec
from runtimes.artifact import Artifact
from runtimes.chat import Conversation
from runtimes.generate import Settings
from runtimes.runner import open_runner
from runtimes.template import load_template
from runtimes.tokenizer import load_tokenizer
from runtimes.vision.prepare import prepared
from runtimes.vision.prompt import SeeingRunner
from tests.apps.conftest import CACHE
from tests.apps.kotlin import Kotlin
from tests.apps.onnxruntime_java import java_library
from tests.apps.sources import JVM_MODULES, main_sources, sources_of_tests
from tests.devices_lane.debian import UnavailableError
from tests.exports import exported
from tools.golden import recording
from tools.golden.files import FOLDER

pytestmark = pytest.mark.slow

REAL_ENGINE = Path(__file__).with_name("RealEngineTest.kt")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The trained tiny model in ONNX."""
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    bundle, _ = exported(ExportSpec(target="android", out=out, model="tiny", backends=("onnx",), method="rtn"))
    return bundle.artifacts["onnx"]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same with its vision tower."""
    out = tmp_path_factory.mktemp("bundle") / "seeing"
    spec = ExportSpec(
        target="android", out=out, model="tiny", backends=("onnx",), method="rtn", modality="image", context_length=512
    )
    bundle, _ = exported(spec)
    return bundle.artifacts["onnx"]


@pytest.fixture(scope="module")
def binding(compiler_is_there: None) -> Path:
    """ONNX Runtime's Java library, or the reason why it is not here."""
    try:
        return java_library(CACHE)
    except UnavailableError as error:
        pytest.skip(str(error))


def test_the_engine_says_on_the_real_runtime_what_python_says(
    kotlin: Kotlin, library: Path, binding: Path, tiny: Artifact, seeing: Artifact, tmp_path: Path
) -> None:
    classes, tests = tmp_path / "classes", tmp_path / "tests"
    kotlin.compile(main_sources("engine-onnxruntime"), classes, [library, binding / "classes"])
    helpers = [file for file in sources_of_tests(*JVM_MODULES) if not file.stem.endswith("Test")]
    path = [library, classes, binding / "classes", *kotlin.test_libraries]
    kotlin.compile([*helpers, REAL_ENGINE], tests, path)
    answers, seen = tmp_path / "answers.json", tmp_path / "seen.json"
    said = kotlin.run_tests(
        tests,
        [library, classes, binding / "classes"],
        [
            f"-Donnxruntime.native.path={binding / 'lib'}",
            f"-Donnxruntime.artifact={tiny.path}",
            f"-Donnxruntime.answers={answers}",
            f"-Donnxruntime.seeing={seeing.path}",
            f"-Donnxruntime.seen={seen}",
        ],
        only="RealEngineTest",
    )
    assert "OK (6 tests)" in said, said[-4000:]
    runner = open_runner(tiny)
    played = recording.play(runner, load_tokenizer(tiny.tokenizer_file), tiny.manifest.eos_token_ids)
    expected = [{"tokens": step.get("tokens", []), "text": "".join(step.get("pieces", []))} for step in played]
    assert json.loads(answers.read_text(encoding="utf-8")) == expected
    runner.close()
    assert json.loads(seen.read_text(encoding="utf-8")) == seen_by_python(seeing)


def seen_by_python(artifact: Artifact) -> list[list[int]]:
    """The tokens that our Python runner says about the first golden picture."""
    picture = json.loads((FOLDER / "images.json").read_text(encoding="utf-8"))["images"][0]
    pixels = np.frombuffer(base64.b64decode(picture["rgb"]), np.uint8).reshape(picture["height"], picture["width"], 3)
    runner = cast(SeeingRunner, open_runner(artifact, threads=1))
    images = [runner.see(image) for image in prepared([pixels], runner.vision.images)]
    conversation = Conversation(
        runner=runner,
        tokenizer=load_tokenizer(artifact.tokenizer_file),
        template=load_template(artifact),
        settings=Settings(eos_token_ids=artifact.manifest.eos_token_ids, max_tokens=8),
        options={"enable_thinking": False},
    )
    first = [piece.token for piece in conversation.say("What is this?", images)]
    second = [piece.token for piece in conversation.say("And now?")]
    return [[token for token in said if token is not None] for said in (first, second)]

"""The tiny model reads words in a font that its tower was not trained on, and as int8 as well as in float."""

from pathlib import Path

import pytest
import torch

from export.models.tiny import reading
from export.pipeline import export
from export.progress import Silent
from runtimes.artifact import Artifact
from tests.exports import small_spec
from tests.fixtures import TINY
from tools.measure_reading import Answer, by_artifact, by_transformers, pictures, right

COUNT = 400
LEAST = 0.85  # the share of right answers below which the tower counts as untrained; measured: docs/vision.md


# ExecuTorch's eyes are held to eager torch elsewhere; that it reads is a minute's export more
@pytest.fixture(scope="module", params=["onnx", pytest.param("executorch", marks=pytest.mark.slow)])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out, name = tmp_path_factory.mktemp("reading"), request.param
    export(small_spec(out, TINY, modality="image", scheme="int8", context_length=256, backends=(name,)), Silent())
    return Artifact.open(out / name)


def score(answer: Answer, count: int) -> int:
    return sum(right(answer(picture), picture) for picture in pictures(count))


def test_the_artifact_answers_what_a_picture_says(artifact: Artifact) -> None:
    assert score(by_artifact(artifact), 3 * len(reading.WORDS)) >= LEAST * 3 * len(reading.WORDS)


@pytest.mark.slow  # transformers takes a second a picture on a busy machine
def test_the_int8_tower_reads_within_one_point_of_the_float_checkpoint(artifact: Artifact) -> None:
    torch.set_num_threads(1)
    as_float, as_int8 = (score(answer, COUNT) for answer in (by_transformers(artifact), by_artifact(artifact)))
    assert abs(as_float - as_int8) <= COUNT / 100
    assert as_float >= LEAST * COUNT


def test_a_picture_is_told_by_its_word_alone() -> None:
    """Every word in turn, on every canvas, drawn the same whenever it is drawn."""
    first, again = pictures(60), pictures(60)
    assert [picture.word for picture in first[:20]] == list(reading.WORDS)
    assert {picture.image.size for picture in first} == set(reading.CANVASES)
    assert all(one.image.tobytes() == other.image.tobytes() for one, other in zip(first, again, strict=True))


def test_an_answer_is_right_only_with_the_word_itself() -> None:
    cow = next(picture for picture in pictures(20) if picture.word == "cow")
    assert right("You have a cow.", cow)
    assert not right("You have a crow.", cow)


def test_the_training_never_sees_the_font_of_the_judgement() -> None:
    assert not any("aileron" in Path(file).stem.lower() for file in reading.training_fonts((Path("/usr/share/fonts"),)))

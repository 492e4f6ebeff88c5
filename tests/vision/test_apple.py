"""Core ML and Core AI artifacts that see: prompts with images through our runner against eager torch, same codes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export import catalog
from export.decoder import Activations
from export.errors import UnsupportedSchemeError
from export.manifest import Hashes, artifact_manifest, file_entries, write_unsealed
from export.models.tiny.reading import CANVASES, HELD_OUT, QUESTION, draw_word
from export.parity import record_reference
from export.pipeline import quantize, read_inputs
from export.plan import make_plan
from export.progress import Silent
from export.quantized import QuantizedCheckpoint
from export.spec import ExportSpec
from export.text_files import copy_text_files
from export.vision.request import VisionRequest
from runtimes.artifact import Artifact
from runtimes.chat import expand_images, user_message
from runtimes.errors import ImageError, SnapshotError
from runtimes.reference import load_reference
from runtimes.runner import open_runner
from runtimes.template import load_template
from runtimes.tokenizer import load_tokenizer
from runtimes.verify import Subject, _views
from runtimes.vision.fed import FedSeeingRunner
from runtimes.vision.positions import TokenGrid
from runtimes.vision.prepare import prepared
from runtimes.vision.prompt import SeenImage, make_prompt
from runtimes.vision.spec import PatchedImage
from tests.fixtures import TINY
from tests.subjects import request
from tests.vision.eager import Eager, greedy

STEPS, CONTEXT = 32, 256
ERROR = 0.05  # of a logit
NEEDS = {"coreml": "coremltools", "coreai": "coreai"}
NEXT = "<|im_end|>\n<|im_start|>user\nAnd what did the old man say?<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, kw_only=True)
class Made:
    """An artifact with the codes and the tower that it was made from; not verified, which takes longer than this."""

    artifact: Artifact
    store: QuantizedCheckpoint
    vision: VisionRequest


@pytest.fixture(scope="module", params=["coreml", "coreai"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    backend = request.param
    pytest.importorskip(NEEDS[backend], reason=f"needs {NEEDS[backend]}, of this project's extra {backend!r}")
    return make(backend, tmp_path_factory.mktemp(backend))


def make(backend: str, folder: Path) -> Made:
    settings: dict[str, Any] = {"modality": "image", "scheme": "int8", "method": "rtn", "context_length": CONTEXT}
    spec = ExportSpec(target="ios", out=folder, checkpoint=str(TINY), backends=(backend,), **settings)
    plan = make_plan(spec)
    (build,) = plan.builds
    inputs = read_inputs(plan, Silent())
    store, vision = quantize(inputs, build, Silent()), inputs.vision(build)
    assert vision is not None
    lowered = build.module.lower(store, replace(request(store, CONTEXT), vision=vision), folder, lambda *_: None)
    copy_text_files(inputs.text, folder)
    hashes = Hashes(inputs="0" * 64, checkpoint=inputs.checkpoint_hash)
    manifest = artifact_manifest(plan, build, inputs.resolved, inputs.text, lowered, hashes)
    return Made(
        artifact=Artifact.open(write_unsealed(folder, replace(manifest, reference_file=None))),
        store=store,
        vision=vision,
    )


@pytest.fixture
def runner(made: Made) -> Iterator[FedSeeingRunner]:
    found = open_runner(made.artifact, 1)
    assert isinstance(found, FedSeeingRunner)
    yield found
    found.close()


def pictures(count: int) -> list[Any]:
    """A word that the tower can read, and a photo's ratio, which a grid has to be found for."""
    blocks = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(blocks).resize((200, 140))
    return [np.asarray(draw_word(Random(3), CANVASES[0], (HELD_OUT,), word="cow").image), np.asarray(photo)][:count]


def prompt(made: Made, runner: FedSeeingRunner, seen: Sequence[SeenImage]) -> list[int]:
    tokenizer = load_tokenizer(made.artifact.tokenizer_file)
    message = user_message(QUESTION, seen)
    text = load_template(made.artifact).render([message], options={"enable_thinking": False})
    return tokenizer.encode(expand_images(text, seen, tokenizer, runner))


@pytest.mark.slow  # Apple's runtime takes half a second a step of the tiny model, and there are 128
def test_one_image_and_a_text_turn_behind_it_get_the_tokens_of_eager_torch(made: Made, runner: FedSeeingRunner) -> None:
    answers = follow(1, made, runner)
    assert "cow" in load_tokenizer(made.artifact.tokenizer_file).decode(answers)


def test_two_images_and_a_text_turn_behind_them_get_the_tokens_of_eager_torch(
    made: Made, runner: FedSeeingRunner
) -> None:
    follow(2, made, runner)
    assert runner.position - runner.next_position == 8  # the second one's 12 tokens stand at 4 positions


def follow(images: int, made: Made, runner: FedSeeingRunner) -> list[int]:
    """Both turns in eager torch and in the runner, token by token; the first answer."""
    second = load_tokenizer(made.artifact.tokenizer_file).encode(NEXT)
    given = prepared(pictures(images), runner.vision.images)
    assert {(image.height, image.width) for image in given} <= {(2, 4), (6, 8)}
    oracle = Eager(made.store, made.vision.weights, Activations(), CONTEXT)  # the formats round no inputs
    seen = [runner.see(image) for image in given]
    eyes = [oracle.see(image) for image in given]
    for found, wanted in zip(seen, eyes, strict=True):
        assert np.abs(found.features - wanted.features).max() < 2e-3 * np.abs(wanted.features).max()
    tokens = prompt(made, runner, seen)
    first = greedy(oracle.forward, oracle.forward(tokens, eyes), STEPS)
    answer = greedy(runner.forward, runner.forward_prompt(make_prompt(runner, tokens, seen)), STEPS).tokens
    assert first.is_given_by(answer, ERROR)
    assert (runner.position, runner.next_position) == (oracle.place, oracle.position)
    later = greedy(oracle.forward, oracle.forward(second), STEPS)
    behind = greedy(runner.forward, runner.forward(second), STEPS).tokens
    assert answer != first.tokens or later.is_given_by(behind, ERROR)
    return answer


def test_pieces_that_cut_an_image_and_a_snapshot_change_nothing(made: Made, runner: FedSeeingRunner) -> None:
    seen = [runner.see(image) for image in prepared(pictures(2), runner.vision.images)]
    tokens = prompt(made, runner, seen)
    whole = runner.forward_prompt(make_prompt(runner, tokens, seen))
    runner.reset()
    pieces, cut = make_prompt(runner, tokens, seen), int(np.flatnonzero(np.array(tokens) == seen_token(runner))[-5])
    runner.forward_prompt(pieces.cut(0, cut))
    saved = runner.snapshot()
    runner.forward([1, 2, 3])
    runner.restore(saved)
    assert saved.position == runner.position == cut
    runner.forward_prompt(pieces.cut(cut, cut + 1))  # one image token alone is a step
    again = runner.forward_prompt(pieces.cut(cut + 1, len(tokens)))
    assert np.abs(again - whole).max() <= 0.01 * np.abs(whole).max()
    with pytest.raises(SnapshotError):
        runner.restore(object())
    runner.reset()
    with pytest.raises(ImageError, match="image tokens without an image"):
        runner.forward([5, seen_token(runner)])


def seen_token(runner: FedSeeingRunner) -> int:
    return runner.vision.image_token_id


def test_verification_looks_at_a_picture_of_every_grid_and_finds_the_one_that_is_seen_wrong(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = made.artifact.path / "reference.safetensors"
    asked = replace(request(made.store, CONTEXT), vision=made.vision)
    words = load_tokenizer(made.artifact.tokenizer_file).encode("The river was small and slow. " * 30)
    record_reference(made.store, asked, Activations(), words, place, lambda *_: None)
    manifest = replace(made.artifact.manifest, reference_file=place.name, files=file_entries(made.artifact.path))
    artifact = replace(made.artifact, manifest=manifest)
    subject = Subject(artifact=artifact, runner=open_runner(made.artifact, 1), reference=load_reference(artifact))
    spec = made.vision.images
    reason, figures = _views(subject)
    assert reason is None
    assert sorted(figures["grids"]) == sorted(f"{rows}x{columns}" for rows, columns in spec.grids)
    wrong, see = max(spec.grids), FedSeeingRunner.see

    def sees_wrong(self: FedSeeingRunner, image: PatchedImage) -> SeenImage:
        seen = see(self, image)
        grid = (seen.grid.height, seen.grid.width)
        return replace(seen, features=seen.features[::-1].copy()) if grid == wrong else seen

    monkeypatch.setattr(FedSeeingRunner, "see", sees_wrong)
    reason, _ = _views(subject)
    assert reason is not None
    subject.runner.close()


def test_an_image_of_no_grid_is_refused_by_name_and_resized_where_the_manifest_is_followed(
    runner: FedSeeingRunner,
) -> None:
    photo = pictures(2)[1]
    free = prepared([photo], replace(runner.vision.images, grids=()))[0]
    with pytest.raises(
        ImageError, match=r"an image of 4 x 6 tokens; this tower takes 1 x 2, 1 x 3, 2 x 2, 3 x 4, 4 x 3"
    ):
        runner.see(free)
    assert runner.see(prepared([photo], runner.vision.images)[0]).grid == TokenGrid(height=3, width=4)


def test_the_text_part_of_a_seeing_artifact_holds_the_table_once(made: Made, tmp_path: Path) -> None:
    backend = catalog.load("backends", made.artifact.manifest.backend)
    backend.lower(made.store, request(made.store, CONTEXT), tmp_path, lambda *_: None)
    names = {entry.path for entry in made.artifact.manifest.files if entry.path.startswith("model.")}
    plain, seeing = (sum((folder / name).stat().st_size for name in names) for folder in (tmp_path, made.artifact.path))
    table = made.store.config.vocab_size * made.store.config.hidden_size  # int8: a byte each
    assert 0 < seeing - plain < table / 4
    assert not (tmp_path / "vision.mlpackage").exists()


def test_the_core_ml_delegate_still_refuses_images(tmp_path: Path) -> None:
    backends = ("executorch-coreml",)
    spec = ExportSpec(target="ios", out=tmp_path, checkpoint=str(TINY), backends=backends, modality="image")
    with pytest.raises(UnsupportedSchemeError, match="executorch-coreml holds no vision tower yet"):
        make_plan(spec)

"""An ONNX artifact that sees: image and text in our runner and in stock onnxruntime-genai against eager torch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from export import catalog
from export.backends import onnx as backend
from export.errors import UnsupportedSchemeError
from export.onnx_lowering.lowering import ACTIVATIONS
from export.pipeline import export
from export.plan import make_plan
from export.progress import Silent
from export.schemes import FLOAT, INT8_ROW
from export.vision.request import tower_bytes, tower_format
from export.vision.weights import load_tower
from runtimes.artifact import Artifact
from runtimes.errors import ImageError, SnapshotError
from runtimes.onnxruntime import OnnxRunner, OnnxSeeingRunner, load_runner
from runtimes.stock import Turn
from runtimes.vision.prepare import prepared
from runtimes.vision.prompt import make_prompt
from tests.exports import small_spec
from tests.subjects import quantized, request
from tests.vision.eager import Eager, greedy
from tests.vision.towers import seeing_checkpoint, tower_weights

STEPS = 32
ERROR = 0.05  # of a logit; 0.025 here, where logits have a deviation of 0.4
CONTEXT = 320  # room for two images of 64 tokens, which is the least that the family allows
Made = tuple[Path, Artifact]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing_checkpoint(tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A whole export, so verified by its own oracle and by genai on text."""
    out = tmp_path_factory.mktemp("bundle")
    export(small_spec(out, checkpoint, modality="image", scheme="int8", context_length=CONTEXT), Silent())
    return Artifact.open(out / "onnx")


@pytest.fixture
def runner(artifact: Artifact) -> OnnxSeeingRunner:
    found = load_runner(artifact, 1)
    assert isinstance(found, OnnxSeeingRunner)
    return found


def picture(seed: int) -> NDArray[np.uint8]:
    """256 x 256 pixels, which no resize touches: a few large random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return blocks.repeat(32, axis=0).repeat(32, axis=1)


def prompt_tokens(artifact: Artifact, images: int) -> list[int]:
    """Text before, between and after so many images of 64 tokens."""
    vision = artifact.manifest.vision
    assert vision is not None
    image = [vision.vision_start_token_id, *[vision.image_token_id] * 64, vision.vision_end_token_id]
    tokens = [5, 6, 7]
    for number in range(images):
        tokens += [*image, 40 + number, 50 + number]
    return [*tokens, 11, 12, 13]


@pytest.mark.parametrize("count", [1, 2])
def test_our_runner_and_genai_choose_the_tokens_of_eager_torch_and_go_on_with_a_text_turn(
    count: int, artifact: Artifact, checkpoint: Path, runner: OnnxSeeingRunner, tmp_path: Path
) -> None:
    pictures = [picture(seed) for seed in range(count)]
    tokens, second = prompt_tokens(artifact, count), [21, 22, 23, 24]
    store = quantized(checkpoint, tmp_path / "store", "int8")
    oracle = Eager(store, tower_weights(checkpoint, INT8_ROW), ACTIVATIONS, CONTEXT)
    images = prepared(pictures, runner.vision.images)
    wanted = greedy(oracle.forward, oracle.forward(tokens, [oracle.see(image) for image in images]), STEPS)
    behind = (oracle.place, oracle.position)
    wanted_later = greedy(oracle.forward, oracle.forward(second), STEPS)
    seen = [runner.see(image) for image in images]
    found = greedy(runner.forward, runner.forward_prompt(make_prompt(runner, tokens, seen)), STEPS).tokens
    assert (runner.position, runner.next_position) == behind
    later = greedy(runner.forward, runner.forward(second), STEPS).tokens
    runner.close()
    for turns in ([found, later], in_genai(artifact, tokens, pictures, second, tmp_path)):
        assert wanted.is_given_by(turns[0], ERROR)
        assert turns[0] != wanted.tokens or wanted_later.is_given_by(turns[1], ERROR)


def in_genai(
    artifact: Artifact, tokens: list[int], pictures: list[NDArray[np.uint8]], second: list[int], folder: Path
) -> list[list[int]]:
    """Both turns in stock onnxruntime-genai, its own image processing included, on the artifact as it lies there."""
    import onnxruntime_genai as genai

    from runtimes.stock.onnxruntime import _run_turn

    places = []
    for number, pixels in enumerate(pictures):
        places.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).save(places[-1])
    config = genai.Config(str(artifact.path))
    config.overlay('{"model": {"eos_token_id": [0]}}')  # random weights end a turn anywhere
    model = genai.Model(config)
    processor = model.create_multimodal_processor()
    inputs = processor("<|vision_start|><|image_pad|><|vision_end|>" * len(pictures), images=genai.Images.open(*places))
    inputs["input_ids"] = np.array([tokens], dtype=np.int32)
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=CONTEXT)
    generator = genai.Generator(model, parameters)
    generator.set_inputs(inputs)
    first = []
    for _ in range(STEPS):
        generator.generate_next_token()
        first.append(int(generator.get_next_tokens()[0]))
    generator.get_logits()
    return [first, _run_turn(generator, Turn(text="", tokens=tuple(second), steps=STEPS))]


def test_pieces_that_cut_an_image_and_a_snapshot_change_nothing(artifact: Artifact, runner: OnnxSeeingRunner) -> None:
    tokens = prompt_tokens(artifact, 2)
    seen = [runner.see(image) for image in prepared([picture(3), picture(4)], runner.vision.images)]
    whole = runner.forward_prompt(make_prompt(runner, tokens, seen))
    runner.reset()
    prompt = make_prompt(runner, tokens, seen)
    runner.forward_prompt(prompt.cut(0, 30))
    saved = runner.snapshot()
    runner.forward([1, 2, 3])
    runner.restore(saved)
    assert saved.position == runner.position == 30
    pieces = runner.forward_prompt(prompt.cut(30, len(tokens)))
    assert np.abs(pieces - whole).max() <= 0.05 * np.abs(whole).max()  # other chunks, other roundings to int8
    assert pieces.argmax() == whole.argmax()
    with pytest.raises(SnapshotError):
        load_runner(artifact, 1).restore(saved)


def test_image_tokens_without_an_image_are_refused_and_leave_the_sequence_alone(
    artifact: Artifact, runner: OnnxSeeingRunner
) -> None:
    image_token = runner.vision.image_token_id
    with pytest.raises(ImageError, match="image tokens without an image"):
        runner.forward([5, image_token])
    seen = runner.see(prepared([picture(1)], runner.vision.images)[0])
    runner.reset()
    with pytest.raises(ImageError, match="give each image once"):
        make_prompt(runner, [5, image_token], [seen])


def test_the_graphs_share_one_data_file_and_the_tied_table_lies_in_it_once(artifact: Artifact) -> None:
    ranges = {name: external_ranges(artifact.path / f"{name}.onnx") for name in ("model", "embedding", "vision")}
    table = next(found for name, found in ranges["embedding"].items() if name.endswith("codes.table"))
    head = [found for name, found in ranges["model"].items() if name.startswith("embed.codes.matrix")]
    assert (min(start for start, _ in head), max(stop for _, stop in head)) == table
    covered = sorted({found for group in ranges.values() for found in group.values()})
    assert sum(stop - start for start, stop in covered) >= 0.97 * (artifact.path / "model.onnx.data").stat().st_size


def external_ranges(place: Path) -> dict[str, tuple[int, int]]:
    """Where each large initializer lies in the data file, first and last byte."""
    found = {}
    for tensor in onnx.load(place, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            assert entries["location"] == "model.onnx.data"
            start = int(entries["offset"])
            found[tensor.name] = (start, start + int(entries["length"]))
    return found


def test_a_bundle_that_sees_adds_the_towers_bytes_to_the_text_bundles(
    artifact: Artifact, checkpoint: Path, tmp_path: Path
) -> None:
    store = quantized(checkpoint, tmp_path / "store", "int8")
    text = tmp_path / "text"
    text.mkdir()
    backend.lower(store, request(store, CONTEXT), text, lambda *_: None)
    assert sorted(place.name for place in text.iterdir()) == ["genai_config.json", "model.onnx", "model.onnx.data"]
    weights = tower_weights(checkpoint, INT8_ROW)
    added = sum(buffer.numel() * buffer.element_size() for buffer in load_tower(weights).buffers())
    seeing, plain = (sum(place.stat().st_size for place in folder.glob("*.onnx*")) for folder in (artifact.path, text))
    assert added <= seeing - plain <= tower_bytes(weights.vision, INT8_ROW)


def test_the_manifest_says_how_an_image_is_prepared(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert manifest.modalities == ("text", "image")
    assert manifest.vision is not None
    assert manifest.vision.format == "int8_row"
    assert (manifest.vision.images.factor, manifest.vision.images.max_pixels) == (32, 80 * 1024)  # a quarter of 320
    assert manifest.measured.parity is not None
    outcomes = {check["name"]: check["outcome"] for check in manifest.measured.parity["checks"]}
    assert outcomes["images"] == outcomes["stock_runner"] == "passed"


def test_a_text_artifact_is_run_by_the_plain_runner_and_says_nothing_of_vision(
    checkpoint: Path, tmp_path: Path
) -> None:
    export(small_spec(tmp_path / "out", checkpoint, scheme="int8"), Silent())
    text = Artifact.open(tmp_path / "out" / "onnx")
    assert type(load_runner(text, 1)) is OnnxRunner
    assert "vision" not in text.manifest.to_dict()


@pytest.mark.parametrize("name", ["onnx-portable"])
def test_a_backend_without_a_tower_is_refused_before_any_work(name: str, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSchemeError, match=f"{name} holds no vision tower yet.*add --backend onnx"):
        make_plan(small_spec(tmp_path, checkpoint, modality="image", backends=(name,)))


@pytest.mark.parametrize("scheme", ["float", "w8a16"])
def test_schemes_that_compute_with_floats_keep_a_float_tower(scheme: str, checkpoint: Path, tmp_path: Path) -> None:
    make_plan(small_spec(tmp_path, checkpoint, modality="image", scheme=scheme))
    assert tower_format(catalog.load("schemes", scheme).SCHEME) == FLOAT

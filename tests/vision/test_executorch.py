"""An ExecuTorch artifact that sees: our runner and the stock MultimodalRunner against eager torch on the same codes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.backends import executorch as backend
from export.models.tiny.reading import CANVASES, HELD_OUT, QUESTION, draw_word
from export.pipeline import export
from export.progress import Silent
from export.quantized import QuantizedCheckpoint
from export.schemes import INT8_ROW
from export.vision.positions import patch_positions
from export.vision.request import VisionRequest, tower_bytes
from export.vision.weights import TowerWeights, load_tower
from runtimes.artifact import Artifact
from runtimes.errors import ImageError, RuntimeFailedError, SnapshotError
from runtimes.executorch import ExecutorchSeeingRunner, load_runner
from runtimes.template import load_template
from runtimes.tokenizer import load_tokenizer
from runtimes.vision.prepare import prepared
from runtimes.vision.prompt import SeenImage, make_prompt
from runtimes.vision.spec import PatchedImage
from tests.exports import small_spec
from tests.fixtures import TINY
from tests.subjects import quantized, request
from tests.vision.eager import Answer, Eager, T, greedy
from tests.vision.towers import tower_weights

STEPS = 32
ERROR = 0.3  # of a logit; 0.21 here, where logits have a deviation of 1.6 to 4.4
CONTEXT = 512  # room for a picture and a text that are longer than what the decoder takes at once
LARGEST = 112 * 1024  # pixels of a picture, where the tiny model's own preprocessing allows 64 tokens
NEVER = 2047  # a token that no answer holds: the stock runner would stop at the model's own
WORD = "cow"
CUT = 40  # tokens before it: in the middle of the second picture
ROUNDINGS = 0.02  # of the largest value: a code that falls on the other side of a rounding
STORY = "Once upon a time there was an old man who lived by the sea. " * 3
END = "<|im_end|>\n"
NEXT = END + "<|im_start|>user\nAnd what did the old man say?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A whole export of the trained tiny model, so verified by its own oracle and by MultimodalRunner on text."""
    out = tmp_path_factory.mktemp("bundle")
    changes: dict[str, Any] = {"modality": "image", "scheme": "int8", "context_length": CONTEXT}
    export(small_spec(out, TINY, backends=("executorch",), **changes), Silent())
    return Artifact.open(out / "executorch")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> QuantizedCheckpoint:
    return quantized(TINY, tmp_path_factory.mktemp("store"), "int8")


@pytest.fixture
def runner(artifact: Artifact) -> ExecutorchSeeingRunner:
    return seeing(artifact)


def seeing(artifact: Artifact) -> ExecutorchSeeingRunner:
    found = load_runner(artifact, 1)
    assert isinstance(found, ExecutorchSeeingRunner)
    return found


def pictures(images: int) -> list[NDArray[np.uint8]]:
    """A word of two tokens, and large blocks of colour, 8 x 12 tokens; up to `LARGEST` no resize touches them."""
    word = draw_word(Random(3), CANVASES[0], (HELD_OUT,), word=WORD).image
    blocks = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return [np.asarray(word), blocks.repeat(32, axis=0).repeat(32, axis=1)][:images]


def segments(artifact: Artifact, images: int) -> list[list[int]]:
    """The rendered prompt, cut where the images stand."""
    tokenizer, vision = load_tokenizer(artifact.tokenizer_file), artifact.manifest.vision
    assert vision is not None
    items = [
        *({"type": "image"} for _ in range(images)),
        {"type": "text", "text": (STORY if images > 1 else "") + QUESTION},
    ]
    text = load_template(artifact).render([{"role": "user", "content": items}], options={"enable_thinking": False})
    placeholder = tokenizer.token_text(vision.image_token_id)
    assert placeholder
    return [tokenizer.encode(part) for part in text.split(placeholder)]


def joined(artifact: Artifact, texts: list[list[int]], seen: Sequence[SeenImage]) -> list[int]:
    """The same as one prompt."""
    vision = artifact.manifest.vision
    assert vision is not None
    tokens = list(texts[0])
    for image, text in zip(seen, texts[1:], strict=True):
        tokens += [*[vision.image_token_id] * image.grid.tokens, *text]
    return tokens


def tiny_tower() -> TowerWeights:
    """The tiny model's, as ExecuTorch rounds its inputs."""
    return replace(tower_weights(TINY, INT8_ROW), activations=backend.TOWER_ACTIVATIONS)


@pytest.mark.parametrize("images", [1, 2])
def test_our_runner_and_multimodal_runner_choose_the_tokens_of_eager_torch(
    images: int, artifact: Artifact, store: QuantizedCheckpoint, tmp_path: Path
) -> None:
    """One or two images, then a text turn, then an image once more.

    With two, a text and an image are longer than a chunk, and the stock runner gives each in one call.
    """
    endless = without_end(artifact, store, tmp_path)
    runner, tokenizer = seeing(endless), load_tokenizer(artifact.tokenizer_file)
    oracle = Eager(store, tiny_tower(), backend.ACTIVATIONS, CONTEXT)
    given = prepared(pictures(images), runner.vision.images)
    end, *rest = [tokenizer.encode(END), *segments(artifact, 1)]
    turns = [(segments(artifact, images), given), ([tokenizer.encode(NEXT)], []), ([end + rest[0], rest[1]], given[:1])]
    wanted, found = [], []
    for texts, shown in turns:
        eyes, seen = [oracle.see(image) for image in shown], [runner.see(image) for image in shown]
        tokens = joined(artifact, texts, eyes)
        # the stock runner never feeds the last token of a turn
        wanted.append(greedy(oracle.forward, oracle.forward(tokens, eyes), STEPS, feed_last=False))
        prompt = make_prompt(runner, tokens, seen)
        found.append(greedy(runner.forward, runner.forward_prompt(prompt), STEPS, feed_last=False).tokens)
        assert (runner.position, runner.next_position) == (oracle.place, oracle.position)
    assert images > 1 or WORD in tokenizer.decode(wanted[0].tokens)
    runner.close()
    check_turns(wanted, found)
    said = [Answer([str(tokenizer.token_text(token)) for token in turn.tokens], turn.margins) for turn in wanted]
    check_turns(said, in_multimodal_runner(endless, turns))


def check_turns(wanted: Sequence[Answer[T]], found: Sequence[list[T]]) -> None:
    """Every turn up to one that a tie ends: what follows has another history."""
    for answer, turn in zip(wanted, found, strict=True):
        assert answer.is_given_by(turn, ERROR)
        if turn != answer.tokens:
            break


def without_end(artifact: Artifact, store: QuantizedCheckpoint, folder: Path) -> Artifact:
    """The same model for larger images, and with an end token that never comes, since a `.pte` names its own."""
    vision = artifact.manifest.vision
    assert vision is not None
    images = replace(vision.images, max_pixels=LARGEST)
    weights = tiny_tower()
    seen = VisionRequest(weights=weights, images=images)
    wanted = replace(request(store, CONTEXT), eos_token_ids=(NEVER,), vision=seen)
    backend.lower(store, wanted, folder, lambda *_: None)
    (folder / artifact.manifest.tokenizer_file).write_bytes(artifact.tokenizer_file.read_bytes())
    return replace(artifact, path=folder, manifest=replace(artifact.manifest, vision=replace(vision, images=images)))


def in_multimodal_runner(
    artifact: Artifact, turns: Sequence[tuple[list[list[int]], list[PatchedImage]]]
) -> list[list[str]]:
    """The turns in the stock runner: texts and images one after the other, levels as an app has them."""
    from executorch.extension.llm.runner import GenerationConfig, make_image_input, make_token_input

    from runtimes.stock.executorch import open_runner, stdout_kept_clean

    config = GenerationConfig(echo=False, max_new_tokens=STEPS, temperature=0.0)
    answers: list[list[str]] = []
    with stdout_kept_clean():
        stock = open_runner(artifact)
        for texts, images in turns:
            inputs = [make_token_input(texts[0])]
            for image, text in zip(images, texts[1:], strict=True):
                levels = torch.from_numpy(image.levels.transpose(2, 0, 1).copy())
                inputs += [make_image_input(levels), make_token_input(text)]
            answers.append([])
            stock.generate(inputs, config, answers[-1].append, None)
    return answers


def test_every_size_of_image_goes_through_the_one_encoder(runner: ExecutorchSeeingRunner) -> None:
    """Also one token, a line, and a column: what depends on the sides is computed from them."""
    weights = tiny_tower()
    tower = load_tower(weights)
    spec = replace(runner.vision.images, min_pixels=1)
    for down, across in ((1, 1), (1, 9), (7, 1), (4, 6), (8, 8)):
        levels = np.random.default_rng(down).integers(0, 256, (32 * down, 32 * across, 3), dtype=np.uint8)
        image = prepared([levels], spec)[0]
        seen = runner.see(image)
        with torch.no_grad():
            at = patch_positions(weights.vision, image.height, image.width)
            wanted = tower.encode(torch.from_numpy(image.patches), at).numpy()
        hidden = wanted.shape[1]
        error = np.abs(seen.features[:, :hidden] - wanted).max() / np.abs(wanted).max()
        assert error <= ROUNDINGS, f"{down} x {across}: {error}"
        row, column = np.divmod(np.arange(down * across), across)
        gain = np.where(np.arange(down * across) == down * across - 1, max(down, across), 0) - 1
        stands = np.stack([np.zeros_like(row), row, column, gain], axis=1)
        assert (seen.features[:, hidden:] == stands).all(), f"{down} x {across}"


def test_pieces_that_cut_an_image_and_a_snapshot_change_nothing(
    artifact: Artifact, runner: ExecutorchSeeingRunner
) -> None:
    seen = [runner.see(image) for image in prepared(pictures(2), runner.vision.images)]
    tokens = joined(artifact, segments(artifact, 2), seen)
    whole = runner.forward_prompt(make_prompt(runner, tokens, seen))
    after = runner.forward([3, 4])
    runner.reset()
    prompt = make_prompt(runner, tokens, seen)
    runner.forward_prompt(prompt.cut(0, CUT))
    saved = runner.snapshot()
    runner.forward_prompt(prompt.cut(CUT, 2 * CUT))
    runner.restore(saved)
    assert saved.position == runner.position == CUT
    pieces = runner.forward_prompt(prompt.cut(CUT, len(tokens)))
    behind = runner.snapshot()
    for found, wanted in ((pieces, whole), (runner.forward([3, 4]), after)):
        assert np.abs(found - wanted).max() <= 0.05 * np.abs(wanted).max()  # other chunks, other roundings to int8
        assert found.argmax() == wanted.argmax()
    runner.reset()
    plain = runner.forward([9, 8, 7])
    runner.restore(behind)  # with its lag, which lives inside the program
    assert np.array_equal(runner.forward([3, 4]).argmax(), after.argmax())
    runner.reset()
    assert np.array_equal(runner.forward([9, 8, 7]), plain)
    with pytest.raises(SnapshotError):
        load_runner(artifact, 1).restore(saved)


def test_what_cannot_be_seen_is_a_named_error(runner: ExecutorchSeeingRunner) -> None:
    with pytest.raises(ImageError, match="image tokens without an image"):
        runner.forward([5, runner.vision.image_token_id])
    large = np.zeros((32 * 16, 32 * 16, 3), dtype=np.uint8)
    with pytest.raises(ImageError, match="larger than max_pixels"):
        runner.see(prepared([large], replace(runner.vision.images, max_pixels=1 << 20))[0])
    odd = replace(prepared(pictures(1), runner.vision.images)[0], levels=np.zeros((40, 40, 3), dtype=np.uint8))
    with pytest.raises(RuntimeFailedError, match="could not encode an image of 40 x 40"):
        runner.see(odd)


def test_a_call_past_the_context_changes_nothing(runner: ExecutorchSeeingRunner) -> None:
    """The program itself refuses it, as the stock runner does not look."""
    runner.forward(list(range(5, 15)))
    rows = torch.zeros(1, CONTEXT, runner.vision.hidden_size)
    with pytest.raises(RuntimeError):
        runner._method.call((rows, torch.tensor([10])))
    after = runner.forward([3])
    runner.reset()
    runner.forward(list(range(5, 15)))
    assert np.array_equal(runner.forward([3]), after)


def test_a_bundle_that_sees_adds_the_towers_bytes_to_the_text_bundles(
    artifact: Artifact, store: QuantizedCheckpoint, tmp_path: Path
) -> None:
    """The two frames of the patch embedding are one matrix here, and no table of angles is stored."""
    text = backend.lower(store, request(store, CONTEXT), tmp_path, lambda *_: None)
    weights = tower_weights(TINY, INT8_ROW)
    tower = load_tower(weights)
    added = sum(buffer.numel() * buffer.element_size() for buffer in tower.buffers())
    halved = tower.get_buffer("patch_embed.matrix.weight").nbytes // 2
    more = artifact.model_file.stat().st_size - (tmp_path / text.model_file).stat().st_size
    angles = 2 * CONTEXT * store.config.rotary_dim // 2 * 4
    assert added - halved <= more + angles <= tower_bytes(weights.vision, INT8_ROW)


def test_the_manifest_says_what_sees(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert manifest.modalities == ("text", "image")
    assert manifest.vision is not None
    assert manifest.vision.tower_file == manifest.vision.embedding_file == manifest.model_file
    assert manifest.vision.format == "int8_row"
    assert not manifest.vision.images.grids
    assert manifest.measured.parity is not None
    outcomes = {check["name"]: check["outcome"] for check in manifest.measured.parity["checks"]}
    assert outcomes["images"] == outcomes["stock_runner"] == "passed"

"""The float `.pte` of a random checkpoint in which every part matters, method by method against eager torch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.extension.pybindings import portable_lib
from torch import Tensor

from export.backends import executorch as backend
from export.decoder import Decoder
from export.materialize import load
from export.quantized import QuantizedCheckpoint
from export.state import zero_state
from export.vision.config import image_spec
from export.vision.positions import patch_positions
from export.vision.request import VisionRequest
from export.vision.weights import load_tower
from runtimes.executorch import DECODE_METHOD, EMBED_METHOD, ENCODE_METHOD, LAG
from runtimes.vision.positions import TokenGrid, next_position, position_rows
from runtimes.vision.preprocess import cut_into_patches, normalize
from tests.subjects import quantized, relative_error, request
from tests.vision.towers import seeing_checkpoint, tower_weights

CONTEXT = 400  # an image may take a quarter
TOLERANCE = 1e-5
GRIDS = ((1, 1), (2, 2), (1, 11), (9, 1), (5, 3), (8, 12))  # tokens down and across
TEXTS = (70, 3, 20)  # tokens before, between and after two images


class Methods:
    """The three methods of a file, and eager torch."""

    def __init__(self, folder: Path) -> None:
        checkpoint = seeing_checkpoint(folder / "checkpoint")
        self.store: QuantizedCheckpoint = quantized(checkpoint, folder / "store", "float")
        weights = replace(tower_weights(checkpoint), activations=backend.TOWER_ACTIVATIONS)
        self.vision, self.tower = weights.vision, load_tower(weights)
        self.images = image_spec(checkpoint, weights.vision, CONTEXT)
        wanted = replace(request(self.store, CONTEXT), vision=VisionRequest(weights=weights, images=self.images))
        file = folder / backend.lower(self.store, wanted, folder, lambda *_: None).model_file
        portable_lib._unsafe_reset_threadpool(1)
        self.program = portable_lib._load_program(str(file))
        names = (ENCODE_METHOD, EMBED_METHOD, DECODE_METHOD)
        self.encode, self.embed, self.decode = (self.program.load_method(name) for name in names)

    def rows(self, levels: np.ndarray) -> Tensor:
        found: Tensor = self.encode.call((torch.from_numpy(levels.transpose(2, 0, 1).copy()),))[0]
        return found

    @torch.no_grad()
    def features(self, levels: np.ndarray) -> Tensor:
        patches = torch.from_numpy(cut_into_patches(normalize(levels, self.images), self.images))
        rows, columns, _ = levels.shape
        return self.tower.encode(patches, patch_positions(self.vision, rows // 16, columns // 16))


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> Methods:
    folder = tmp_path_factory.mktemp("float")
    (folder / "checkpoint").mkdir()
    return Methods(folder)


def levels(down: int, across: int) -> np.ndarray:
    return np.random.default_rng(down).integers(0, 256, (32 * down, 32 * across, 3), dtype=np.uint8)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_encoder_is_the_tower_on_every_grid(grid: tuple[int, int], methods: Methods) -> None:
    image = levels(*grid)
    rows, wanted = methods.rows(image)[0], methods.features(image)
    assert relative_error(rows[:, : wanted.shape[1]], wanted) <= TOLERANCE


def test_texts_and_images_stand_where_mrope_puts_them(methods: Methods) -> None:
    """Each in one call, as the stock runner gives them; a row that stood elsewhere would change the last logits."""
    images = [levels(8, 12), levels(5, 3)]
    config, vision = methods.store.config, methods.vision
    texts = [[int(token) for token in np.arange(7, 7 + count) * 3 % 1000] for count in TEXTS]
    grids = [TokenGrid(height=image.shape[0] // 32, width=image.shape[1] // 32) for image in images]
    place, segments = 0, [texts[0]]
    for text in texts[1:]:
        segments += [[], text]
    for number, text in enumerate(segments):
        ids = torch.tensor([text])
        rows = methods.embed.call((ids,))[0] if text else methods.rows(images[number // 2])
        logits = methods.decode.call((rows, torch.tensor([place])))[0].flatten().clone()
        place += rows.shape[1]
    pads = [[vision.image_token_id] * grid.tokens for grid in grids]
    tokens = np.array([*texts[0], *pads[0], *texts[1], *pads[1], *texts[2]])
    where = position_rows(tokens, vision.image_token_id, grids, 0)
    decoder = load(Decoder(config, methods.store.layout, CONTEXT), methods.store, CONTEXT).eval()
    with torch.no_grad():
        embedded = decoder.embed.rows(torch.from_numpy(tokens)[None])
        seen = torch.cat([methods.features(image) for image in images])
        embedded[0, torch.from_numpy(tokens == vision.image_token_id)] = seen
        start, state = torch.tensor([0]), zero_state(config, CONTEXT)
        wanted, _ = decoder.run(embedded, torch.from_numpy(where)[:, None], start, state, True)
    assert relative_error(logits, wanted[0, -1]) <= 10 * TOLERANCE
    assert int(methods.decode.get_attribute(LAG)) == place - next_position(where, 0)

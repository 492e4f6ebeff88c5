"""What a method makes of single matrices, as prices and trials see it."""

from pathlib import Path

import pytest
import torch

from export import catalog
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.config import parse_config, read_config
from export.quantize_checkpoint import Job, load_method, quantize_checkpoint
from export.schemes import FLOAT, Format
from export.search.final import Dequantized
from export.search.layouts import Space
from export.search.rounding import Made, one_format_each, open_rounding
from export.sequence import run_block
from export.text_files import read_text_files
from tests.fixtures import TINY

G64 = Format(bits=4, group_size=64)


@pytest.fixture(scope="module")
def space() -> Space:
    config = parse_config(read_config(TINY), "tiny")
    return Space(config=config, backend=catalog.load("backends", "onnx"), context_length=64)


def test_each_format_is_taken_wherever_it_fits_and_a_finer_one_elsewhere(space: Space) -> None:
    layouts = one_format_each(space)
    assert [form.group_size for form in layouts] == [32, 64, 128]
    for form, layout in layouts.items():
        for unit, known in space.candidates.items():
            assert layout[unit] in (*known, FLOAT)
            if form in known and unit != "embed_tokens":
                assert layout[unit] == form
    assert {layout["embed_tokens"] for layout in layouts.values()} == {space.backend.FINEST[8]}
    assert layouts[G64]["layers.0.linear_attn.in_proj_a"] == FLOAT


def test_matrices_of_a_folding_method_do_in_the_float_block_what_they_do_in_the_folded_one(
    space: Space, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(TINY)
    ids = read_text_files(TINY, space.config.vocab_size).encode((TINY / "held_out.txt").read_text(encoding="utf-8"))
    layout = one_format_each(space)[G64]
    job = Job(
        checkpoint=checkpoint,
        checkpoint_hash="test",
        config=space.config,
        layout=layout,
        method=load_method("awq"),
        tokens=torch.tensor(ids[:1024]).view(8, 128),
    )
    store = quantize_checkpoint(job, tmp_path, lambda *_: None)
    rounding = open_rounding("awq", {G64: Made(directory=store.path, layout=layout)}, space.config)
    plain = CheckpointModel(weights=FloatWeights(checkpoint=checkpoint, config=space.config))
    folded = CheckpointModel(weights=Dequantized(store=store))
    hidden = plain.embed(torch.tensor([ids[1024:1124]]))
    for name in plain.block_names:
        block = plain.block(name)
        replaced = {
            unit: rounding(unit, block.tensor(unit), G64, None) for unit in block.shapes if not layout[unit].is_float
        }
        exact, wanted = run_block(block, hidden, None), run_block(folded.block(name), hidden, None)
        found = run_block(block, hidden, replaced)
        unlike = (found - wanted).norm() / (wanted - exact).norm()
        assert float(unlike) < 0.01, f"{name}: the folds were not undone"
        norm = f"{name}.post_attention_layernorm.weight"
        assert float((store.plain(norm) - block.tensor(norm)).abs().max()) > 0.01, "nothing was folded"
        hidden = exact

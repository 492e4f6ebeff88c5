"""Static activations on XNNPACK: its 8-bit product against the emulation, and a whole file against eager torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from export.backends import executorch
from export.decoder import input_grid_name
from export.executorch_lowering.program import ProgramBuilder
from export.executorch_lowering.pte import Method, write_pte
from export.executorch_lowering.tensors import Dynamic, Element
from export.executorch_lowering.xnnpack import Grid, Weights
from export.static_grids import with_static_grids
from tests.subjects import chunked_logits, eager, quantized, random_tokens, request
from tests.test_executorch_backend import TOKENS, Model, check_quantized, portable_lib

IN, OUT = 64, 48


@pytest.mark.parametrize(
    ("inputs", "outputs"), [((0.03, 5), (0.5, -9)), ((0.011, -128), (0.2, 127)), ((0.05, 0), (2, 0))]
)
def test_the_emulated_product_is_xnnpacks_to_the_last_code(
    inputs: tuple[float, int], outputs: tuple[float, int], tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    codes = random.integers(-128, 128, (OUT, IN)).astype(np.int8)
    scales = random.uniform(0.001, 0.01, OUT).astype(np.float32)
    x = torch.from_numpy(random.normal(size=(1, 200, IN)).astype(np.float32))
    program = ProgramBuilder()
    argument = program.input((1, Dynamic(x.shape[1]), IN), Element.FLOAT32)
    program.constant(np.zeros(4, np.float32), Element.FLOAT32)  # a program has a segment of constants
    stored = program.named_data(codes), program.named_data(scales)
    weights = Weights(shape=(OUT, IN), bits=8, group_size=None, codes=stored[0], scales=stored[1])
    grids = [Grid(scale=scale, zero_point=zero) for scale, zero in (inputs, outputs)]
    result = program.open_region().static_linear(argument, weights, *grids)
    program.require(result)
    write_pte(tmp_path / "product.pte", [Method(program, result)], {}, lambda *_: None)
    found = portable_lib._load_for_executorch(str(tmp_path / "product.pte")).forward([x])[0]
    expected = torch.ops.edge.linear(
        x,
        torch.from_numpy(codes),
        torch.from_numpy(scales)[:, None],
        8,
        IN,
        "int8_static",
        IN,
        torch.tensor(inputs),
        torch.tensor(outputs).expand(OUT, 2),
    )
    steps = (found - expected).abs() / outputs[0]
    assert steps.max() <= 1.01
    assert (steps > 0.01).float().mean() < 1e-3  # halves of a code, which float32 rounds either way
    assert found.unique().numel() > 8


def test_a_file_with_static_products_equals_emulating_eager(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    bare = quantized(fixture_checkpoint("like_2b"), tmp_path / "store", "w8a8")
    others = executorch.ACTIVATION_KINDS["int8_static"]
    store = with_static_grids(bare, others, random_tokens(bare.config, 64, seed=3).view(2, 32), lambda *_: None)
    assert input_grid_name("layers.0.mlp.gate_proj") in store.grids
    assert len(store.grids) > sum(name.endswith(".input_grid") for name in store.grids)
    lowered = executorch.lower(store, request(store, activations="int8_static"), tmp_path, lambda *_: None)
    assert lowered.activations.static == frozenset(store.grids)
    tokens = random_tokens(store.config, TOKENS)
    expected = chunked_logits(eager(store, lowered.activations), tokens, TOKENS)
    check_quantized(Model(tmp_path / lowered.model_file), tokens, expected)

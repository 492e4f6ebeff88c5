"""A checkpoint as blocks: the decoder's function in pieces, differentiable, with folds that change nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from export import operators as edge
from export.blocks import Fold
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointBlock, CheckpointModel, FloatWeights, make_block
from export.config import parse_config
from export.weights import block_of, plain_tensors, units
from tests.subjects import chunked_logits, eager, quantized, random_tokens, relative_error

FIXTURES = ["like_2b", "like_4b", "like_9b"]
LAYERS = ["layers.0", "layers.3"]  # linear and full attention
Open = Callable[[str], Path]


def open_model(directory: Path) -> CheckpointModel:
    checkpoint = Checkpoint.open(directory)
    return CheckpointModel(weights=FloatWeights(checkpoint=checkpoint, config=parse_config(checkpoint.config)))


def some_hidden(block: CheckpointBlock, sequences: int = 2, tokens: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(sequences, tokens, block.config.hidden_size, generator=torch.Generator().manual_seed(seed))


def in_float64(block: CheckpointBlock) -> CheckpointBlock:
    return make_block(block.config, block.name, {name: tensor.double() for name, tensor in block.tensors.items()})


@pytest.mark.parametrize("fixture", FIXTURES)
def test_blocks_one_after_the_other_are_the_decoder(fixture: str, fixture_checkpoint: Open, tmp_path: Path) -> None:
    model = open_model(fixture_checkpoint(fixture))
    tokens = random_tokens(model.config, 80)  # more than a chunk of the delta rule
    hidden = model.embed(tokens)
    for name in model.block_names:
        hidden = model.block(name).run(hidden)
    logits = model.finish(hidden)[0] @ model.weights.weight(model.head_unit).T
    expected = chunked_logits(eager(quantized(fixture_checkpoint(fixture), tmp_path, "float")), tokens, 80)
    assert relative_error(logits, expected) < 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_sequences_of_a_batch_do_not_see_each_other(name: str, fixture_checkpoint: Open) -> None:
    block = open_model(fixture_checkpoint("like_4b")).block(name)
    hidden = some_hidden(block, sequences=3)
    alone = torch.cat([block.run(row.unsqueeze(0)) for row in hidden])
    assert torch.allclose(block.run(hidden), alone, atol=1e-5)


def test_a_block_holds_every_tensor_of_its_layer_in_the_checkpoints_convention(fixture_checkpoint: Open) -> None:
    model = open_model(fixture_checkpoint("like_4b"))
    for name in LAYERS:
        block = model.block(name)
        expected = {unit.name for unit in units(model.config) if block_of(unit.name) == name}
        assert set(block.shapes) == expected
        for unit, shape in block.shapes.items():
            assert block.tensor(unit).shape == shape
            assert torch.equal(block.tensor(unit), model.weights.weight(unit))
        for plain in plain_tensors(model.config):
            if block_of(plain) == name:
                assert torch.equal(block.tensor(plain), model.weights.plain(plain))


@pytest.mark.parametrize("name", LAYERS)
def test_replacing_every_tensor_by_itself_changes_nothing_and_by_another_does(
    name: str, fixture_checkpoint: Open
) -> None:
    block = open_model(fixture_checkpoint("like_4b")).block(name)
    hidden = some_hidden(block)
    expected = block.run(hidden)
    assert torch.equal(block.run(hidden, dict(block.tensors)), expected)
    for tensor, value in block.tensors.items():
        changed = block.run(hidden, {tensor: value + 0.1})
        assert not torch.allclose(changed, expected, atol=1e-5), f"{tensor} is not used"
    assert torch.equal(block.run(hidden), expected), "a replaced tensor stayed behind"


def test_a_tensor_that_the_block_does_not_have_cannot_be_replaced(fixture_checkpoint: Open) -> None:
    block = open_model(fixture_checkpoint("like_2b")).block("layers.0")
    with pytest.raises(KeyError, match="has no tensor 'layers.0.mlp.side_proj'"):
        block.run(some_hidden(block), {"layers.0.mlp.side_proj": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "layers.0",
            [
                ["linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.in_proj_a", "linear_attn.in_proj_b"],
                ["linear_attn.out_proj"],
                ["mlp.gate_proj", "mlp.up_proj"],
                ["mlp.down_proj"],
            ],
        ),
        (
            "layers.3",
            [
                ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                ["self_attn.o_proj"],
                ["mlp.gate_proj", "mlp.up_proj"],
                ["mlp.down_proj"],
            ],
        ),
    ],
)
def test_what_each_matrix_reads_is_told_once(name: str, expected: list[list[str]], fixture_checkpoint: Open) -> None:
    block = open_model(fixture_checkpoint("like_4b")).block(name)
    hidden, told = some_hidden(block), dict[tuple[str, ...], Tensor]()
    block.run(hidden, None, told.__setitem__)
    assert [list(names) for names in told] == [[f"{name}.{one}" for one in group] for group in expected]
    for names, x in told.items():
        assert {x.shape for _ in names} == {(18, block.shapes[unit][1]) for unit in names}
    norm = block.tensor(f"{name}.input_layernorm.weight")
    normed = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + block.config.rms_norm_eps) * (1 + norm)
    assert torch.allclose(next(iter(told.values())), normed.flatten(0, 1), atol=1e-5)


@pytest.mark.parametrize("fixture", FIXTURES)
@pytest.mark.parametrize("name", LAYERS)
def test_every_fold_leaves_the_function_as_it_is(fixture: str, name: str, fixture_checkpoint: Open) -> None:
    block = open_model(fixture_checkpoint(fixture)).block(name)
    hidden = some_hidden(block, tokens=70)
    expected = block.run(hidden)
    scale = expected.abs().max()
    assert len(block.folds) == 4
    for fold in block.folds:
        replaced = folded(block, fold)
        found = block.run(hidden, replaced)
        assert float((found - expected).abs().max() / scale) < 1e-5, fold
        only_source = block.run(hidden, {fold.source: replaced[fold.source]})
        assert float((only_source - expected).abs().max() / scale) > 1e-3, f"{fold.source} is not what is read"


def folded(block: CheckpointBlock, fold: Fold) -> dict[str, Tensor]:
    """The tensors of a fold by random factors between 1/2 and 2, as `Fold` defines it."""
    source = block.tensor(fold.source)
    factors = 4.0 ** (torch.rand(source.shape[0], generator=torch.Generator().manual_seed(3)) - 0.5)
    if fold.kind == "one_plus":
        made = (1 + source) * factors - 1
    else:
        made = source * (factors if fold.kind == "norm" else factors.unsqueeze(1))
    columns = factors.repeat(fold.repeat)
    if fold.group:
        columns = columns.view(-1, fold.group).repeat_interleave(fold.copies, dim=0).flatten()
    return {fold.source: made} | {unit: block.tensor(unit) / columns for unit in fold.readers}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_a_block_are_its_finite_differences(name: str, fixture_checkpoint: Open) -> None:
    block = in_float64(open_model(fixture_checkpoint("like_4b")).block(name))
    hidden = some_hidden(block, tokens=6).double().requires_grad_()
    tensors = {tensor: value.clone().requires_grad_() for tensor, value in block.tensors.items()}
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)).double()
    (block.run(hidden, tensors) * weights).sum().backward()
    step = 1e-6
    for tensor, value in {"hidden": hidden, **tensors}.items():
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(2)).double()
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                moved = value + sign * step * direction
                where = (moved, dict(tensors)) if tensor == "hidden" else (hidden, {**tensors, tensor: moved})
                ends.append((block.run(*where) * weights).sum())
        assert value.grad is not None, tensor
        slope, expected = (value.grad * direction).sum(), (ends[0] - ends[1]) / (2 * step)
        assert torch.allclose(slope, expected, rtol=1e-5, atol=1e-6), tensor


def test_every_float_operator_has_the_gradient_of_its_reference() -> None:
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    positions = torch.arange(3).expand(3, 2, 3)
    cos, sin = torch.rand(4, 2).double(), torch.rand(4, 2).double()
    for call in (
        lambda x, w: edge.rms_norm(x, w, 1e-6),
        lambda x, w: edge.l2_norm(x * w, 1e-6),
        lambda x, w: edge.add_rms_norm(x, x * 2, w, 1e-6),
        lambda x, w: edge.swiglu(x, x * w),
        lambda x, w: edge.sigmoid_gate(x, x * w),
        lambda x, w: edge.gated_rms_norm(x.unsqueeze(2), x.unsqueeze(2) + w, w, 1e-6),
        lambda x, w: edge.delta_gate(x, x * 2, -w.exp(), w),
        lambda x, w: edge.rotary((x * w).unsqueeze(2), positions, cos, sin, [2, 0, 0]),
    ):
        assert gradcheck(call, (some(2, 3, 4), some(4)))
    heads = (some(1, 5, 2, 4), some(1, 5, 2, 4), some(1, 5, 2, 4))
    assert gradcheck(
        lambda q, k, v, g, b, s: edge.gated_delta(q, k, v, -g.exp(), b, s, 0.5),
        (*heads, some(1, 5, 2), some(1, 5, 2), some(1, 2, 4, 4)),
    )
    assert gradcheck(edge.causal_conv, (some(2, 5, 3), some(3, 4), some(2, 3, 3)))
    cache = torch.zeros(1, 1, 5, 4, dtype=torch.float64)
    assert gradcheck(
        lambda q, k, v: edge.attention(q, k, v, cache, cache, torch.tensor([0]), 0.5)[0],
        (some(1, 5, 2, 4), some(1, 5, 1, 4), some(1, 5, 1, 4)),
    )

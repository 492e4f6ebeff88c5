"""The decoder against transformers' own Qwen3_5ForConditionalGeneration, in every shape of the family."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.decoder import text_positions
from export.operators import chunked_gated_delta, mrope_axes, recurrent_gated_delta
from export.state import state_tensors, zero_state
from tests.fixtures import FIXTURES, load_reference
from tests.subjects import CONTEXT, chunked_logits, eager, quantized, random_tokens, relative_error

TOLERANCE = 1e-4
TOKENS = 150


@pytest.mark.parametrize("name", FIXTURES)
def test_decoder_equals_transformers_for_every_shape_and_chunk(
    name: str, fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = fixture_checkpoint(name)
    decoder = eager(quantized(checkpoint, tmp_path, "float"))
    tokens = random_tokens(decoder.config, TOKENS)
    with torch.no_grad():
        expected = load_reference(checkpoint)(input_ids=tokens).logits[0]
    for chunk in (TOKENS, 1, 7, 64, 128):
        found = chunked_logits(decoder, tokens, chunk)
        assert relative_error(found, expected) <= TOLERANCE, f"{name} in chunks of {chunk}"
        assert torch.equal(found.argmax(-1), expected.argmax(-1)), f"{name} in chunks of {chunk}"


def test_last_only_gives_the_last_row_of_the_whole(fixture_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    decoder = eager(quantized(fixture_checkpoint("like_4b"), tmp_path, "float"))
    tokens, state = random_tokens(decoder.config, 20), zero_state(decoder.config, CONTEXT)
    with torch.no_grad():
        whole, _ = decoder(tokens, text_positions(0, 20), torch.tensor([0]), state)
        last, _ = decoder(tokens, text_positions(0, 20), torch.tensor([0]), state, last_only=True)
    assert last.shape == (1, 1, decoder.config.vocab_size)
    assert relative_error(last[0, 0], whole[0, -1]) <= 1e-6


def test_three_distinct_position_rows_turn_what_transformers_turns(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = fixture_checkpoint("like_2b")
    decoder = eager(quantized(checkpoint, tmp_path, "float"))
    tokens = random_tokens(decoder.config, 24)
    rows = torch.stack([torch.arange(24), torch.arange(24) // 3 + 5, torch.arange(24) % 5 * 2]).unsqueeze(
        1
    )  # (3, 1, T)
    with torch.no_grad():
        expected = load_reference(checkpoint)(input_ids=tokens, position_ids=rows).logits[0]
        found, _ = decoder(tokens, rows, torch.tensor([0]), zero_state(decoder.config, CONTEXT))
        plain, _ = decoder(tokens, text_positions(0, 24), torch.tensor([0]), zero_state(decoder.config, CONTEXT))
    assert relative_error(found[0], expected) <= TOLERANCE
    assert relative_error(plain[0], expected) > TOLERANCE, "the rows made no difference, so this test shows nothing"


def test_mrope_axes_interleave_as_the_real_sections_do() -> None:
    axes = mrope_axes(32, (11, 11, 10))
    assert [int((axes == row).sum()) for row in range(3)] == [11, 11, 10]
    assert axes[:6].tolist() == [0, 1, 2, 0, 1, 2]


def test_strong_decay_stays_finite_and_equals_transformers(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = fixture_checkpoint("untied_fp32")
    reference, decoder = load_reference(checkpoint), eager(quantized(checkpoint, tmp_path, "float"))
    with torch.no_grad():
        for layer in (0, 1, 2):
            mixer = reference.model.language_model.layers[layer].linear_attn
            mixer.A_log.fill_(3.0)  # decay e^3 * softplus: about -14 a token, far beyond -80 over a chunk
            decoder.layers[layer].mixer.decay_scale.value.copy_(-torch.exp(mixer.A_log))
        tokens = random_tokens(decoder.config, 100)
        expected = reference(input_ids=tokens).logits[0]
    for chunk in (100, 1, 7, 64):
        found = chunked_logits(decoder, tokens, chunk)
        assert torch.isfinite(found).all()
        assert relative_error(found, expected) <= TOLERANCE, f"chunks of {chunk}"


@pytest.mark.parametrize("heads", [(2, 2), (2, 4)])
@pytest.mark.parametrize("decay", [0.0, -0.05, -3.0, -90.0])
def test_chunked_delta_rule_equals_the_recurrence(heads: tuple[int, int], decay: float) -> None:
    generator = torch.Generator().manual_seed(3)
    key_heads, value_heads = heads

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    q = torch.nn.functional.normalize(normal(1, 150, key_heads, 32), dim=-1)
    k = torch.nn.functional.normalize(normal(1, 150, key_heads, 32), dim=-1)
    v, state = normal(1, 150, value_heads, 32), normal(1, value_heads, 32, 32)
    log_decay = decay * torch.rand(1, 150, value_heads, generator=generator)
    beta = torch.rand(1, 150, value_heads, generator=generator)
    fast, fast_state = chunked_gated_delta(q, k, v, log_decay, beta, state, 32**-0.5)
    slow, slow_state = recurrent_gated_delta(q, k, v, log_decay, beta, state, 32**-0.5)
    assert relative_error(fast, slow) <= 1e-5
    assert relative_error(fast_state, slow_state) <= 1e-5


def test_a_zero_norm_key_stays_zero() -> None:
    x = torch.zeros(1, 3, 2, 32)
    assert torch.equal(torch.ops.edge.l2_norm(x, 1e-6), x)
    small = torch.full((1, 1, 1, 8), 1e-4)
    expected = small / torch.sqrt(small.pow(2).sum(-1, keepdim=True) + 1e-6)
    assert torch.allclose(torch.ops.edge.l2_norm(small, 1e-6), expected, rtol=1e-6)


def test_zero_embedding_rows_pass_the_whole_decoder(fixture_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint = fixture_checkpoint("untied_fp32")
    reference, decoder = load_reference(checkpoint), eager(quantized(checkpoint, tmp_path, "float"))
    with torch.no_grad():
        reference.model.language_model.embed_tokens.weight[5].zero_()
        decoder.embed.weight[5].zero_()
        tokens = torch.tensor([[5, 5, 7, 5, 5, 5, 9, 5, 5]])
        expected = reference(input_ids=tokens).logits[0]
    assert bool((expected[2:] != 0).any())
    assert relative_error(chunked_logits(decoder, tokens, 9), expected) <= TOLERANCE


def test_fused_and_separate_projections_agree(fixture_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    store = quantized(fixture_checkpoint("like_4b"), tmp_path, "int4")
    tokens = random_tokens(store.config, 20)
    fused, separate = eager(store), eager(store, fuse_quantized=False)
    assert len(separate.recipes()) > len(fused.recipes())
    assert relative_error(chunked_logits(fused, tokens, 20), chunked_logits(separate, tokens, 20)) <= 1e-6


def test_state_lists_two_tensors_a_layer(fixture_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    config = quantized(fixture_checkpoint("like_9b"), tmp_path, "float").config
    kinds = [entry.kind for entry in state_tensors(config, 64)]
    assert kinds == ["conv", "recurrent"] * 3 + ["key", "value"]
    assert [entry.token_axis for entry in state_tensors(config, 64)] == [None] * 6 + [2, 2]

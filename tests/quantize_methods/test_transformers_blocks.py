"""A transformers decoder as blocks: the same function in pieces, with folds that change nothing."""

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from export.errors import ConfigError
from export.operators import dequantize
from export.quantize import rtn
from export.quantize._folds import fold, num_channels
from export.schemes import INT8_ROW, Format
from export.sequence import quantize_blocks
from export.transformers_blocks import TransformersModel, apply_
from tests.quantize_methods.llama import HIDDEN, small_llama, some_tokens


def test_blocks_one_after_the_other_are_the_model() -> None:
    model = small_llama()
    tokens = some_tokens()
    hidden = model.embed(tokens)
    for name in model.block_names:
        hidden = model.block(name).run(hidden)
    logits = model.finish(hidden) @ model.table(model.head_unit).T
    torch.testing.assert_close(logits, model.model(tokens).logits, rtol=1e-4, atol=1e-4)


def test_every_matrix_is_told_of_once_with_those_that_read_the_same() -> None:
    block = small_llama().block("layers.1")
    told: list[tuple[tuple[str, ...], Tensor]] = []
    block.run(torch.randn(2, 5, HIDDEN), None, lambda units, x: told.append((units, x)))
    readers = [tuple(unit.rpartition(".")[2] for unit in units) for units, _ in told]
    assert readers == [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)]
    assert all(x.shape[0] == 10 for _, x in told), "inputs come as (tokens, in_features)"
    assert sorted(unit for units, _ in told for unit in units) == sorted(block.shapes)


@pytest.mark.parametrize("index", range(4))
def test_a_fold_changes_nothing(index: int) -> None:
    block = small_llama().block("layers.0")
    one = block.folds[index]
    factors = torch.rand(num_channels(block, one), generator=torch.Generator().manual_seed(index)) * 3 + 0.2
    hidden = torch.randn(2, 7, HIDDEN, generator=torch.Generator().manual_seed(5))
    folded = block.run(hidden, fold(block, one, factors, {}))
    torch.testing.assert_close(folded, block.run(hidden), rtol=1e-4, atol=1e-5)


def test_values_with_a_bias_are_not_folded() -> None:
    config = Qwen2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=50,
    )
    block = TransformersModel(model=Qwen2ForCausalLM(config).eval()).block("layers.0")
    sources = {one.source.rpartition("layers.0.")[2] for one in block.folds}
    assert sources == {"input_layernorm.weight", "post_attention_layernorm.weight", "mlp.up_proj"}


def test_results_applied_to_the_model_are_what_blocks_with_replaced_weights_compute() -> None:
    model, tokens = small_llama(), some_tokens()
    form = Format(bits=4, group_size=32)
    formats = {unit: form for name in model.block_names for unit in model.block(name).shapes}
    results = dict(quantize_blocks(model, formats, rtn.quantize_block, None))
    table = rtn.quantize_table(model.table("embed_tokens"), INT8_ROW, None)
    apply_(model, results, {"embed_tokens": table})
    for name, result in results.items():
        for unit, codes in result.codes.items():
            assert torch.equal(model.block(name).tensor(unit), dequantize(codes.codes, codes.scales))
    weight = dequantize(table.codes, table.scales)
    assert torch.equal(model.embed(tokens), nn.functional.embedding(tokens, weight))


def test_a_decoder_with_a_sliding_window_is_refused() -> None:
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2, vocab_size=50
    )
    model = LlamaForCausalLM(config)
    model.config.layer_types = ["sliding_attention"]
    with pytest.raises(ConfigError, match="only decoders of full-attention layers .* sliding_attention"):
        TransformersModel(model=model)

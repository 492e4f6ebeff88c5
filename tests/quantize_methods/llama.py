"""A llama small enough for tests, with the correlated and uneven channels that real models have."""

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from export.transformers_blocks import TransformersModel

HIDDEN, INNER, VOCABULARY = 64, 128, 96


def small_llama(seed: int = 0) -> TransformersModel:
    """Two layers, four heads that share two keys and values, a tied table."""
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        initializer_range=0.15,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.copy_(torch.rand(HIDDEN) + 0.5)
    return TransformersModel(model=model)


def make_uneven(model: TransformersModel, factor: float = 20.0) -> None:
    """A few channels behind each norm larger and what reads them smaller: the function stays, rounding gets harder."""
    for name in model.block_names:
        block = model.block(name)
        for fold in block.folds:
            if fold.kind != "rows":
                block.tensor(fold.source)[:3] *= factor
                for reader in fold.readers:
                    block.tensor(reader)[:, :3] /= factor


def some_tokens(count: int = 12, length: int = 24, seed: int = 1) -> Tensor:
    """Token ids (count, length)."""
    return torch.randint(0, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))

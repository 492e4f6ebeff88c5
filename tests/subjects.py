"""What several tests build the same way: a quantized checkpoint, the eager decoder on it, and token sequences."""

from pathlib import Path

import torch
from torch import Tensor

from export import catalog
from export.backends import LoweringRequest
from export.checkpoint import Checkpoint, check_tensors
from export.config import ModelConfig, parse_config
from export.decoder import Activations, Decoder, text_positions
from export.materialize import load
from export.quantize_checkpoint import Job, load_method, quantize_checkpoint
from export.quantized import QuantizedCheckpoint
from export.random_checkpoint import RandomSpec, write_random_checkpoint
from export.schemes import ActivationKind, Scheme, layout
from export.sources import read_model_entry
from export.state import zero_state
from export.tensors import text_tensors

CONTEXT = 256


def quantized(
    checkpoint_dir: Path, root: Path, scheme: str | Scheme, group_size: int | None = None, method: str = "rtn"
) -> QuantizedCheckpoint:
    """The checkpoint quantized by a scheme, or one of the catalog, in `root`."""
    checkpoint = Checkpoint.open(checkpoint_dir)
    config = parse_config(checkpoint.config)
    check_tensors(checkpoint, text_tensors(config))
    named: Scheme = catalog.load("schemes", scheme).SCHEME if isinstance(scheme, str) else scheme
    formats = layout(named.with_group_size(group_size), config)
    chosen = load_method(method)
    job = Job(
        checkpoint=checkpoint,
        checkpoint_hash=checkpoint.content_hash(),
        config=config,
        layout=formats,
        method=chosen,
        tokens=random_tokens(config, 64).view(2, 32) if chosen.needs_calibration else None,
    )
    return quantize_checkpoint(job, root, lambda *_: None)


def eager(store: QuantizedCheckpoint, activations: Activations | None = None, fuse_quantized: bool = True) -> Decoder:
    """The decoder with the store's weights."""
    decoder = Decoder(store.config, store.layout, CONTEXT, activations, fuse_quantized)
    return load(decoder, store, CONTEXT).eval()


def request(
    store: QuantizedCheckpoint, context_length: int = CONTEXT, activations: ActivationKind = "int8"
) -> LoweringRequest:
    """A lowering request for a store, two threads, ids 1 and 2 ending a turn."""
    return LoweringRequest(
        config=store.config,
        layout=store.layout,
        context_length=context_length,
        threads=2,
        bos_token_id=None,
        eos_token_ids=(1, 2),
        pad_token_id=None,
        activations=activations,
    )


def random_tokens(config: ModelConfig, count: int, seed: int = 1) -> Tensor:
    """Random token ids, int64 (1, count)."""
    return torch.randint(0, config.vocab_size, (1, count), generator=torch.Generator().manual_seed(seed))


def two_layers(model: str, directory: Path) -> Path:
    """A random checkpoint of a model's widths: a linear and a full attention layer, and a table of 4096 tokens."""
    config = read_model_entry(model).config
    assert config is not None
    text = {**config["text_config"], "num_hidden_layers": 2, "vocab_size": 4096}
    text["layer_types"] = ["linear_attention", "full_attention"]
    return write_random_checkpoint(directory, RandomSpec(config={**config, "text_config": text}))


@torch.no_grad()
def chunked_logits(decoder: Decoder, tokens: Tensor, chunk: int) -> Tensor:
    """Logits (T, vocab) of a prefill in chunks, the state carried from one to the next."""
    state = zero_state(decoder.config, CONTEXT)
    outputs = []
    for start in range(0, tokens.shape[1], chunk):
        part = tokens[:, start : start + chunk]
        logits, state = decoder(part, text_positions(start, part.shape[1]), torch.tensor([start]), state)
        outputs.append(logits[0])
    return torch.cat(outputs)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest logit error relative to the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())

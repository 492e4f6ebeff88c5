"""A tiny real `.pte` with the contract of ExecuTorch's text runner: a decayed sum and attention over a cache, as state.

Written with torch's own export and ExecuTorch's LLM operators, without our exporter. Without attention it uses none of
those, and XNNPACK does the products: a model for runtimes that lack them.
"""

import hashlib
import importlib.metadata
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.runtimes.tiny_onnx import TEMPLATE, reference_case, tiny_tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.extension.llm.custom_ops import custom_ops as _operators  # noqa: F401 (registers llama::)

from safetensors.numpy import save_file

HIDDEN, HEADS = 32, 2
CONTEXT_LENGTH = 256
PREFILL_CHUNK = 32
DECAY = 0.8
EARLY_TOKEN = 25  # one that the first turn of the stock comparison meets, the others do not
ASCII = [*map(chr, range(33, 127)), "Ġ", "Ċ"]  # the stock runner's binding cannot show a part of a character


class TinyModel(torch.nn.Module):
    """Tokens and a position in, the last token's logits out."""

    def __init__(self, vocab_size: int, *, attention: bool = True) -> None:
        super().__init__()
        self.attention = attention
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.nn.Parameter:
            value = torch.randn(*shape, generator=generator) / shape[0] ** 0.5
            return torch.nn.Parameter(value, requires_grad=False)

        self.embedding = torch.nn.Parameter(torch.randn(vocab_size, HIDDEN, generator=generator), requires_grad=False)
        self.query, self.key, self.value, self.out = (random(HIDDEN, HIDDEN) for _ in range(4))
        self.head = random(HIDDEN, vocab_size)
        self.register_buffer("sum", torch.zeros(1, 1, HIDDEN))
        for name in ("key_cache", "value_cache") if attention else ():
            self.register_buffer(name, torch.zeros(1, CONTEXT_LENGTH, HEADS, HIDDEN // HEADS))

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        x = self.embedding[tokens]  # (1, T, HIDDEN)
        before = torch.where(input_pos == 0, torch.zeros_like(self.sum), self.sum)
        count = tokens.shape[1]
        steps = torch.arange(count)
        powers = torch.tril(DECAY ** (steps[:, None] - steps[None, :]).clamp(min=0).to(torch.float32))
        sums = powers @ x + (DECAY ** (steps + 1).to(torch.float32))[None, :, None] * before
        self.sum.copy_(sums[:, -1:])
        x = x + sums
        if self.attention:
            x = self.attend(x, input_pos)
        return x[:, -1:] @ self.head

    def attend(self, x: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        count = x.shape[1]
        start = input_pos[0].item()
        torch._check(start >= 0)
        torch._check(start < CONTEXT_LENGTH)
        query, key, value = ((x @ weight).reshape(1, count, HEADS, -1) for weight in (self.query, self.key, self.value))
        torch.ops.llama.update_cache(key, self.key_cache, start)
        torch.ops.llama.update_cache(value, self.value_cache, start)
        mixed = torch.ops.llama.custom_sdpa(query, self.key_cache, self.value_cache, start, None, 0.0, True)
        return x + mixed.reshape(1, count, HIDDEN) @ self.out


def all_logits(model: TinyModel, tokens: list[int]) -> NDArray[np.float32]:
    """Logits of every position in eager torch, one token at a time."""
    rows = [model(torch.tensor([[token]]), torch.tensor([at])) for at, token in enumerate(tokens)]
    return np.asarray(torch.cat(rows, dim=1)[0].numpy())


def export_program(model: TinyModel, eos_token_ids: list[int]) -> bytes:
    """The `.pte`, its mutable buffers named."""
    tokens = torch.export.Dim("tokens", min=1, max=PREFILL_CHUNK)
    example = (torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, example, dynamic_shapes=({1: tokens}, None), strict=False)
        constants = {
            "get_max_seq_len": CONTEXT_LENGTH,
            "get_max_context_len": CONTEXT_LENGTH,
            "use_kv_cache": True,
            "enable_dynamic_shape": True,
            "get_eos_ids": eos_token_ids,
        }
        edge = to_edge_transform_and_lower(
            program,
            partitioner=None if model.attention else [XnnpackPartitioner()],
            constant_methods=constants,
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        return bytes(edge.to_executorch(ExecutorchBackendConfig(emit_mutable_buffer_names=True)).buffer)


def state_entries(*, attention: bool = True) -> list[dict[str, Any]]:
    """The state tensors, as a manifest lists them."""
    cache = [1, CONTEXT_LENGTH, HEADS, HIDDEN // HEADS]
    rows: list[tuple[str, str, list[int], int | None]] = [
        ("sum", "recurrent", [1, 1, HIDDEN], None),
        ("key_cache", "key", cache, 1),
        ("value_cache", "value", cache, 1),
    ]
    return [
        {
            "name": name,
            "kind": kind,
            "layer": 0,
            "shape": shape,
            "dtype": "float32",
            "bytes": int(np.prod(shape)) * 4,
            "input_name": None,
            "output_name": None,
            "token_axis": axis,
        }
        for name, kind, shape, axis in (rows if attention else rows[:1])
    ]


def write_artifact(directory: Path, *, attention: bool = True) -> Path:
    """A whole ExecuTorch artifact in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(ASCII)
    vocab_size = tokenizer.get_vocab_size()
    eos = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>"), EARLY_TOKEN]
    model = TinyModel(vocab_size, attention=attention).eval()
    random = np.random.default_rng(5)
    cases = {"prompt": random.integers(0, vocab_size, 70), "long": random.integers(0, vocab_size, CONTEXT_LENGTH)}
    tensors: dict[str, NDArray[Any]] = {}
    with torch.no_grad():
        for name, tokens in cases.items():
            full = [tokens.size - 1, tokens.size // 2]
            tensors |= reference_case(name, tokens.tolist(), all_logits(model, tokens.tolist()), full)
        (directory / "model.pte").write_bytes(export_program(model, eos))
    metadata = {"format": "1", "emulation": "none", "tolerance_kind": "float", "tolerance": "1e-4"}
    save_file(tensors, directory / "reference.safetensors", metadata=metadata)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    files = sorted(place for place in directory.iterdir() if place.name != "manifest.json")
    version = importlib.metadata.version("executorch")
    manifest = {
        "schema_version": 1,
        "model": "tiny",
        "source": {"kind": "random", "id": "tiny", "revision": None, "sha256": None},
        "weights": "random",
        "scheme": "float",
        "method": "rtn",
        "backend": "executorch",
        "runtime": {"name": "executorch", "version": version, "oldest_version": "1.5"},
        "context_length": CONTEXT_LENGTH,
        "prefill_chunk": PREFILL_CHUNK,
        "vocab_size": vocab_size,
        "eos_token_ids": eos,
        "pad_token_id": None,
        "model_file": "model.pte",
        "tokenizer_file": "tokenizer.json",
        "chat_template_file": "chat_template.jinja",
        "reference_file": "reference.safetensors",
        "modalities": ["text"],
        "threads": 1,
        "state": state_entries(attention=attention),
        "files": [
            {
                "path": place.name,
                "bytes": place.stat().st_size,
                "sha256": hashlib.sha256(place.read_bytes()).hexdigest(),
            }
            for place in files
        ],
        "bytes_read_per_decoded_token": 1000,
        "toolchain": {"executorch": version},
        "inputs": {"spec_hash": "0" * 64, "checkpoint_hash": "1" * 64},
        "measured": {"parity": None, "quality": None},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory

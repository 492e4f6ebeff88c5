"""A tiny real Core AI artifact: a decayed sum and a mean over a cache, converted from torch by Apple's own converter.

It speaks the interface of the exported artifacts (both functions, padded prefill, states updated in place), so that the
runner is tested without the exporter.
"""

import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from tests.runtimes.tiny_onnx import TEMPLATE, reference_case, tiny_tokenizer

HIDDEN, CONTEXT_LENGTH, CHUNK, DECAY = 32, 100, 8, 0.8
TOLERANCE = 1e-5
SHAPES = {"total": (1, 1, HIDDEN), "cache": (1, CONTEXT_LENGTH, HIDDEN)}

Array = NDArray[Any]


class Tiny(nn.Module):
    """What both functions hold."""

    total: Tensor
    cache: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        table = torch.randn(vocab_size, HIDDEN, generator=generator)
        self.table = nn.Parameter(table, requires_grad=False)
        self.head = nn.Parameter(table.flip(0).T / HIDDEN**0.5, requires_grad=False)
        for name, shape in SHAPES.items():
            self.register_buffer(name, torch.zeros(shape))

    def answer(self, x: Tensor, slots: Tensor, last: Tensor) -> Tensor:
        """Write rows x (1, T, H) to their slots, and the logits with slots up to `last` (1,) visible."""
        self.cache.index_copy_(1, slots.long(), x)
        visible = (torch.arange(CONTEXT_LENGTH) <= last).to(torch.float32)
        mean = (self.cache * visible[None, :, None]).sum(1, keepdim=True) / visible.sum()
        return (mean + self.total) @ self.head


class Decode(Tiny):
    """One token."""

    def forward(self, input_ids: Tensor, position: Tensor) -> Tensor:
        x = self.table[input_ids]
        self.total.copy_(DECAY * self.total + x)
        return self.answer(x, position, position)


class Prefill(Tiny):
    """CHUNK tokens, of which `length` count."""

    def forward(self, input_ids: Tensor, position: Tensor, length: Tensor) -> Tensor:
        x = self.table[input_ids]
        total = self.total
        for token in range(CHUNK):
            total = torch.where(length > token, DECAY * total + x[:, token : token + 1], total)
        self.total.copy_(total)
        return self.answer(x, position + torch.arange(CHUNK, dtype=torch.int32), position + length - 1)


def all_logits(model: Decode, tokens: Sequence[int]) -> Array:
    """The logits after each token, one by one in torch."""
    model.total.zero_()
    model.cache.zero_()
    calls = [
        model(torch.tensor([[token]]), torch.tensor([position], dtype=torch.int32))
        for position, token in enumerate(tokens)
    ]
    return torch.cat(calls, 1)[0].numpy()


def write_asset(vocab_size: int, asset: Path) -> None:
    """Both functions as one `.aimodel`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter about torch's version, torch about the converter
        _convert(vocab_size).save_asset(asset)


def _convert(vocab_size: int) -> Any:
    from coreai_torch import TorchConverter, get_decomp_table

    # torch.export takes one tensor given twice for one input
    one, length = torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    calls: dict[str, tuple[nn.Module, tuple[Tensor, ...], list[str]]] = {
        "decode": (Decode(vocab_size), (one[None].clone(), one), ["input_ids", "position"]),
        "prefill": (
            Prefill(vocab_size),
            (one.expand(1, CHUNK).clone(), one, length),
            ["input_ids", "position", "length"],
        ),
    }
    converter = TorchConverter()
    for name, (module, args, inputs) in calls.items():
        program = torch.export.export(module.eval(), args).run_decompositions(get_decomp_table())
        converter.add_exported_program(
            program, input_names=inputs, output_names=["logits"], state_names=list(SHAPES), entrypoint_name=name
        )
    return converter.to_coreai()


def write_artifact(directory: Path) -> Path:
    """A whole Core AI artifact in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    vocab_size = tokenizer.get_vocab_size()
    write_asset(vocab_size, directory / "model.aimodel")
    random, model = np.random.default_rng(5), Decode(vocab_size)
    tensors: dict[str, Array] = {}
    for case, count in (("prompt", 70), ("long", CONTEXT_LENGTH)):
        tokens = random.integers(0, vocab_size, count).tolist()
        tensors |= reference_case(case, tokens, all_logits(model, tokens), [count // 2, count - 1])
    metadata = {"format": "1", "emulation": "none", "tolerance_kind": "float", "tolerance": str(TOLERANCE)}
    save_file(tensors, directory / "reference.safetensors", metadata=metadata)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    eos = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    (directory / "manifest.json").write_text(json.dumps(_manifest(directory, vocab_size, eos)))
    return directory


def _manifest(directory: Path, vocab_size: int, eos: list[int]) -> dict[str, Any]:
    version = importlib.metadata.version("coreai-core")
    return {
        "schema_version": 1,
        "model": "tiny",
        "source": {"kind": "random", "id": "tiny", "revision": None, "sha256": None},
        "weights": "random",
        "scheme": "float",
        "method": "rtn",
        "backend": "coreai-float32",
        "runtime": {"name": "coreai", "version": version, "oldest_version": version},
        "context_length": CONTEXT_LENGTH,
        "prefill_chunk": CHUNK,
        "vocab_size": vocab_size,
        "eos_token_ids": eos,
        "pad_token_id": None,
        "model_file": "model.aimodel/main.mlirb",
        "tokenizer_file": "tokenizer.json",
        "chat_template_file": "chat_template.jinja",
        "reference_file": "reference.safetensors",
        "modalities": ["text"],
        "threads": 1,
        "state": [
            {
                "name": name,
                "kind": "key" if name == "cache" else "recurrent",
                "layer": 0,
                "shape": list(shape),
                "dtype": "float32",
                "bytes": 4 * int(np.prod(shape)),
                "input_name": None,
                "output_name": None,
                "token_axis": 1 if name == "cache" else None,
            }
            for name, shape in SHAPES.items()
        ],
        "files": [
            {
                "path": place.relative_to(directory).as_posix(),
                "bytes": place.stat().st_size,
                "sha256": hashlib.sha256(place.read_bytes()).hexdigest(),
            }
            for place in sorted(directory.rglob("*"))
            if place.is_file()
        ],
        "bytes_read_per_decoded_token": 1000,
        "toolchain": {"coreai-core": version},
        "inputs": {"spec_hash": "0" * 64, "checkpoint_hash": "1" * 64},
        "measured": {"parity": None, "quality": None},
    }

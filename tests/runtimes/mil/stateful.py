"""A small decoder with every kind of state, in plain torch, and its Core ML packages as coremltools converts them."""

import warnings
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB, WIDTH, HEADS, HEAD, SLOTS, TAPS = 96, 64, 2, 32, 32, 4
CHANNELS = 3 * HEADS * HEAD
STATES = ("conv_state", "recurrent_state", "key_cache", "value_cache")
MASKED = -1e4
CHUNK = 4


class SmallDecoder(nn.Module):
    """A gated delta rule and gated attention over a cache; state in buffers that a call writes."""

    def __init__(self, tokens: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens = tokens
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.qkv = nn.Linear(WIDTH, CHANNELS, bias=False)
        self.gates = nn.Linear(WIDTH, 2 * HEADS, bias=False)
        self.taps = nn.Parameter(torch.randn(CHANNELS, TAPS) * 0.3)
        self.out = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.attention = nn.Linear(WIDTH, 4 * HEAD, bias=False)
        self.attention_out = nn.Linear(HEAD, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.register_buffer("conv_state", torch.zeros(1, CHANNELS, TAPS))
        self.register_buffer("recurrent_state", torch.zeros(1, HEADS, HEAD, HEAD))
        self.register_buffer("key_cache", torch.zeros(1, 1, SLOTS, HEAD))
        self.register_buffer("value_cache", torch.zeros(1, 1, SLOTS, HEAD))

    def forward(self, ids: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = x + self.out(self._delta(x))
        x = x + self.attention_out(self._attention(x, position, mask))
        return self.head(x[:, -1:])

    def _delta(self, x: Tensor) -> Tensor:
        columns = torch.cat([self.conv_state, self.qkv(x).transpose(1, 2)], -1)
        self.conv_state[:] = columns[:, :, -TAPS:]
        mixed = F.conv1d(columns[:, :, 1:], self.taps.unsqueeze(1), groups=CHANNELS)
        q, k, v = F.silu(mixed).transpose(1, 2).reshape(1, self.tokens, 3, HEADS, HEAD).unbind(2)
        q, k = (part * torch.rsqrt((part * part).sum(-1, keepdim=True) + 1e-3) for part in (q, k))
        beta, decay = torch.sigmoid(self.gates(x)).split([HEADS, HEADS], -1)
        state, rows = self.recurrent_state, []
        for t in range(self.tokens):
            state = state * decay[:, t, :, None, None]
            change = (v[:, t] - (k[:, t].unsqueeze(2) @ state).squeeze(2)) * beta[:, t, :, None]
            state = state + k[:, t].unsqueeze(3) @ change.unsqueeze(2)
            rows.append((q[:, t].unsqueeze(2) @ state).squeeze(2))
        self.recurrent_state[:] = state
        return torch.stack(rows, 1).reshape(1, self.tokens, HEADS * HEAD)

    def _attention(self, x: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        q, k, v, gate = self.attention(x).split([HEAD] * 4, -1)
        at = position.item()
        torch._check(at >= 0)
        torch._check(at + self.tokens <= SLOTS)
        self.key_cache.narrow(2, at, self.tokens).copy_(k.unsqueeze(1))
        self.value_cache.narrow(2, at, self.tokens).copy_(v.unsqueeze(1))
        found = F.scaled_dot_product_attention(q.unsqueeze(1), self.key_cache, self.value_cache, attn_mask=mask)
        return found.squeeze(1) * torch.sigmoid(gate)


def inputs_at(tokens: list[int], position: int) -> dict[str, np.ndarray[Any, Any]]:
    """What one call gets: ids, where they stand, and which slots each may see."""
    mask = np.full((1, 1, len(tokens), SLOTS), MASKED, np.float16)
    for row in range(len(tokens)):
        mask[..., row, : position + row + 1] = 0
    return {
        "ids": np.array([tokens], np.int32),
        "position": np.array([position], np.int32),
        "mask": mask,
    }


def reference(model: SmallDecoder, tokens: list[int]) -> list[np.ndarray[Any, Any]]:
    """Logits after each token, in fp32 torch."""
    for name in STATES:
        getattr(model, name).zero_()
    rows = []
    with torch.no_grad():
        for position, token in enumerate(tokens):
            given = inputs_at([token], position)
            rows.append(model(*(torch.from_numpy(given[name]).to(_wide(name)) for name in given))[0, 0].numpy())
    return rows


def _wide(name: str) -> torch.dtype:
    return torch.float32 if name == "mask" else torch.int64


def convert(tokens: int) -> Any:
    """The decoder for a number of tokens a call, as coremltools converts it from `torch.export`."""
    model = SmallDecoder(tokens).eval()
    given = inputs_at([0] * tokens, 0)
    example = tuple(torch.from_numpy(given[name]).to(_wide(name)) for name in given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, example).run_decompositions({})
        return ct.convert(
            program,
            inputs=[
                ct.TensorType(name="ids", shape=(1, tokens), dtype=np.int32),
                ct.TensorType(name="position", shape=(1,), dtype=np.int32),
                ct.TensorType(name="mask", shape=(1, 1, tokens, SLOTS), dtype=np.float16),
            ],
            outputs=[ct.TensorType(name="logits", dtype=np.float16)],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )


def save_both(directory: Path) -> Path:
    """One package with the functions `decode` and `prefill`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, tokens in (("decode", 1), ("prefill", CHUNK)):
            convert(tokens).save(str(directory / f"{name}.mlpackage"))
        merged = ct.utils.MultiFunctionDescriptor()
        for name in ("decode", "prefill"):
            merged.add_function(str(directory / f"{name}.mlpackage"), "main", name)
        merged.default_function_name = "decode"
        ct.utils.save_multifunction(merged, str(directory / "both.mlpackage"))
    return directory / "both.mlpackage"

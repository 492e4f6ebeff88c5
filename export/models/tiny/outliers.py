"""Give a trained checkpoint the channel outliers of a large model without changing what it computes.

Large language models have a few channels many times larger than the rest; a small one has none, so every quantizer
looks good on it. Wherever a channel leaves one operation and enters a linear one, it may be made s times larger before
and its weights s times smaller after, or the other way round: norms into projections, `up` into `down`, values into
the output projection, and keys against queries. (The residual stream has no such freedom: RMSNorm mixes its channels.)

Most of the chosen channels become small activations read by large weights (s below 1): a large weight spoils the int4
codes of its whole group, which a method that knows the activations can repair, and costs 8-bit activations little.
Large activations (8 to 32 times, tried first) hurt int4 as much, but 8-bit activations ten times as much: the model
then amplifies float32 rounding so far that no runtime agrees with eager torch to 1e-4 nats (docs/log.md). Only keys
get such channels, since nothing but a quantized cache rounds them.

A norm of the family multiplies by 1 + weight, so its factor is bent to the one that bf16 stores exactly; the other
factors are powers of two. So rounding the result to bf16 costs no more than rounding the original did.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PREFIX = "model.language_model.layers."
Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """Which share of the channels changes, and by how much."""

    share: float = 0.02
    scales: tuple[float, ...] = (2.0, 1 / 4, 1 / 8)
    key_share: float = 0.03
    key_scales: tuple[float, ...] = (8.0, 16.0, 32.0)
    seed: int = 2035


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The head counts that the folds between heads need."""

    attention: int
    key_value: int
    delta_value: int


def add_outliers(tensors: Tensors, heads: Heads, outliers: Outliers) -> Tensors:
    """Return the tensors with some channels scaled; the function they compute is the same."""
    result = {name: tensor.clone() for name, tensor in tensors.items()}
    generator = torch.Generator().manual_seed(outliers.seed)
    layers = sorted({int(name[len(PREFIX) :].split(".")[0]) for name in tensors if name.startswith(PREFIX)})
    for layer in layers:
        here = f"{PREFIX}{layer}."
        _grow_norm(result, f"{here}post_attention_layernorm", [f"{here}mlp.gate_proj", f"{here}mlp.up_proj"],
                   _common(result[f"{here}post_attention_layernorm.weight"].numel(), outliers, generator))  # fmt: skip
        _grow_rows(result, f"{here}mlp.up_proj", f"{here}mlp.down_proj", outliers, generator)
        if f"{here}self_attn.q_proj.weight" in tensors:
            _grow_attention(result, here, heads, outliers, generator)
        else:
            _grow_delta(result, here, heads, outliers, generator)
    return result


def _factors(count: int, share: float, scales: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """One factor a channel: 1 for most, a scale for the chosen share (at least one)."""
    chosen = torch.randperm(count, generator=generator)[: max(1, round(share * count))]
    picks = torch.randint(len(scales), (len(chosen),), generator=generator)
    factors = torch.ones(count)
    factors[chosen] = torch.tensor(scales)[picks]
    return factors


def _common(count: int, outliers: Outliers, generator: torch.Generator) -> Tensor:
    return _factors(count, outliers.share, outliers.scales, generator)


def _grow_norm(tensors: Tensors, norm: str, consumers: list[str], factors: Tensor) -> None:
    """Scale channels that leave a (1 + weight) norm, and shrink their columns in what reads them."""
    gain = 1 + tensors[f"{norm}.weight"].float()
    grown = (gain * factors - 1).to(torch.bfloat16).float()
    changed = factors != 1
    tensors[f"{norm}.weight"] = torch.where(changed, grown, gain - 1)
    exact = torch.where(changed, (1 + grown) / gain, 1.0)
    for consumer in consumers:
        tensors[f"{consumer}.weight"] /= exact


def _grow_rows(tensors: Tensors, source: str, reader: str, outliers: Outliers, generator: torch.Generator) -> None:
    """Scale the outputs of one linear layer whose reader is linear in them."""
    factors = _common(tensors[f"{source}.weight"].shape[0], outliers, generator)
    tensors[f"{source}.weight"] *= factors[:, None]
    tensors[f"{reader}.weight"] /= factors


def _grow_attention(tensors: Tensors, here: str, heads: Heads, outliers: Outliers, generator: torch.Generator) -> None:
    """Full attention: the norm before it, values into the output, and keys against queries."""
    attention = f"{here}self_attn."
    norm = f"{here}input_layernorm"
    readers = [f"{attention}{name}_proj" for name in "qkv"]
    _grow_norm(tensors, norm, readers, _common(tensors[f"{norm}.weight"].numel(), outliers, generator))

    values = _common(tensors[f"{attention}v_proj.weight"].shape[0], outliers, generator)
    tensors[f"{attention}v_proj.weight"] *= values[:, None]
    per_query_head = values.view(heads.key_value, -1).repeat_interleave(heads.attention // heads.key_value, dim=0)
    tensors[f"{attention}o_proj.weight"] /= per_query_head.flatten()

    # Only channels that rotary embedding leaves alone: a rotated pair would need one factor.
    query_gain = 1 + tensors[f"{attention}q_norm.weight"].float()
    keys = _factors(query_gain.numel(), outliers.key_share, outliers.key_scales, generator)
    keys[: query_gain.numel() // 2] = 1.0
    shrunk = (query_gain / keys - 1).to(torch.bfloat16).float()
    changed = keys != 1
    tensors[f"{attention}q_norm.weight"] = torch.where(changed, shrunk, query_gain - 1)
    exact = torch.where(changed, query_gain / (1 + shrunk), 1.0)
    tensors[f"{attention}k_norm.weight"] = (1 + tensors[f"{attention}k_norm.weight"].float()) * exact - 1


def _grow_delta(tensors: Tensors, here: str, heads: Heads, outliers: Outliers, generator: torch.Generator) -> None:
    """Gated delta layer: the norm before it, and its own (plain) output norm, one weight for all heads."""
    delta = f"{here}linear_attn."
    norm = f"{here}input_layernorm"
    readers = [f"{delta}in_proj_{name}" for name in ("qkv", "z", "b", "a")]
    _grow_norm(tensors, norm, readers, _common(tensors[f"{norm}.weight"].numel(), outliers, generator))

    outputs = _common(tensors[f"{delta}norm.weight"].numel(), outliers, generator)
    tensors[f"{delta}norm.weight"] = tensors[f"{delta}norm.weight"] * outputs
    tensors[f"{delta}out_proj.weight"] /= outputs.repeat(heads.delta_value)


def round_to_int4(weight: Tensor, *, group: int = 32) -> Tensor:
    """The weight after symmetric round-to-nearest int4: the simplest quantizer, to show what the outliers cost it."""
    groups = weight.view(weight.shape[0], -1, group)
    scale = groups.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 7  # an all-zero group would divide by zero
    return ((groups / scale).round().clamp(-8, 7) * scale).view_as(weight)


def round_projections(tensors: Tensors) -> Tensors:
    """All projections of the decoder in int4 but the two that every scheme keeps (in_proj_a, in_proj_b)."""
    kept_float = ("in_proj_a.weight", "in_proj_b.weight")
    return {
        name: round_to_int4(tensor)
        if name.startswith(PREFIX) and "_proj" in name and not name.endswith(kept_float)
        else tensor
        for name, tensor in tensors.items()
    }

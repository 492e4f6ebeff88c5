"""The seams of the decoder: custom operators (namespace `edge`) with plain-torch references.

The decoder is ordinary torch except for these. Each stands for something that a phone runtime has a fused kernel for;
a backend is mostly a table from them to its own kernels (`ExportedProgram.run_decompositions`). The references here are
what transformers computes (transformers/models/qwen3_5/modeling_qwen3_5.py), so eager torch is the oracle of every
backend.

Axis words: B batch (1 on phones), T tokens, H heads, D head size, C channels, K kernel width, S cache slots.
"""

# ruff: noqa: ARG001 (a fake kernel has the signature of its operator)

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.nn import functional

FLOAT_BITS = 32
STATIC = "int8_static"


def _differentiable(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """An operator whose gradient is its reference's: calibration and training differentiate what runtimes run.

    Only inputs are kept for the backward pass, which runs the reference again: nothing that exists between the two is
    larger than what the layer around them keeps. `linear` and `embedding` have no gradient: codes are integers.
    """

    def define(reference: Callable[..., Any]) -> CustomOpDef:
        def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*[value for value in inputs if isinstance(value, Tensor)])
            ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]

        def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
            return _gradients(reference, ctx, gradients)

        operator = torch.library.custom_op(name, mutates_args=())(reference)
        operator.register_autograd(backward, setup_context=keep)
        return operator

    return define


def _gradients(
    reference: Callable[..., Any], ctx: Any, gradients: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """What the reference's inputs contribute to `gradients` of its outputs."""
    saved = iter(ctx.saved_tensors)
    inputs = [next(saved).detach() if other is None else other for other in ctx.others]
    wanted = [index for index, needed in enumerate(ctx.needs_input_grad) if needed]
    with torch.enable_grad():
        for index in wanted:
            inputs[index].requires_grad_()
        found = reference(*inputs)
        outputs = found if isinstance(found, tuple) else (found,)
        # an output that leads nowhere has no gradient, and one that no wanted input reaches has no history
        pairs = [(out, grad) for out, grad in zip(outputs, gradients, strict=True) if grad is not None and out.grad_fn]
        flow = torch.autograd.grad(
            [out for out, _ in pairs],
            [inputs[index] for index in wanted],
            [grad for _, grad in pairs],
            allow_unused=True,
        )
    by_index = dict(zip(wanted, flow, strict=True))
    return tuple(by_index.get(index) for index in range(len(inputs)))


@torch.library.custom_op("edge::linear", mutates_args=())
def linear(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bits: int,
    group_size: int,
    activation: str,
    activation_group: int,
    grid: Tensor | None = None,
    output_grid: Tensor | None = None,
) -> Tensor:
    """x (..., in) times quantized weights: int8 codes (out, in), float32 scales (out, in / group_size).

    `activation` is what the runtime does to x before the integer product: "none"; "int8_group", symmetric absmax/127
    over each `activation_group` inputs (ONNX Runtime MatMulNBits at accuracy_level 4, mlas/sqnbitgemm
    `QuantizeARow_CompInt8`); "int8_token", asymmetric over the whole row (XNNPACK qd8,
    `xnn_f32_qd8_asymmetric_quantization_params`); "int8_static", asymmetric on `grid` (2,), a scale and a zero point in
    -128..127 that calibration learned. Where a runtime's static product also puts out 8 bits (XNNPACK qs8),
    `output_grid` (out, 2) holds each row's.
    """
    weight = dequantize(codes, scales)  # (out, in)
    if activation == STATIC:
        assert grid is not None
        product = functional.linear(round_to_grid(x, grid), weight)
        return product if output_grid is None else round_to_grid(product, output_grid)
    return functional.linear(quantize_activation(x, activation, activation_group), weight)


@linear.register_fake
def _(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bits: int,
    group_size: int,
    activation: str,
    activation_group: int,
    grid: Tensor | None = None,
    output_grid: Tensor | None = None,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@torch.library.custom_op("edge::embedding", mutates_args=())
def embedding(ids: Tensor, codes: Tensor, scales: Tensor, bits: int, group_size: int) -> Tensor:
    """Rows of a table: ids (B, T), codes (vocab, hidden), scales (vocab, hidden / group_size) -> (B, T, hidden)."""
    rows = ids.reshape(-1)
    return dequantize(codes[rows], scales[rows]).reshape(*ids.shape, codes.shape[1])


@embedding.register_fake
def _(ids: Tensor, codes: Tensor, scales: Tensor, bits: int, group_size: int) -> Tensor:
    return scales.new_empty((*ids.shape, codes.shape[1]))


@_differentiable("edge::rms_norm")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis; `weight` already holds Qwen3.5's 1 + w."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_differentiable("edge::add_rms_norm")
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual); `weight` already holds 1 + w."""
    total = x + residual
    return total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + eps) * weight, total


@add_rms_norm.register_fake
def _(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


@_differentiable("edge::gated_rms_norm")
def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """rms_norm over D of x (B, T, H, D) times silu(gate); this norm's weight (D,) is plain, not 1 + w."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight * functional.silu(gate)


@gated_rms_norm.register_fake
def _(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


@_differentiable("edge::l2_norm")
def l2_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(sum(x^2) + eps) over the last axis; the epsilon sits inside the root, so a zero row stays zero."""
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + eps)


@l2_norm.register_fake
def _(x: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_differentiable("edge::delta_gate")
def delta_gate(a: Tensor, b: Tensor, decay_scale: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    """(decay_scale * softplus(a + dt_bias), sigmoid(b)), each (B, T, H); decay_scale = -exp(A_log): a log <= 0."""
    return decay_scale * functional.softplus(a + dt_bias), torch.sigmoid(b)


@delta_gate.register_fake
def _(a: Tensor, b: Tensor, decay_scale: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(a, memory_format=torch.contiguous_format), torch.empty_like(
        b, memory_format=torch.contiguous_format
    )


@_differentiable("edge::gated_delta")
def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The gated delta rule (Yang et al. 2024, arXiv 2412.06464).

    S <- exp(g) S + k (beta (v - exp(g) S^T k))^T, out = S^T q.

    q, k (B, T, Hk, D) l2-normed, q is multiplied by `scale` here; v (B, T, Hv, D), Hv a multiple of Hk (each key head
    serves Hv / Hk consecutive value heads); log_decay, beta (B, T, Hv); state (B, Hv, D, D) float32, key axis first.
    Returns out (B, T, Hv, D) and the new state.
    """
    return chunked_gated_delta(q, k, v, log_decay, beta, state, scale)


@gated_delta.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), torch.empty_like(state)


def recurrent_gated_delta(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The gated delta rule one token at a time: slow, and the definition that every faster form is tested against."""
    repeat = v.shape[2] // q.shape[2]
    q = (q * scale).repeat_interleave(repeat, dim=2)
    k = k.repeat_interleave(repeat, dim=2)
    outputs = []
    for token in range(v.shape[1]):
        state = state * log_decay[:, token].exp()[..., None, None]
        predicted = torch.einsum("bhkv,bhk->bhv", state, k[:, token])
        delta = (v[:, token] - predicted) * beta[:, token].unsqueeze(-1)
        state = state + k[:, token].unsqueeze(-1) * delta.unsqueeze(-2)
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, token]))
    return torch.stack(outputs, dim=1), state


def chunked_gated_delta(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor, scale: float, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """The gated delta rule in parallel chunks (UT transform, arXiv 2406.06484 section 3).

    Decays enter only as exp of non-positive differences, so a chunk whose log-decays sum far below -80 stays finite.
    """
    repeat = v.shape[2] // q.shape[2]
    q = (q * scale).repeat_interleave(repeat, dim=2).transpose(1, 2)  # (B, Hv, T, D)
    k = k.repeat_interleave(repeat, dim=2).transpose(1, 2)
    v, log_decay, beta = v.transpose(1, 2), log_decay.transpose(1, 2), beta.transpose(1, 2)
    outputs = []
    for start in range(0, v.shape[2], chunk):
        part = slice(start, start + chunk)
        out, state = _delta_chunk(
            q[:, :, part], k[:, :, part], v[:, :, part], log_decay[:, :, part], beta[:, :, part], state
        )
        outputs.append(out)
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), state


def _delta_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    tokens = q.shape[2]
    total = log_decay.cumsum(-1)  # (B, H, T): log-decay from the chunk's start to each token
    lower = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
    between = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~lower, float("-inf")).exp()  # (B, H, T, T)
    system = (k * beta.unsqueeze(-1)) @ k.transpose(-1, -2) * between
    reads = total.exp().unsqueeze(-1) * (k @ state)  # what the old state predicts for each key
    target = beta.unsqueeze(-1) * (v - reads)
    delta = torch.linalg.solve_triangular(system.tril(-1), target, upper=False, unitriangular=True)
    out = total.exp().unsqueeze(-1) * (q @ state) + (q @ k.transpose(-1, -2) * between) @ delta
    to_end = (total[..., -1:] - total).exp().unsqueeze(-1)
    return out, state * total[..., -1].exp()[..., None, None] + (k * to_end).transpose(-1, -2) @ delta


@_differentiable("edge::causal_conv")
def causal_conv(x: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """silu of a depthwise causal convolution: x (B, T, C), weight (C, K), state (B, C, K - 1) -> (B, T, C), state."""
    joined = torch.cat([state, x.transpose(1, 2)], dim=-1)  # (B, C, K - 1 + T)
    out = functional.conv1d(joined, weight.unsqueeze(1), groups=weight.shape[0])
    return functional.silu(out).transpose(1, 2).contiguous(), joined[..., -state.shape[-1] :].contiguous()


@causal_conv.register_fake
def _(x: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(state)


@_differentiable("edge::attention")
def attention(
    q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, position: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention over a cache.

    q (B, T, H, D), k and v (B, T, Hkv, D), caches (B, Hkv, S, D), position (1,) int64.

    Token t sits in cache slot position + t. Returns out (B, T, H, D) and both caches with the new rows written.
    """
    start, tokens = int(position), q.shape[1]
    k_cache, v_cache = k_cache.clone(), v_cache.clone()
    k_cache[:, :, start : start + tokens] = k.transpose(1, 2)
    v_cache[:, :, start : start + tokens] = v.transpose(1, 2)
    keys, values = k_cache[:, :, : start + tokens], v_cache[:, :, : start + tokens]
    slots = torch.arange(start + tokens, device=q.device)
    visible = slots[None, :] <= slots[start:, None]
    out = functional.scaled_dot_product_attention(
        q.transpose(1, 2), keys, values, attn_mask=visible, scale=scale, enable_gqa=True
    )
    return out.transpose(1, 2).contiguous(), k_cache, v_cache


@attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, position: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), torch.empty_like(k_cache), torch.empty_like(v_cache)


@_differentiable("edge::round_to_cache")
def round_to_cache(x: Tensor, scale: Tensor) -> Tensor:
    """x as an int8 cache gives it back, scale (1,): clamp(round(x / scale), -128, 127) * scale, half to even.

    The rounding that ONNX Runtime's GroupQueryAttention applies to keys and values (tried value by value, docs/log.md).
    """
    return torch.clamp(torch.round(x / scale), -128, 127) * scale


@round_to_cache.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x)


@_differentiable("edge::rotary")
def rotary(x: Tensor, positions: Tensor, cos_table: Tensor, sin_table: Tensor, sections: list[int]) -> Tensor:
    """Interleaved mRoPE on the first 2R of D dims: x (B, T, H, D), positions (3, B, T), tables (context, R).

    Frequency i turns by the height row for i = 1, 4, 7 ... below 3 * sections[1], by the width row for i = 2, 5, 8 ...
    below 3 * sections[2], else by the time row; pairs are (i, i + R).
    """
    half = cos_table.shape[1]
    axis = mrope_axes(half, sections).to(x.device)
    rows = positions.permute(1, 2, 0)[..., axis]  # (B, T, R): the position that turns each frequency
    frequency = torch.arange(half, device=x.device)
    cos, sin = cos_table[rows, frequency].unsqueeze(2), sin_table[rows, frequency].unsqueeze(2)  # (B, T, 1, R)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


@rotary.register_fake
def _(x: Tensor, positions: Tensor, cos_table: Tensor, sin_table: Tensor, sections: list[int]) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_differentiable("edge::swiglu")
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return functional.silu(gate) * up


@swiglu.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:
    return torch.empty_like(up, memory_format=torch.contiguous_format)


@_differentiable("edge::sigmoid_gate")
def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    """x * sigmoid(gate), the output gate of Qwen3.5's full attention."""
    return x * torch.sigmoid(gate)


@sigmoid_gate.register_fake
def _(x: Tensor, gate: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def mrope_axes(half: int, sections: list[int] | tuple[int, int, int]) -> Tensor:
    """Which position row (0 time, 1 height, 2 width) turns each of the `half` rotary frequencies: int64 (half,)."""
    axes = torch.zeros(half, dtype=torch.int64)
    axes[1 : 3 * sections[1] : 3] = 1
    axes[2 : 3 * sections[2] : 3] = 2
    return axes


def dequantize(codes: Tensor, scales: Tensor) -> Tensor:
    """float32 weights (out, in) of int8 codes (out, in) and float32 scales (out, groups)."""
    rows, columns = codes.shape
    return (codes.float().view(rows, scales.shape[1], -1) * scales.unsqueeze(-1)).view(rows, columns)


def quantize_activation(x: Tensor, activation: str, group: int) -> Tensor:
    """x after the runtime's activation quantization and back to float32, same shape."""
    if activation == "none":
        return x
    if activation == "int8_group":
        return _int8_symmetric(x, group)
    if activation == "int8_token":
        return _int8_asymmetric(x)
    raise ValueError(f"unknown activation {activation!r}; known: none, int8_group, int8_token")


def round_to_grid(x: Tensor, grid: Tensor) -> Tensor:
    """x on a static 8-bit grid (2,) or (x.shape[-1], 2), a scale and a zero point, and back to float32.

    (clamp(round(x / scale) + zero, -128, 127) - zero) * scale, halves to even: ONNX's QuantizeLinear, and XNNPACK's.
    """
    scale, zero = grid[..., 0], grid[..., 1]
    return (torch.clamp(torch.round(x / scale) + zero, -128.0, 127.0) - zero) * scale


def _int8_symmetric(x: Tensor, group: int) -> Tensor:
    groups = x.unflatten(-1, (-1, group))
    largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, torch.zeros_like(largest))
    codes = (groups * inverse).round().clamp(-128, 127)
    rounded: Tensor = codes * (largest / 127.0)
    return rounded.flatten(-2)


def _int8_asymmetric(x: Tensor) -> Tensor:
    """In XNNPACK's own order of operations, so that a value near a rounding boundary falls on the same side."""
    low = x.amin(-1, keepdim=True).clamp(max=0.0)
    high = x.amax(-1, keepdim=True).clamp(min=0.0)
    inverse = torch.where(low == high, torch.ones_like(high), 255.0 / (high - low))
    scaled_low, scaled_high = low * inverse, high * inverse
    # the end whose rounding error is smaller goes onto the grid
    zero = torch.where((-128.0 + scaled_low) + (127.0 + scaled_high) > 0, -128.0 - scaled_low, 127.0 - scaled_high)
    zero = zero.clamp(-128.0, 127.0).round()
    codes = (x * inverse).round().add(zero).clamp(-128.0, 127.0)
    return (codes - zero) * (1.0 / inverse)

"""Activations."""

import torch
from torch import Tensor
from torch.nn import functional as F

from runtimes.mil.errors import UnsupportedProgramError


def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(x >= 0, torch.clamp(x, max=beta), torch.clamp(alpha * x, max=beta))


def elu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise UnsupportedProgramError(f"gelu has no mode {mode!r}")


def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x)


def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """One slope a channel, which is axis 1."""
    slope = alpha.reshape(-1, *[1] * (x.dim() - 2))
    return torch.where(x >= 0, x, slope * x)


def relu(x: Tensor) -> Tensor:
    return F.relu(x)


def relu6(x: Tensor) -> Tensor:
    return torch.clamp(x, 0, 6)


def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def silu(x: Tensor) -> Tensor:
    return F.silu(x)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """One pair of parameters a channel, which is axis 1."""
    shape = (-1, *[1] * (x.dim() - 2))
    scaled = beta.reshape(shape) * x
    return alpha.reshape(shape) * torch.logaddexp(scaled, torch.zeros_like(scaled))


def softsign(x: Tensor) -> Tensor:
    return x / (1 + torch.abs(x))


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros_like(x))

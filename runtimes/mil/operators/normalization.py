"""Norms; their statistics stay in fp32."""

import torch
from torch import Tensor

from runtimes.mil.operators.kinds import Ints


def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """`gamma` and `beta` have the shape of the normalized axes."""
    over = sorted(axis % x.dim() for axis in (axes if axes is not None else range(x.dim())))
    mean = x.mean(over, keepdim=True)
    variance = (x - mean).square().mean(over, keepdim=True)
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    return _scaled((x - mean) / torch.sqrt(variance + epsilon), gamma, beta, shape)


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Statistics a channel, which is axis 1."""
    shape = [1, -1, *[1] * (x.dim() - 2)]
    normed = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + epsilon)
    return _scaled(normed, gamma, beta, shape)


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """Each channel of each batch entry for itself."""
    over = list(range(2, x.dim()))
    mean = x.mean(over, keepdim=True)
    variance = (x - mean).square().mean(over, keepdim=True)
    return _scaled((x - mean) / torch.sqrt(variance + epsilon), gamma, beta, [1, -1, *[1] * len(over)])


def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Over the last three axes together."""
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: list[int]) -> Tensor:
    if gamma is not None:
        x = x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)

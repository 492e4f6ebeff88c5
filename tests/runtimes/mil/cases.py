"""One case an operator or more, with inputs; what must come out is coremltools' own inference of constant values.

Where coremltools has none, or one that is wrong or undefined, the case carries a reference in torch or numpy.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Array = NDArray[Any]
Reference = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An operator applied to inputs (of which `values` may be a list) with parameters."""

    operator: str
    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reference: Reference | None = None

    @property
    def floats(self) -> bool:
        """Whether the case can be repeated in fp16."""
        first = next(iter(self.inputs.values()))
        return (first[0] if isinstance(first, list) else first).dtype == np.float32


def in_torch(function: Callable[..., Any]) -> Reference:
    """A reference written in torch: arrays in, arrays out; it gets those arguments that it names."""
    named = set(inspect.signature(function).parameters)

    def reference(**arguments: Any) -> Any:
        def convert(value: Any) -> Any:
            if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
                return [torch.from_numpy(item) for item in value]
            return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

        result = function(**{name: convert(value) for name, value in arguments.items() if name in named})
        return [part.numpy() for part in result] if isinstance(result, tuple) else result.numpy()

    return reference


RANDOM = np.random.default_rng(0)


def normal(*shape: int, scale: float = 1.0) -> Array:
    return (RANDOM.normal(size=shape) * scale).astype(np.float32)


def positive(*shape: int) -> Array:
    return (RANDOM.random(size=shape) * 2 + 0.1).astype(np.float32)


def unit(*shape: int) -> Array:
    return (RANDOM.random(size=shape) * 1.8 - 0.9).astype(np.float32)


def whole(*shape: int, low: int = -9, high: int = 9, dtype: Any = np.int32) -> Array:
    return RANDOM.integers(low, high, size=shape).astype(dtype)


def truth(*shape: int) -> Array:
    return RANDOM.random(size=shape) > 0.5


def cases() -> Iterator[tuple[str, Case]]:
    """Every case under a name of its own."""
    for groups in (elementwise, activations, shapes, indexing, reductions, matrices, norms, creations, windows):
        count: dict[str, int] = {}
        for case in groups():
            count[case.operator] = count.get(case.operator, 0) + 1
            yield f"{case.operator}_{count[case.operator]}", case


def case(operator: str, reference: Reference | None = None, /, **arguments: Any) -> Case:
    """Arrays, and lists of arrays, are inputs; what is wrapped as `Constant` and everything else are parameters."""

    def is_input(value: Any) -> bool:
        return isinstance(value, np.ndarray) or (
            isinstance(value, list) and bool(value) and isinstance(value[0], np.ndarray)
        )

    inputs = {name: value for name, value in arguments.items() if is_input(value)}
    parameters = {
        name: value.value if isinstance(value, Constant) else value
        for name, value in arguments.items()
        if name not in inputs
    }
    return Case(operator=operator, inputs=inputs, parameters=parameters, reference=reference)


@dataclass(frozen=True)
class Constant:
    """An array that the program holds."""

    value: Array


def elementwise() -> Iterator[Case]:
    for name in ("abs", "atan", "ceil", "cos", "erf", "exp", "exp2", "floor", "round", "sign", "sin", "square", "tanh"):
        yield case(name, x=normal(2, 3, 5, scale=3))
    for name in ("acos", "asin", "atanh", "cosh", "sinh", "tan"):
        yield case(name, x=unit(4, 3))
    for name in ("log", "rsqrt", "sqrt", "inverse"):
        yield case(name, x=positive(3, 4))
    yield case("log", x=positive(3, 4), epsilon=np.float32(0.25))
    yield case("rsqrt", x=positive(3, 4), epsilon=np.float32(0.25))
    yield case("inverse", x=positive(3, 4), epsilon=np.float32(0.25))
    yield case("round", x=np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32))
    yield case("clip", x=normal(3, 4, scale=3), alpha=np.float32(-1), beta=np.float32(2))
    yield case("threshold", x=normal(3, 4), alpha=np.float32(0.3))
    yield case("logical_not", x=truth(3, 4))
    for name in ("add", "sub", "mul", "real_div", "maximum", "minimum", "floor_div", "mod"):
        yield case(name, x=normal(2, 1, 5, scale=4), y=positive(3, 1))
        yield case(name, x=normal(2, 3), y=np.float32(1.5))
    for name in ("add", "sub", "mul", "maximum", "minimum", "floor_div", "mod"):
        yield case(name, x=whole(2, 3), y=whole(2, 3, low=1))
    yield case("real_div", in_torch(lambda x, y: torch.div(x, y, rounding_mode="trunc")), x=whole(9), y=whole(9, low=1))
    yield case("pow", x=positive(3, 4), y=normal(3, 4))
    for name in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal"):
        yield case(name, x=whole(4, 5, low=0, high=3), y=whole(5, low=0, high=3))
        yield case(name, x=np.round(normal(4, 5)), y=np.round(normal(1, 5)))
    for name in ("logical_and", "logical_or", "logical_xor"):
        yield case(name, x=truth(4, 5), y=truth(4, 5))
    yield case("select", cond=truth(3, 1, 4), a=normal(3, 2, 4), b=normal(3, 2, 4))
    yield case("select", cond=truth(3, 4), a=whole(3, 4), b=whole(3, 4))
    yield case("cast", in_torch(lambda x: x.to(torch.int32)), x=normal(9, scale=4), dtype="int32")
    yield case("cast", in_torch(lambda x: x.to(torch.float16)), x=normal(9, scale=4), dtype="fp16")
    yield case("cast", in_torch(lambda x: x != 0), x=whole(9, low=-1, high=2), dtype="bool")
    yield case("cast", in_torch(lambda x: x.to(torch.float32)), x=whole(9), dtype="fp32")
    yield case("cast", in_torch(lambda x: x.to(torch.int16)), x=whole(9), dtype="int16")
    yield case("cast", in_torch(lambda x: x.to(torch.float32)), x=truth(9), dtype="fp32")


def activations() -> Iterator[Case]:
    x = normal(2, 4, 3, 5, scale=2)
    for name in ("relu", "relu6", "sigmoid", "softplus", "softsign"):
        yield case(name, x=x)
    yield case("softplus", in_torch(lambda x: F.softplus(x)), x=np.array([-80.0, -1, 0, 1, 80], np.float32))
    yield case("silu", in_torch(lambda x: x * torch.sigmoid(x)), x=x)
    for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"):
        yield case("gelu", x=x, mode=mode)
    yield case("clamped_relu", x=x, alpha=np.float32(0.1), beta=np.float32(1.5))
    yield case("elu", x=x, alpha=np.float32(0.7))
    yield case("leaky_relu", x=x, alpha=np.float32(0.1))
    yield case("linear_activation", x=x, alpha=np.float32(0.7), beta=np.float32(-0.2))
    yield case("prelu", x=x, alpha=Constant(positive(4)))
    yield case("scaled_tanh", x=x, alpha=np.float32(0.7), beta=np.float32(1.2))
    yield case("sigmoid_hard", x=x, alpha=np.float32(0.3), beta=np.float32(0.4))
    yield case("softplus_parametric", x=x, alpha=Constant(positive(4)), beta=Constant(positive(4)))
    yield case("thresholded_relu", x=x, alpha=np.float32(0.4))
    for axis in (-1, 0, 2):
        yield case("softmax", x=x, axis=axis)
    yield case("softmax", x=normal(3, 7, scale=40))


def shapes() -> Iterator[Case]:
    x = normal(2, 3, 4)
    yield case("concat", values=[normal(2, 3), normal(2, 1)], axis=1)
    yield case("concat", values=[whole(2, 3), whole(4, 3)], axis=-2)
    yield case("concat", in_torch(_interleave), values=[normal(2, 3, 2), normal(2, 3, 2)], axis=1, interleave=True)
    yield case("expand_dims", x=x, axes=[0, 2, -1])
    yield case("flatten2d", x=x, axis=2)
    yield case("flatten2d", x=x, axis=-1)
    yield case("identity", x=x)
    yield case("pad", x=x, pad=[0, 1, 2, 3], constant_val=np.float32(0.5))
    yield case("pad", x=x, pad=[1, 0, 1, 2, 2, 1], mode="reflect")
    yield case("pad", x=x, pad=[1, 3, 4, 0], mode="replicate")
    yield case("reshape", x=x, shape=[4, -1])
    yield case("reshape", x=x, shape=[1, 0, -1, 0])
    yield case("reshape", x=whole(6), shape=[2, 3])
    yield case("reverse", x=x, axes=[0, -1])
    yield case("reverse", x=x)
    yield case("split", x=x, num_splits=2, axis=2)
    yield case("split", x=x, split_sizes=[1, 2], axis=-2)
    yield case("squeeze", x=normal(1, 3, 1, 2), axes=[0, 2])
    yield case("squeeze", x=normal(1, 3, 1, 2), axes=[-2])
    yield case("squeeze", x=normal(1, 3, 1, 2))
    yield case("stack", values=[normal(2, 3), normal(2, 3)], axis=1)
    yield case("stack", values=[normal(2, 3), normal(2, 3), normal(2, 3)], axis=-1)
    yield case("tile", x=x, reps=[2, 1, 3])
    yield case("transpose", x=x, perm=[2, 0, 1])
    yield case("transpose", x=truth(2, 3), perm=[1, 0])
    shuffle = in_torch(lambda x, upscale_factor: F.pixel_shuffle(x, upscale_factor))
    yield case("pixel_shuffle", shuffle, x=normal(1, 8, 2, 3), upscale_factor=2)
    unshuffle = in_torch(lambda x, downscale_factor: F.pixel_unshuffle(x, downscale_factor))
    yield case("pixel_unshuffle", unshuffle, x=normal(1, 2, 4, 6), downscale_factor=np.uint32(2))
    yield case("space_to_depth", _space_to_depth, x=normal(1, 2, 4, 6), block_size=2)
    yield case("depth_to_space", _depth_to_space, x=normal(1, 8, 2, 3), block_size=2)


def _interleave(values: list[torch.Tensor], axis: int, interleave: bool) -> torch.Tensor:
    assert interleave
    rows = [part.select(axis, at) for at in range(values[0].shape[axis]) for part in values]
    return torch.stack(rows, axis)


def _space_to_depth(x: Array, block_size: int) -> Array:
    """Written place by place."""
    B, C, H, W = x.shape
    result = np.zeros((B, C * block_size**2, H // block_size, W // block_size), x.dtype)
    for row in range(block_size):
        for column in range(block_size):
            first = (row * block_size + column) * C
            result[:, first : first + C] = x[:, :, row::block_size, column::block_size]
    return result


def _depth_to_space(x: Array, block_size: int) -> Array:
    B, C, H, W = x.shape
    count = C // block_size**2
    result = np.zeros((B, count, H * block_size, W * block_size), x.dtype)
    for row in range(block_size):
        for column in range(block_size):
            first = (row * block_size + column) * count
            result[:, :, row::block_size, column::block_size] = x[:, first : first + count]
    return result


def indexing() -> Iterator[Case]:
    x = normal(3, 4, 5)
    yield case("argsort", x=normal(3, 7), axis=1, ascending=True)
    yield case("argsort", x=normal(3, 7), axis=0)
    yield case("band_part", x=normal(2, 4, 5), lower=1, upper=0)
    yield case("band_part", x=normal(4, 4), lower=-1, upper=0)
    yield case("band_part", x=whole(4, 4), lower=0, upper=-1)
    yield case("gather", x=x, indices=np.array([2, 0, 2], np.int32), axis=0)
    yield case("gather", x=x, indices=np.array([[3, 0], [1, 1]], np.int32), axis=1)
    yield case("gather", x=x, indices=np.int32(2), axis=-1)
    yield case("gather", x=whole(7, low=0), indices=np.array([6, 1], np.int16), axis=0)
    yield case("gather", x=x, indices=np.array([[1, 0], [2, 3], [0, 0]], np.int32), axis=1, batch_dims=1)
    yield case("gather_along_axis", x=x, indices=whole(3, 2, 5, low=0, high=4), axis=1)
    yield case("gather_nd", in_torch(_gather_nd), x=x, indices=np.array([[0, 1], [2, 3]], np.int32))
    yield case("non_zero", in_torch(lambda x: torch.nonzero(x).int()), x=whole(3, 4, low=0, high=2))
    for mode in ("add", "sub", "mul", "div", "max", "min", "update"):
        yield case(
            "scatter",
            _scatter,
            data=x,
            indices=np.array([2, 0], np.int32),
            updates=positive(2, 4, 5),
            axis=0,
            mode=mode,
        )
        yield case(
            "scatter_along_axis",
            _scatter_along_axis,  # coremltools infers "update" whatever the mode
            data=x,
            indices=np.array([[[3] * 5, [0] * 5]] * 3, np.int32),
            updates=positive(3, 2, 5),
            axis=1,
            mode=mode,
        )
        yield case(
            "scatter_nd",
            _scatter_nd,
            data=x,
            indices=np.array([[1, 1], [0, 3]], np.int32),
            updates=positive(2, 5),
            mode=mode,
        )
    yield case("slice_by_index", x=x, begin=[0, 1, 0], end=[3, 3, 5], stride=[1, 1, 2])
    yield case("slice_by_index", x=x, begin=[-1, 3, 4], end=[3, 0, 0], stride=[1, -1, -2])
    yield case(
        "slice_by_index",
        x=x,
        begin=[1, 1, 1],
        end=[2, 2, 2],
        begin_mask=[False, True, False],
        end_mask=[False, False, True],
        squeeze_mask=[True, False, False],
    )
    yield case("slice_by_size", x=x, begin=[1, 0, 2], size=[2, -1, 2])
    yield case("slice_update", x=x, update=normal(1, 4, 2), begin=[1, 0, 2], end=[2, 4, 4])
    yield case("slice_update", x=x, update=normal(3, 4, 2), begin=[0, 0, 0], end=[3, 4, 5], stride=[1, 1, 3])
    yield case(
        "slice_update", x=x, update=normal(4, 5), begin=[2, 0, 0], end=[0, 0, 0], squeeze_mask=[True, False, False],
        begin_mask=[False, True, True], end_mask=[False, True, True],
    )  # fmt: skip
    yield case("sliding_windows", in_torch(_sliding_windows), x=normal(2, 7, 3), axis=1, size=3, stride=2)
    yield case("topk", x=normal(3, 7), k=3, axis=1)
    yield case("topk", x=normal(3, 7), k=2, axis=0, ascending=True)


def _gather_nd(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    return torch.stack([x[tuple(place)] for place in indices.tolist()])


def _combine(old: Array, new: Array, mode: str) -> Array:
    found: Array = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum,
        "update": lambda _old, new: new,
    }[mode](old, new)  # fmt: skip
    return found


def _scatter(data: Array, indices: Array, updates: Array, axis: int, mode: str) -> Array:
    assert axis == 0
    result = data.copy()
    for place, update in zip(indices, updates, strict=True):
        result[place] = _combine(result[place], update, mode)
    return result


def _scatter_along_axis(data: Array, indices: Array, updates: Array, axis: int, mode: str) -> Array:
    result = data.copy()
    for place in np.ndindex(*indices.shape):
        target = (*place[:axis], indices[place], *place[axis + 1 :])
        result[target] = _combine(result[target], updates[place], mode)
    return result


def _scatter_nd(data: Array, indices: Array, updates: Array, mode: str) -> Array:
    result = data.copy()
    for place, update in zip(indices, updates, strict=True):
        result[tuple(place)] = _combine(result[tuple(place)], update, mode)
    return result


def _sliding_windows(x: torch.Tensor, axis: int, size: int, stride: int) -> torch.Tensor:
    starts = range(0, x.shape[axis] - size + 1, stride)
    return torch.stack([x.narrow(axis, start, size) for start in starts], axis)


def reductions() -> Iterator[Case]:
    for name in (
        "reduce_l1_norm",
        "reduce_l2_norm",
        "reduce_log_sum",
        "reduce_log_sum_exp",
        "reduce_max",
        "reduce_mean",
        "reduce_min",
        "reduce_prod",
        "reduce_sum",
        "reduce_sum_square",
    ):
        yield case(name, x=positive(2, 3, 4), axes=[1])
        yield case(name, x=positive(2, 3, 4), axes=[0, -1], keep_dims=True)
    yield case("reduce_sum", x=positive(2, 3, 4))
    yield case("reduce_sum", x=whole(2, 3), axes=[1])
    yield case("reduce_max", x=whole(2, 3), axes=[0])
    for name in ("reduce_argmax", "reduce_argmin"):
        yield case(name, x=normal(3, 5), axis=1)
        yield case(name, x=np.array([[1, 2, 2, 1, 1]], np.float32), axis=1, keep_dims=True)
    yield case("cumsum", x=normal(3, 4), axis=1)
    yield case("cumsum", x=whole(3, 4), axis=0, reverse=True)
    exclusive = in_torch(lambda x, axis: torch.cumsum(x, axis) - x)
    yield case("cumsum", exclusive, x=normal(3, 4), axis=1, exclusive=True)


def matrices() -> Iterator[Case]:
    yield case("linear", x=normal(2, 3, 8), weight=Constant(normal(5, 8)), bias=Constant(normal(5)))
    yield case("linear", x=normal(1, 8), weight=Constant(normal(5, 8)))
    for left, right in (((2, 3), (3, 4)), ((2, 1, 3, 5), (4, 5, 2))):
        yield case("matmul", x=normal(*left), y=normal(*right))
    yield case("matmul", x=normal(2, 5, 3), y=normal(2, 4, 5), transpose_x=True, transpose_y=True)
    yield case("matmul", x=whole(2, 3), y=whole(3, 2))
    for equation, left, right in (
        ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6)),
        ("bkhc,bchq->bkhq", (2, 3, 4, 5), (1, 5, 1, 6)),
        ("chw,whr->chr", (3, 4, 5), (5, 4, 2)),
    ):
        yield case("einsum", values=[normal(*left), normal(*right)], equation=equation)
    for x, weight, parameters in (
        ((2, 4, 9), (6, 4, 3), {}),
        ((1, 4, 9), (4, 1, 4), {"groups": 4, "pad_type": "custom", "pad": [3, 0]}),
        ((1, 4, 6, 7), (8, 2, 3, 2), {"groups": 2, "strides": [2, 1], "dilations": [1, 2]}),
        ((1, 3, 6, 7), (2, 3, 1, 1), {}),
        ((1, 2, 4, 5, 6), (3, 2, 2, 2, 2), {"strides": [1, 2, 2]}),
        ((1, 2, 5, 6), (3, 2, 3, 3), {"pad_type": "same"}),
        ((1, 2, 5, 7), (3, 2, 2, 2), {"pad_type": "same_lower", "strides": [2, 2]}),
    ):
        yield case("conv", _conv, x=normal(*x), weight=Constant(normal(*weight)), **parameters)
    bias = Constant(normal(6))
    yield case("conv", _conv, x=normal(1, 4, 5), weight=Constant(normal(6, 4, 1)), bias=bias)
    transposed = in_torch(lambda x, weight, strides: F.conv_transpose2d(x, weight, stride=strides))
    yield case("conv_transpose", transposed, x=normal(1, 3, 4, 5), weight=Constant(normal(3, 2, 3, 2)), strides=[2, 1])
    query, key, value = normal(1, 2, 3, 8), normal(1, 2, 5, 8), normal(1, 2, 5, 4)
    yield case("scaled_dot_product_attention", query=query, key=key, value=value)
    yield case(
        "scaled_dot_product_attention",
        in_torch(lambda query, key, value, attn_mask: F.scaled_dot_product_attention(query, key, value, attn_mask)),
        query=query,
        key=key,
        value=value,
        attn_mask=np.tril(np.ones((1, 1, 3, 5), np.bool_), 2),
    )
    yield case("scaled_dot_product_attention", query=query, key=key, value=value, attn_mask=normal(1, 1, 3, 5))


def _conv(x: Array, weight: Array, **parameters: Any) -> Array:
    """A convolution tap by tap, in numpy."""
    kernel = weight.shape[2:]
    groups = parameters.get("groups", 1)
    strides = parameters.get("strides", [1] * len(kernel))
    dilations = parameters.get("dilations", [1] * len(kernel))
    pads = [(0, 0)] * len(kernel)
    if parameters.get("pad_type") == "custom":
        pads = [(parameters["pad"][2 * at], parameters["pad"][2 * at + 1]) for at in range(len(kernel))]
    elif parameters.get("pad_type", "valid") != "valid":
        for at, (size, length) in enumerate(zip(x.shape[2:], kernel, strict=True)):
            total = max(0, (math.ceil(size / strides[at]) - 1) * strides[at] + length - size)
            less, more = total // 2, total - total // 2
            pads[at] = (less, more) if parameters["pad_type"] == "same" else (more, less)
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    places = [
        (size - (length - 1) * dilation - 1) // stride + 1
        for size, length, dilation, stride in zip(padded.shape[2:], kernel, dilations, strides, strict=True)
    ]
    result = np.zeros((x.shape[0], weight.shape[0], *places))
    out_width, in_width = weight.shape[0] // groups, weight.shape[1]
    for tap in np.ndindex(*kernel):
        cut = tuple(
            slice(at * dilation, at * dilation + (count - 1) * stride + 1, stride)
            for at, dilation, count, stride in zip(tap, dilations, places, strides, strict=True)
        )
        for group in range(groups):
            ins = padded[(slice(None), slice(group * in_width, (group + 1) * in_width), *cut)]
            outs = slice(group * out_width, (group + 1) * out_width)
            result[:, outs] += np.einsum("bc...,oc->bo...", ins, weight[(outs, slice(None), *tap)])
    bias = parameters.get("bias")
    if bias is not None:
        result += bias.reshape(-1, *[1] * len(kernel))
    return result


def norms() -> Iterator[Case]:
    x = normal(2, 3, 4, 5, scale=3)
    yield case("layer_norm", x=x, axes=[-1], epsilon=np.float32(1e-3))
    gamma, beta = Constant(positive(4, 5)), Constant(normal(4, 5))
    yield case("layer_norm", x=x, axes=[2, 3], gamma=gamma, beta=beta)
    yield case("l2_norm", x=x)
    batch = in_torch(lambda x, mean, variance, gamma, beta: F.batch_norm(x, mean, variance, gamma, beta))
    yield case(
        "batch_norm",
        batch,
        x=x,
        mean=Constant(normal(3)),
        variance=Constant(positive(3)),
        gamma=Constant(normal(3)),
        beta=Constant(normal(3)),
    )
    instance = in_torch(lambda x, gamma, beta: F.instance_norm(x, weight=gamma, bias=beta))
    yield case("instance_norm", instance, x=x, gamma=Constant(normal(3)), beta=Constant(normal(3)))


def creations() -> Iterator[Case]:
    yield case("fill_like", ref_tensor=normal(2, 3), value=np.float32(1.5))
    hot = in_torch(lambda indices, one_hot_vector_size: F.one_hot(indices.long(), one_hot_vector_size).int())
    yield case("one_hot", hot, indices=whole(5, low=0, high=4), one_hot_vector_size=4)
    first = in_torch(lambda indices, one_hot_vector_size: F.one_hot(indices.long(), one_hot_vector_size).T.int())
    yield case("one_hot", first, indices=whole(5, low=0, high=4), one_hot_vector_size=4, axis=0)
    yield case("shape", in_torch(lambda x: torch.tensor(x.shape, dtype=torch.int32)), x=normal(2, 3, 4))


def windows() -> Iterator[Case]:
    x = normal(1, 2, 6, 7)
    pooled = in_torch(lambda x, kernel_sizes, strides: F.avg_pool2d(x, kernel_sizes, strides))
    yield case("avg_pool", pooled, x=x, kernel_sizes=[2, 3], strides=[2, 1], pad_type="valid")
    largest = in_torch(lambda x, kernel_sizes, strides: F.max_pool2d(x, kernel_sizes, strides, (1, 1)))
    yield case("max_pool", largest, x=x, kernel_sizes=[2, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1])
    averaged = in_torch(
        lambda x, kernel_sizes, strides: F.avg_pool2d(x, kernel_sizes, strides, (1, 1), count_include_pad=False)
    )
    yield case(
        "avg_pool", averaged, x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
        exclude_padding_from_average=True,
    )  # fmt: skip
    yield case(
        "quantize", input=normal(3, 4, scale=40), scale=np.float32(0.5), zero_point=np.int8(3), output_dtype="int8"
    )
    scales = Constant(positive(4))
    yield case("quantize", _quantize, input=normal(3, 4, scale=40), scale=scales, axis=1, output_dtype="int8")
    shifted = in_torch(lambda input: (input.float() - 3) * 0.5)
    yield case("dequantize", shifted, input=whole(3, 4, dtype=np.int8), scale=np.float32(0.5), zero_point=np.int8(3))


def _quantize(input: Array, scale: Array, axis: int, output_dtype: str) -> Array:
    assert axis == 1
    return np.clip(np.round(input / scale[None]), -128, 127).astype(output_dtype)

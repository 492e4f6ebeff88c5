"""An XNNPACK graph under construction: everything between two of the program's own kernels becomes one delegate.

The graph is written in the serialization that ExecuTorch's XNNPACK backend reads (backends/xnnpack/serialization). It
is built here node by node and not through ExecuTorch's partitioner, which refuses slices of tensors with a dynamic
axis, so that a layer falls into dozens of delegates; XNNPACK itself slices them. Layouts are XNNPACK's own (channels
last), weights are handed over as the quantized checkpoint holds them, and no code is unpacked.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import serialize_xnnpack_binary
from numpy.typing import NDArray

from export.executorch_lowering.tensors import Dynamic, Shape, Value

INVALID_ID = 2**32 - 1
EXTERNAL_INPUT, EXTERNAL_OUTPUT = 1, 2
KEEP_DIMS, TRANSPOSE_RIGHT = 0x40, 1
NAMED_DATA = 2**64 - 1  # the offset of constants that live in the program's named data


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A matrix (out_features, in_features) as XNNPACK takes it; `scales` is None for float32."""

    shape: tuple[int, int]
    bits: int
    group_size: int | None
    codes: "Blob"
    scales: "Blob | None"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A static 8-bit grid; the zero point is in -128..127."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Blob:
    """Bytes of the program's named data; runtimes cache packed weights by key, so no two contents may share one."""

    key: str
    num_bytes: int


Store = Callable[[NDArray[Any]], Blob]


@dataclass(eq=False)
class Region:
    """One delegate: values, nodes and constants of a graph, in execution order."""

    store: Store
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    values: list[schema.XValue] = field(default_factory=list)
    nodes: list[schema.XNode] = field(default_factory=list)
    constants: list[schema.ConstantDataOffset] = field(default_factory=lambda: [schema.ConstantDataOffset(0, 0)])
    input_ids: dict[Value, int] = field(default_factory=dict)
    quantized: dict[Value, int] = field(default_factory=dict)
    rounded: dict[tuple[Value, "Grid"], int] = field(default_factory=dict)
    scalars: dict[float, Value] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Weights and other constants, as the file holds them."""
        return sum(constant.size for constant in self.constants)

    # -- values ------------------------------------------------------------------------------------------------------

    def use(self, value: Value) -> int:
        """The id of `value` in this graph; one made elsewhere becomes an input."""
        if value.region is self and value.region_id is not None:
            return value.region_id
        if value not in self.input_ids:
            self.inputs.append(value)
            self.input_ids[value] = self._tensor(value.shape)
        return self.input_ids[value]

    def constant(self, data: NDArray[np.float32]) -> Value:
        """A float32 constant that operators read."""
        data = np.ascontiguousarray(data, dtype=np.float32)
        index = self._constant_data(self.store(data))
        return self._made(data.shape, self._tensor(data.shape, constant=index))

    def scalar(self, number: float) -> Value:
        """A float32 constant of one element."""
        if number not in self.scalars:
            self.scalars[number] = self.constant(np.array([number], dtype=np.float32))
        return self.scalars[number]

    # -- operators ---------------------------------------------------------------------------------------------------

    def add(self, x: Value, y: Value) -> Value:
        return self._binary(schema.XNNAdd, x, y)

    def subtract(self, x: Value, y: Value) -> Value:
        return self._binary(schema.XNNSubtract, x, y)

    def multiply(self, x: Value, y: Value) -> Value:
        return self._binary(schema.XNNMultiply, x, y)

    def square(self, x: Value) -> Value:
        return self._unary(schema.XNNSquare, x)

    def sigmoid(self, x: Value) -> Value:
        return self._unary(schema.XNNSigmoid, x)

    def exponential(self, x: Value) -> Value:
        return self._unary(schema.XNNExp, x)

    def logarithm(self, x: Value) -> Value:
        return self._unary(schema.XNNLog, x)

    def negate(self, x: Value) -> Value:
        return self._unary(schema.XNNNegate, x)

    def absolute(self, x: Value) -> Value:
        return self._unary(schema.XNNAbs, x)

    def reciprocal_root(self, x: Value) -> Value:
        return self._unary(schema.XNNReciprocalSquareRoot, x)

    def floor(self, x: Value) -> Value:
        return self._unary(schema.XNNFloor, x)

    def gelu(self, x: Value) -> Value:
        """By the error function."""
        return self._unary(schema.XNNGelu, x)

    def exponential_minus_one(self, x: Value) -> Value:
        """exp(x) - 1 of x <= 0, exact to the last places near 0."""
        out = self._result(x.shape)
        self._node(schema.XNNELU(alpha=1.0, input_id=self.use(x), output_id=self.use(out), flags=0))
        return out

    def positive_part(self, x: Value) -> Value:
        return self._clamp(x, schema.OutputMinMax(output_min=0.0, output_max="inf"))

    def non_positive_part(self, x: Value) -> Value:
        return self.at_most(x, 0.0)

    def at_most(self, x: Value, most: float) -> Value:
        return self._clamp(x, schema.OutputMinMax(output_min="-inf", output_max=most))

    def batch_product(self, left: Value, right: Value, transpose_right: bool = False) -> Value:
        """(B, M, K) times (B, K, N), or times (B, N, K) transposed; the right factor is packed in every call."""
        columns = right.shape[1] if transpose_right else right.shape[2]
        out = self._result((*left.shape[:2], columns))
        flags = TRANSPOSE_RIGHT if transpose_right else 0
        node = schema.XNNBatchMatrixMultiply(
            input1_id=self.use(left), input2_id=self.use(right), output_id=self.use(out), flags=flags
        )
        self._node(node)
        return out

    def pooled_mean(self, x: Value) -> Value:
        """Mean over the last axis, kept as an axis of one.

        Pooling averages axes 1 and 2 of channels-last data: one channel, and the row along a single axis.
        """
        rows = Dynamic(math.prod(x.shape[:-1]))
        channel = self.reshape(x, (rows, 1, x.shape[-1], 1))
        out = self._result((rows, 1, 1, 1))
        node = schema.XNNGlobalAvgPooling2d(input_id=self.use(channel), output_id=self.use(out), flags=KEEP_DIMS)
        self._node(node, UNBOUNDED)
        return self.reshape(out, (*x.shape[:-1], 1))

    def reshape(self, x: Value, shape: Shape) -> Value:
        if _same(x.shape, shape):
            return x
        out = self._result(shape)
        sizes = [0 if isinstance(size, Dynamic) else size for size in shape]  # 0: infer
        node = schema.XNNStaticReshape(
            num_dims=len(shape), new_shape=sizes, input_id=self.use(x), output_id=self.use(out), flags=0
        )
        self._node(node)
        return out

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        out = self._result(tuple(x.shape[axis] for axis in axes))
        node = schema.XNNStaticTranspose(
            num_dims=len(axes), perm=list(axes), input_id=self.use(x), output_id=self.use(out), flags=0
        )
        self._node(node)
        return out

    def slice(self, x: Value, axis: int, start: int, size: int) -> Value:
        """Part of a static axis; the other axes may be dynamic (size 0 with offset 0 means the whole axis)."""
        axis %= len(x.shape)
        out = self._result(tuple(size if index == axis else whole for index, whole in enumerate(x.shape)))
        node = schema.XNNStaticSlice(
            num_dims=len(x.shape),
            offsets=[start if index == axis else 0 for index in range(len(x.shape))],
            sizes=[size if index == axis else 0 for index in range(len(x.shape))],
            input_id=self.use(x),
            output_id=self.use(out),
            flags=0,
        )
        self._node(node)
        return out

    def concatenate(self, parts: Sequence[Value], axis: int) -> Value:
        axis %= len(parts[0].shape)
        sizes = [part.shape[axis] for part in parts]
        total = Dynamic(sum(sizes)) if any(isinstance(size, Dynamic) for size in sizes) else sum(sizes)
        shape = parts[0].shape
        out = self._result((*shape[:axis], total, *shape[axis + 1 :]))
        ids = [self.use(part) for part in parts] + [INVALID_ID] * (5 - len(parts))
        self._node(
            CONCATENATE[len(parts)](
                axis=axis,
                input1_id=ids[0],
                input2_id=ids[1],
                input3_id=ids[2],
                input4_id=ids[3],
                input5_id=ids[4],
                output_id=self.use(out),
                flags=0,
            )
        )
        return out

    def linear(self, x: Value, weights: Weights, bias: NDArray[np.float32] | None = None) -> Value:
        """x times the matrix; inputs of quantized matrices are quantized per token, once for all that read them."""
        out = self._result((*x.shape[:-1], weights.shape[0]))
        source = self.use(x) if weights.scales is None else self._quantize(x)
        bias_id = INVALID_ID if bias is None else self.use(self.constant(bias))
        node = schema.XNNFullyConnected(
            input1_id=source, filter_id=self._matrix(weights), bias_id=bias_id, output_id=self.use(out), flags=0
        )
        self._node(node, UNBOUNDED)
        return out

    def static_linear(self, x: Value, weights: Weights, inputs: Grid, outputs: Grid) -> Value:
        """x times an 8-bit matrix, inputs and products on grids; XNNPACK has no static product that gives floats."""
        shape = (*x.shape[:-1], weights.shape[0])
        product = self._on_grid(shape, outputs)
        node = schema.XNNFullyConnected(
            input1_id=self._round(x, inputs),
            filter_id=self._matrix(weights),
            bias_id=INVALID_ID,
            output_id=product,
            flags=0,
        )
        self._node(node, UNBOUNDED)
        out = self._result(shape)
        self._node(schema.XNNConvert(input_id=product, output_id=self.use(out), flags=0))
        return out

    def depthwise_conv(self, x: Value, weight: NDArray[np.float32]) -> Value:
        """Causal taps over time: x (1, T + K - 1, C), weight (C, K) -> (1, T, C)."""
        channels, taps = weight.shape
        time = Dynamic(x.shape[1] - taps + 1)
        image = self.reshape(x, (1, 1, x.shape[1], channels))
        filters = self.constant(weight.T.reshape(1, 1, taps, channels))
        out = self._result((1, 1, time, channels))
        node = schema.XNNDepthwiseConv2d(
            padding_top=0,
            padding_right=0,
            padding_bottom=0,
            padding_left=0,
            kernel_height=1,
            kernel_width=taps,
            subsampling_height=1,
            subsampling_width=1,
            dilation_height=1,
            dilation_width=1,
            group_input_channels=1,
            group_output_channels=1,
            groups=channels,
            adjustment_height=0,
            adjustment_width=0,
            input1_id=self.use(image),
            filter_id=self.use(filters),
            bias_id=INVALID_ID,
            output_id=self.use(out),
            flags=0,
        )
        self._node(node, UNBOUNDED)
        return self.reshape(out, (1, time, channels))

    # -- the file ----------------------------------------------------------------------------------------------------

    def hand_out(self, value: Value) -> None:
        """Make a value of this graph one of the delegate's outputs."""
        if value not in self.outputs:
            self.outputs.append(value)

    def serialize(self) -> bytes:
        """The delegate's payload; inputs come first among its arguments, then outputs."""
        externals = [(self.input_ids[value], EXTERNAL_INPUT) for value in self.inputs]
        externals += [(self.use(value), EXTERNAL_OUTPUT) for value in self.outputs]
        for position, (value_id, flag) in enumerate(externals):
            tensor = self.values[value_id].xvalue_union
            assert isinstance(tensor, schema.XNNTensorValue)
            tensor.external_id, tensor.flags = position, flag
        graph = schema.XNNGraph(
            version="0",
            xnodes=self.nodes,
            xvalues=self.values,
            num_externs=len(externals),
            input_ids=[],
            output_ids=[],
            constant_data=self.constants,
        )
        payload: bytes = serialize_xnnpack_binary(graph, bytearray())
        return payload

    def _tensor(self, shape: Shape, constant: int = 0) -> int:
        self.values.append(schema.XValue(xvalue_union=_tensor(len(self.values), shape, FLOAT32, constant)))
        return len(self.values) - 1

    def _made(self, shape: Shape, value_id: int) -> Value:
        return Value(shape=shape, region=self, region_id=value_id)

    def _result(self, shape: Shape) -> Value:
        return self._made(shape, self._tensor(shape))

    def _constant_data(self, blob: Blob) -> int:
        self.constants.append(schema.ConstantDataOffset(offset=NAMED_DATA, size=blob.num_bytes, named_key=blob.key))
        return len(self.constants) - 1

    def _matrix(self, weights: Weights) -> int:
        codes = self._constant_data(weights.codes)
        value_id = len(self.values)
        if weights.scales is None:
            return self._tensor(weights.shape, constant=codes)
        scales = self._constant_data(weights.scales)
        out_features, in_features = weights.shape
        params: schema.PerChannelGroupQuant | schema.PerChannelQuant
        if weights.bits == 4:
            assert weights.group_size is not None
            count = out_features * in_features // weights.group_size
            params = schema.PerChannelGroupQuant(
                scale=[], channel_dim=0, group_size=weights.group_size, scale_buffer_idx=scales, num_scales=count
            )
        else:
            params = schema.PerChannelQuant(scale=[], channel_dim=0, scale_buffer_idx=scales, num_scales=out_features)
        tensor = _tensor(value_id, weights.shape, CODE_TYPES[weights.bits], codes)
        self.values.append(schema.XValue(xvalue_union=schema.XNNQuantizedTensorValue(tensor, params)))
        return value_id

    def _quantize(self, x: Value) -> int:
        if x not in self.quantized:
            source, value_id = self.use(x), len(self.values)
            tensor = _tensor(value_id, x.shape, schema.XNNDatatype.xnn_datatype_qdint8, 0)
            per_token = schema.PerTokenDynamicQuant(num_nonbatch_dims=1)
            self.values.append(schema.XValue(xvalue_union=schema.XNNQuantizedTensorValue(tensor, per_token)))
            self._node(schema.XNNConvert(input_id=source, output_id=value_id, flags=0))
            self.quantized[x] = value_id
        return self.quantized[x]

    def _round(self, x: Value, grid: Grid) -> int:
        if (x, grid) not in self.rounded:
            source, value_id = self.use(x), self._on_grid(x.shape, grid)
            self._node(schema.XNNConvert(input_id=source, output_id=value_id, flags=0))
            self.rounded[x, grid] = value_id
        return self.rounded[x, grid]

    def _on_grid(self, shape: Shape, grid: Grid) -> int:
        value_id = len(self.values)
        tensor = _tensor(value_id, shape, schema.XNNDatatype.xnn_datatype_qint8, 0)
        params = schema.PerTensorQuant(scale=grid.scale, zero_point=grid.zero_point)
        self.values.append(schema.XValue(xvalue_union=schema.XNNQuantizedTensorValue(tensor, params)))
        return value_id

    def _clamp(self, x: Value, bounds: schema.OutputMinMax) -> Value:
        out = self._result(x.shape)
        self._node(schema.XNNClamp(input_id=self.use(x), output_id=self.use(out), flags=0), bounds)
        return out

    def _unary(self, kind: type[schema.XNNNode1x1], x: Value) -> Value:
        out = self._result(x.shape)
        self._node(kind(input_id=self.use(x), output_id=self.use(out), flags=0))
        return out

    def _binary(self, kind: type[schema.XNNNode2x1], x: Value, y: Value) -> Value:
        out = self._result(_broadcast(x.shape, y.shape))
        node = kind(input1_id=self.use(x), input2_id=self.use(y), output_id=self.use(out), flags=0)
        self._node(node, UNBOUNDED)
        return out

    def _node(self, node: schema.XNodeUnion, bounds: schema.OutputMinMax | None = None) -> None:
        self.nodes.append(schema.XNode(xnode_union=node, debug_handle=len(self.nodes), output_min_max=bounds))


CONCATENATE = {
    2: schema.XNNConcatenate2,
    3: schema.XNNConcatenate3,
    4: schema.XNNConcatenate4,
    5: schema.XNNConcatenate5,
}
CODE_TYPES = {4: schema.XNNDatatype.xnn_datatype_qbint4, 8: schema.XNNDatatype.xnn_datatype_qcint8}
FLOAT32 = schema.XNNDatatype.xnn_datatype_fp32
UNBOUNDED = schema.OutputMinMax(output_min="-inf", output_max="inf")


def blob_of(data: NDArray[Any]) -> Blob:
    """The key and size of an array's bytes."""
    return Blob(hashlib.sha256(np.ascontiguousarray(data).data).hexdigest(), data.nbytes)


def _tensor(value_id: int, shape: Shape, datatype: schema.XNNDatatype, constant: int) -> schema.XNNTensorValue:
    return schema.XNNTensorValue(
        datatype=datatype,
        num_dims=len(shape),
        dims=[int(size) for size in shape],
        constant_buffer_idx=constant,
        external_id=INVALID_ID,
        flags=0,
        id_out=value_id,
    )


def _same(left: Shape, right: Shape) -> bool:
    return left == right and [isinstance(size, Dynamic) for size in left] == [
        isinstance(size, Dynamic) for size in right
    ]


def _broadcast(left: Shape, right: Shape) -> Shape:
    rank = max(len(left), len(right))
    left, right = (1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right
    return tuple(x if y == 1 else y for x, y in zip(left, right, strict=True))

"""Single matrix products: models of one, and what it gives if activations are quantized in a known way."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from export import operators as edge
from export.quantize import bfloat16_scales
from export.quantized import pack_int4

ACCURACY_LEVEL = 4
ROWS = 64  # of the weight
COLUMNS = 512


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product: `tokens` rows of activations times a quantized matrix; scales in bfloat16, as ours are, or not."""

    bits: int
    block: int
    tokens: int
    bfloat16: bool = True

    @property
    def name(self) -> str:
        return f"int{self.bits}_g{self.block}_{self.tokens}_{'bf16' if self.bfloat16 else 'fp32'}"


PRODUCTS = tuple(
    Product(bits=bits, block=block, tokens=tokens) for bits in (4, 8) for block in (32, 64, 128) for tokens in (1, 16)
)
STATIC_TOKENS = (1, 16)  # of products whose inputs are rounded on a static grid
STATIC_GRID = (0.08, -11)
STATIC = Product(bits=8, block=COLUMNS, tokens=max(STATIC_TOKENS))  # one scale a row
FULL_SCALES = tuple(Product(bits=bits, block=32, tokens=16, bfloat16=False) for bits in (4, 8))


@dataclass(frozen=True, kw_only=True)
class Operands:
    """x (1, tokens, COLUMNS), int8 codes (ROWS, COLUMNS), float32 scales (ROWS, COLUMNS / block)."""

    x: Tensor
    codes: Tensor
    scales: Tensor


def operands(product: Product) -> Operands:
    """Random operands: activations off centre and with outliers, so that each way of quantizing them shows."""
    random = torch.Generator().manual_seed(product.bits * product.block + product.tokens)
    spread = torch.randn(1, product.tokens, COLUMNS, generator=random).exp()
    x = torch.randn(1, product.tokens, COLUMNS, generator=random) * spread + 0.3
    top = 2 ** (product.bits - 1)
    codes = torch.randint(-top, top, (ROWS, COLUMNS), dtype=torch.int8, generator=random)
    scales = (torch.rand(ROWS, COLUMNS // product.block, generator=random) + 1.0) / top
    return Operands(x=x, codes=codes, scales=bfloat16_scales(scales) if product.bfloat16 else scales)


def expected(product: Product, activation: str, scales: Tensor | None = None) -> np.ndarray:
    """The product in double precision, if this is how its activations are quantized."""
    given = operands(product)
    x = edge.quantize_activation(given.x, activation, product.block).double()
    weight = edge.dequantize(given.codes, given.scales if scales is None else scales).double()
    return (x @ weight.T).numpy()


def expected_static(tokens: int) -> np.ndarray:
    """The product of the first `tokens` inputs on the static grid, in double precision."""
    given = operands(STATIC)
    x = edge.round_to_grid(given.x[:, :tokens], torch.tensor(STATIC_GRID)).double()
    return (x @ edge.dequantize(given.codes, given.scales).double().T).numpy()


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest error relative to the largest output."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def write_models(directory: Path) -> Path:
    """Write NAME.onnx and NAME.npy for every product."""
    for product in (*PRODUCTS, *FULL_SCALES):
        given = operands(product)
        onnx.save(_model(product, given), directory / f"{product.name}.onnx")
        np.save(directory / f"{product.name}.npy", given.x.numpy())
    for tokens in STATIC_TOKENS:
        onnx.save(_static_model(), directory / f"static_{tokens}.onnx")
        np.save(directory / f"static_{tokens}.npy", operands(STATIC).x[:, :tokens].numpy())
    return directory


def _model(product: Product, given: Operands) -> onnx.ModelProto:
    codes = pack_int4(given.codes) if product.bits == 4 else (given.codes.short() + 128).to(torch.uint8)
    blocks = COLUMNS // product.block
    weights = [
        numpy_helper.from_array(codes.reshape(ROWS, blocks, -1).numpy(), "codes"),
        numpy_helper.from_array(given.scales.numpy(), "scales"),
    ]
    node = helper.make_node(
        "MatMulNBits",
        ["x", "codes", "scales"],
        ["y"],
        domain="com.microsoft",
        K=COLUMNS,
        N=ROWS,
        bits=product.bits,
        block_size=product.block,
        accuracy_level=ACCURACY_LEVEL,
    )
    return _written([node], weights)


def _static_model() -> onnx.ModelProto:
    """As `export/onnx_lowering` writes it: uint8 inputs, int8 rows."""
    given, (scale, zero) = operands(STATIC), STATIC_GRID
    weights = [
        numpy_helper.from_array(given.codes.T.contiguous().numpy(), "codes"),
        numpy_helper.from_array(given.scales[:, 0].contiguous().numpy(), "scales"),
        numpy_helper.from_array(np.array(scale, dtype=np.float32), "scale"),
        numpy_helper.from_array(np.array(zero + 128, dtype=np.uint8), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["codes", "scales"], ["weight"], axis=1),
        helper.make_node("MatMul", ["rounded", "weight"], ["y"]),
    ]
    return _written(nodes, weights)


def _written(nodes: list[onnx.NodeProto], weights: list[TensorProto]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "tokens", COLUMNS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "tokens", ROWS])
    graph = helper.make_graph(nodes, "product", [x], [y], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)

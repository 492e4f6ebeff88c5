"""Single matrix products: models of one MatMulNBits, and what it gives if activations are quantized in a known way."""

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


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest error relative to the largest output."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def write_models(directory: Path) -> Path:
    """Write NAME.onnx and NAME.npy for every product."""
    for product in (*PRODUCTS, *FULL_SCALES):
        given = operands(product)
        onnx.save(_model(product, given), directory / f"{product.name}.onnx")
        np.save(directory / f"{product.name}.npy", given.x.numpy())
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
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "tokens", COLUMNS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "tokens", ROWS])
    graph = helper.make_graph([node], "product", [x], [y], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)

"""What ONNX Runtime's ARM kernels do to activations and scales, one MatMulNBits at a time.

The emulation in a reference is only as good as this: each product must equal the emulated one up to the rounding of
float32 sums, and must not equal the emulation of the other kernels. The sums' tolerances come from their length: a sum
of 512 products in float32 errs by a few 1e-7 of its size. Kernels without i8mm multiply unsigned 8-bit codes and
subtract 128 times the block's sum afterwards: 128 times larger terms cancel, so errors are up to 128 times larger.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.arm.products import FULL_SCALES, PRODUCTS, STATIC_TOKENS, Product, error, expected, expected_static, operands
from tests.arm.runs import Run

pytestmark = pytest.mark.arm

SUM_ERROR = 2e-6
CANCELLED_ERROR = 128 * 1e-6
OTHER_KERNELS = 2e-3  # int8 activations differ by half a step of 1 / 127 or 1 / 255 of the largest
KEPT_BITS = -(2**16)  # of a float32: those that bfloat16 has
KLEIDIAI, BLOCKS = "int8_token", "int8_group"


def _tolerance(cpu: str, product: Product) -> float:
    return CANCELLED_ERROR if product.bits == 8 and cpu == "cortex-a76" else SUM_ERROR


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_arm_kernels_quantize_activations_as_emulated(runs: dict[str, Run], cpu: str, product: Product) -> None:
    found = runs[cpu].products[f"{product.name}.default"]
    right, wrong = (KLEIDIAI, BLOCKS) if product.bits == 4 else (BLOCKS, KLEIDIAI)
    assert error(found, expected(product, right)) <= _tolerance(cpu, product)
    assert error(found, expected(product, wrong)) >= OTHER_KERNELS


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_without_kleidiai_arm_computes_what_x86_computes(runs: dict[str, Run], cpu: str, product: Product) -> None:
    found = runs[cpu].products[f"{product.name}.no_kleidiai"]
    assert error(found, expected(product, BLOCKS)) <= _tolerance(cpu, product)


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_x86_kernels_quantize_activations_by_block(matrices: Path, product: Product) -> None:
    session = onnxruntime.InferenceSession(matrices / f"{product.name}.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.load(matrices / f"{product.name}.npy")})[0]
    assert error(found, expected(product, BLOCKS)) <= SUM_ERROR


@pytest.mark.parametrize("tokens", STATIC_TOKENS)
def test_static_inputs_are_rounded_alike_everywhere(
    runs: dict[str, Run], matrices: Path, cpu: str, tokens: int
) -> None:
    session = onnxruntime.InferenceSession(matrices / f"static_{tokens}.onnx", providers=["CPUExecutionProvider"])
    x86 = session.run(None, {"x": np.load(matrices / f"static_{tokens}.npy")})[0]
    for found in (x86, *(runs[cpu].products[f"static_{tokens}.{choice}"] for choice in ("default", "no_kleidiai"))):
        assert error(found, expected_static(tokens)) <= SUM_ERROR


def test_kleidiai_cuts_4_bit_scales_to_bfloat16_which_ours_survive(runs: dict[str, Run], cpu: str) -> None:
    """It drops the lower 16 bits, so scales that are not bfloat16 shrink by up to 2**-7; 8-bit scales stay whole."""
    four, eight = FULL_SCALES
    cut = operands(four).scales.view(torch.int32).bitwise_and(KEPT_BITS).view(torch.float32)
    found = runs[cpu].products
    assert error(found[f"{four.name}.default"], expected(four, KLEIDIAI, cut)) <= SUM_ERROR
    assert error(found[f"{four.name}.default"], expected(four, KLEIDIAI)) >= 1e-4
    assert error(found[f"{eight.name}.default"], expected(eight, BLOCKS)) <= _tolerance(cpu, eight)

"""Weights out of the file of constants: our reader against coremltools', compressed ones against their definition."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types
from coremltools.libmilstoragepython import _BlobStorageReader as BlobReader
from coremltools.libmilstoragepython import _BlobStorageWriter as BlobWriter
from coremltools.optimize import coreml as cto
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtimes.mil import Constants, ProgramError, load_package, open_package
from runtimes.mil.blobs import BlobFile, unpack
from runtimes.mil.constants import (
    constexpr_affine_dequantize,
    constexpr_blockwise_shift_scale,
    constexpr_cast,
    constexpr_lut_to_dense,
    constexpr_sparse_to_dense,
)
from runtimes.mil.types import ELEMENTS, TensorType
from tests.runtimes.mil.packages import function, save

# coremltools leaves its temporary directories to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")

RANDOM = np.random.default_rng(3)
OUT_WIDTH, IN_WIDTH = 48, 64


def stored(name: str, count: int) -> NDArray[Any]:
    """Random elements of a type, as coremltools' writer takes them."""
    element = ELEMENTS[name]
    if name == "fp16":
        return RANDOM.normal(size=count).astype(np.float16).view(np.uint16)
    if name == "fp32":
        return RANDOM.normal(size=count).astype(np.float32)
    signed = element.numpy is not None and element.numpy.kind == "i"
    low, high = (-(1 << (element.bits - 1)), 1 << (element.bits - 1)) if signed else (0, 1 << element.bits)
    return RANDOM.integers(low, high, size=count).astype(element.numpy)


WRITTEN = {
    "fp16": "fp16",
    "fp32": "float",
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int4": "int4",
    "uint1": "uint1",
    "uint2": "uint2",
    "uint3": "uint3",
    "uint4": "uint4",
    "uint6": "uint6",
    "int32": "int32",
    "uint32": "uint32",
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("count", [1, 7, 8, 64, 1001])
def test_our_reader_reads_what_coremltools_writes_and_reads(tmp_path: Path, name: str, count: int) -> None:
    place = tmp_path / "weight.bin"
    values = stored(name, count)
    writer = BlobWriter(str(place))
    writer.write_float_data(np.ones(3, np.float32))
    offset = getattr(writer, f"write_{WRITTEN[name]}_data")(values)
    del writer
    ours = BlobFile(place).read(offset, TensorType(element=ELEMENTS[name], shape=(count,)))
    theirs = np.asarray(getattr(BlobReader(str(place)), f"read_{WRITTEN[name]}_data")(offset))
    np.testing.assert_array_equal(ours.view(np.uint16) if name == "fp16" else ours, theirs.reshape(-1))
    np.testing.assert_array_equal(ours.view(np.uint16) if name == "fp16" else ours, values)


@given(bits=st.sampled_from([1, 2, 3, 4, 6]), codes=st.lists(st.integers(0, 63), min_size=1, max_size=50))
def test_codes_of_any_width_come_apart_as_they_were_packed(bits: int, codes: list[int]) -> None:
    codes = [code % (1 << bits) for code in codes]
    stream = sum(code << (at * bits) for at, code in enumerate(codes))
    packed = np.frombuffer(stream.to_bytes(-(-len(codes) * bits // 8), "little"), np.uint8)
    assert unpack(packed, ELEMENTS[f"uint{bits}"], len(codes)).tolist() == codes


def weights_of(path: Path) -> NDArray[np.float32]:
    """The decoded weight of the one matrix product in a package."""
    program = load_package(path)
    (step,) = [step for step in program.steps if step.kind == "linear"]
    (source,) = step.arguments["weight"][1]
    value = program.constants.value(source)  # type: ignore[arg-type]
    assert isinstance(value, torch.Tensor)
    return value.to(torch.float32).numpy()


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with one matrix product in fp16."""
    weight = (RANDOM.normal(size=(OUT_WIDTH, IN_WIDTH)) / 8).astype(np.float16)
    x = np.zeros((1, IN_WIDTH), np.float16)
    place = tmp_path_factory.mktemp("float") / "model.mlpackage"
    save({"main": function({"x": x}, {}, lambda x: mb.linear(x=x, weight=weight, name="product"))}, place)
    model = ct.models.MLModel(str(place), skip_model_load=True)
    return model, weight.astype(np.float32)


LINEAR = {
    "int4_blocks": {"mode": "linear_symmetric", "dtype": "int4", "granularity": "per_block", "block_size": 32},
    "uint4_blocks": {"mode": "linear", "dtype": "uint4", "granularity": "per_block", "block_size": 16},
    "int8_rows": {"mode": "linear_symmetric", "dtype": "int8", "granularity": "per_channel"},
    "uint8_tensor": {"mode": "linear", "dtype": "uint8", "granularity": "per_tensor"},
}
TABLES = {
    "table4": {"mode": "uniform", "nbits": 4, "granularity": "per_tensor"},
    "table6_groups": {"mode": "uniform", "nbits": 6, "granularity": "per_grouped_channel", "group_size": 8},
    "table8_groups": {"mode": "uniform", "nbits": 8, "granularity": "per_grouped_channel", "group_size": 16},
    "table4_scaled": {
        "mode": "kmeans", "nbits": 4, "granularity": "per_grouped_channel", "group_size": 16,
        "enable_per_channel_scale": True,
    },
    "table2_vectors": {
        "mode": "kmeans", "nbits": 2, "granularity": "per_grouped_channel", "group_size": 16, "cluster_dim": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", [*LINEAR, *TABLES])
def test_compressed_weights_are_those_that_coremltools_decompresses(
    float_model: tuple[Any, NDArray[np.float32]], tmp_path: Path, name: str
) -> None:
    model, weight = float_model
    if name in LINEAR:
        linear = cto.OpLinearQuantizerConfig(weight_threshold=1, **LINEAR[name])
        compressed = cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=linear))
    else:
        table = cto.OpPalettizerConfig(weight_threshold=1, **TABLES[name])
        compressed = cto.palettize_weights(model, cto.OptimizationConfig(global_config=table))
    compressed.save(str(tmp_path / "small.mlpackage"))
    cto.decompress_weights(compressed).save(str(tmp_path / "dense.mlpackage"))
    ours, theirs = weights_of(tmp_path / "small.mlpackage"), weights_of(tmp_path / "dense.mlpackage")
    np.testing.assert_array_equal(ours, theirs)
    assert 0 < np.abs(ours - weight).max() < 0.5


def test_a_table_holds_vectors_along_an_axis() -> None:
    """The example of coremltools' documentation."""
    indices = torch.tensor([[[0, 0], [1, 0]], [[1, 1], [0, 0]]], dtype=torch.uint8)
    lut = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int8).reshape(1, 1, 1, 2, 3)
    along_1 = constexpr_lut_to_dense(indices, lut, torch.tensor(1))
    assert along_1.tolist()[0] == [[1, 1], [2, 2], [3, 3], [4, 1], [5, 2], [6, 3]]
    along_2 = constexpr_lut_to_dense(indices, lut, torch.tensor(2))
    assert along_2.tolist()[0] == [[1, 2, 3, 1, 2, 3], [4, 5, 6, 1, 2, 3]]


def test_tables_differ_from_group_to_group() -> None:
    indices = torch.tensor([[2, 3], [3, 0], [1, 0], [3, 0], [2, 1], [0, 3]], dtype=torch.uint8)
    lut = torch.tensor([1.0, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    assert constexpr_lut_to_dense(indices, lut).tolist() == [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]


@pytest.mark.parametrize("blocks", [(1, 1), (6, 1), (3, 2), (1, 4), (6, 8)])
def test_each_block_has_its_scale_and_shift(blocks: tuple[int, int]) -> None:
    data = RANDOM.integers(-8, 8, size=(6, 8)).astype(np.int8)
    scale = RANDOM.random(blocks).astype(np.float16)
    offset = RANDOM.integers(-8, 8, size=blocks).astype(np.int8)
    wanted = np.zeros((6, 8), np.float16)
    for row, column in np.ndindex(6, 8):
        block = (row * blocks[0] // 6, column * blocks[1] // 8)
        wanted[row, column] = np.float16(np.float32(scale[block]) * (int(data[row, column]) - int(offset[block])))
    found = constexpr_blockwise_shift_scale(*map(torch.from_numpy, (data, scale, offset)))
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_large_weights_are_decoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    data, scale = torch.randint(-8, 8, (40, 6, 8), dtype=torch.int8), torch.rand(4, 3, 2).half()
    indices, lut = torch.randint(0, 4, (40, 8)), torch.rand(4, 2, 4, 1)
    whole = constexpr_blockwise_shift_scale(data, scale), constexpr_lut_to_dense(indices, lut)
    monkeypatch.setattr("runtimes.mil.constants.ROWS_ELEMENTS", 7 * 48)
    assert torch.equal(constexpr_blockwise_shift_scale(data, scale), whole[0])
    monkeypatch.setattr("runtimes.mil.constants.ROWS_ELEMENTS", 7 * 8)
    assert torch.equal(constexpr_lut_to_dense(indices, lut), whole[1])


def test_affine_cast_and_sparse_weights() -> None:
    data = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    shift, scale = torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([0.5, 2.0])
    assert constexpr_affine_dequantize(data, shift, scale, torch.tensor(0)).tolist() == [[0, 0.5], [2, 4]]
    assert constexpr_affine_dequantize(data, shift, scale, torch.tensor(-1)).tolist() == [[0, 0], [1, 4]]
    assert constexpr_cast(torch.tensor([1.5], dtype=torch.float16), "fp32").dtype == torch.float32
    mask = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)
    assert constexpr_sparse_to_dense(torch.tensor([5.0, 7.0]), mask).tolist() == [[0, 5], [7, 0]]


def test_weights_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ProgramError, match=r"blocks of \(4,\) do not divide data of \(6,\)"):
        constexpr_blockwise_shift_scale(torch.zeros(6, dtype=torch.int8), torch.ones(4))
    with pytest.raises(ProgramError, match="an index of 5 is outside a table of 4"):
        constexpr_lut_to_dense(torch.tensor([5], dtype=torch.uint8), torch.zeros(1, 4, 1))
    with pytest.raises(ProgramError, match="2 values for a mask of 1 ones"):
        constexpr_sparse_to_dense(torch.zeros(2), torch.tensor([1, 0], dtype=torch.uint8))


def test_functions_share_what_they_decode_and_a_budget_is_kept(tmp_path: Path) -> None:
    codes = RANDOM.integers(-8, 8, size=(OUT_WIDTH, IN_WIDTH)).astype(types.np_int4_dtype)
    scales = RANDOM.random((OUT_WIDTH, 2)).astype(np.float16)

    def product(x: Any) -> Any:
        parts = [mb.const(val=codes), mb.const(val=scales)]
        for name, part in zip(("codes", "scales"), parts, strict=True):
            part.op.weight_id = name  # one blob for both functions
        weight = mb.constexpr_blockwise_shift_scale(data=parts[0], scale=parts[1])
        return mb.linear(x=x, weight=weight)

    functions = {
        name: function({"x": np.zeros((tokens, IN_WIDTH), np.float16)}, {}, product)
        for name, tokens in (("decode", 1), ("prefill", 3))
    }
    package = open_package(save(functions, tmp_path / "shared.mlpackage"))
    x = RANDOM.normal(size=(3, IN_WIDTH)).astype(np.float16)
    kept = Constants()
    decode, prefill = (load_package(package, name, constants=kept) for name in functions)
    (many,) = prefill.run({"x": x}).values()
    size = kept.kept_bytes
    (one,) = decode.run({"x": x[:1]}).values()
    assert 4 * OUT_WIDTH * IN_WIDTH <= size <= kept.kept_bytes < 1.1 * size  # each function has a bias of its own
    np.testing.assert_array_equal(one[0], many[0])
    nothing = Constants(keep_bytes=0)
    (again,) = load_package(package, "prefill", constants=nothing).run({"x": x}).values()
    np.testing.assert_array_equal(again, many)
    assert nothing.kept_bytes == 0

"""Static activations: their grids, the files that hold them, what the runtime makes of them, and who refuses them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from benchmarks.side_by_side.tiny_quality import TINY
from export import operators as edge
from export import user_cache
from export.decoder import Activations, input_grid_name
from export.errors import QuantizationError, SpecError, UnsupportedSchemeError
from export.plan import make_plan
from export.quality.subjects import open_candidates, open_reference, quantized_subject
from export.quantized import QuantizedCheckpoint, open_quantized
from export.static_grids import covering, with_static_grids
from runtimes.artifact import Artifact
from tests.exports import exported, small_spec
from tests.subjects import random_tokens

DYNAMIC = Activations(kind="int8_group", group_cap=32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with static activations, verified as every export is (onnxruntime-genai included)."""
    place = tmp_path_factory.mktemp("w8a8")
    prose = place / "prose.txt"  # the model's own answers, the default, would take a minute
    prose.write_text((TINY / "held_out.txt").read_text(encoding="utf-8") * 3, encoding="utf-8")
    exported(small_spec(place / "bundle", TINY, scheme="w8a8", method="rtn", calibration=prose))
    return place / "bundle"


@pytest.fixture(scope="module")
def store(bundle: Path) -> QuantizedCheckpoint:
    candidate = open_candidates(str(bundle), open_reference(str(TINY)), None)[0]
    assert candidate.subject is not None
    found = candidate.subject.reading.weights
    assert isinstance(found, QuantizedCheckpoint)
    return found


@pytest.fixture(scope="module")
def bare(store: QuantizedCheckpoint) -> QuantizedCheckpoint:
    """The same codes without grids."""
    return open_quantized(user_cache.directory("quantized") / store.path.name, store.config, store.layout)


def test_inputs_behind_norms_have_grids_and_those_behind_swiglu_stay_dynamic(store: QuantizedCheckpoint) -> None:
    static = {name.rsplit(".", 2)[1] for name in store.grids}
    assert static >= {"in_proj_qkv", "in_proj_z", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
    assert not static & {"down_proj", "out_proj", "embed_tokens", "in_proj_a", "in_proj_b"}


def test_matrices_that_read_one_input_have_one_grid(store: QuantizedCheckpoint) -> None:
    for prefix, *names in (("layers.0.mlp", "gate_proj", "up_proj"), ("layers.3.self_attn", "q_proj", "k_proj")):
        first, second = (store.grids[input_grid_name(f"{prefix}.{name}")] for name in names)
        assert first.equal(second)


def test_onnxruntime_multiplies_integers_wherever_a_grid_is(
    store: QuantizedCheckpoint, bundle: Path, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that such a file suits this machine only
    onnxruntime.InferenceSession(str(bundle / "onnx" / "model.onnx"), options)
    nodes = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node
    kinds = [node.op_type for node in nodes]
    full_attention = store.config.layer_types.count("full_attention")  # whose q_proj is two products, query and gate
    assert kinds.count("MatMulIntegerToFloat") == len(store.grids) + full_attention
    assert "DequantizeLinear" not in kinds
    inputs = {tuple(grid.tolist()) for grid in store.grids.values()}
    assert kinds.count("QuantizeLinear") == len(inputs)


def test_the_file_holds_the_quantizers_codes_transposed(store: QuantizedCheckpoint, bundle: Path) -> None:
    model = onnx.load(bundle / "onnx" / "model.onnx")
    made = {node.output[0]: node for node in model.graph.node}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        weight = made.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and weight.op_type == "DequantizeLinear":
            codes, scales = (numpy_helper.to_array(tensors[name]) for name in weight.input)
            found.add((codes.T.tobytes(), scales.tobytes()))
    expected = {
        (store.codes(unit).numpy().tobytes(), store.scales(unit).numpy().tobytes())
        for unit in (name.removesuffix(".input_grid") for name in store.grids)
        if not unit.endswith("q_proj")  # written in two parts, query and gate
    }
    assert len(expected) > 12
    assert found >= expected


def test_the_emulated_rounding_is_onnxruntimes_to_the_last_bit() -> None:
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.arange(-40, 40) * 0.125])  # halves of the step among them
    grid = torch.tensor([0.25, 17.0])
    assert edge.round_to_grid(x, grid).equal(torch.from_numpy(_in_runtime(x, grid)))


def _in_runtime(x: Tensor, grid: Tensor) -> np.ndarray:
    """What QuantizeLinear and DequantizeLinear make of x, the zero point being unsigned there."""
    scale = numpy_helper.from_array(grid[0].numpy(), "scale")
    zero = numpy_helper.from_array(np.array(int(grid[1]) + 128, dtype=np.uint8), "zero")
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        onnx.helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "grid", values[:1], values[1:], [scale, zero])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found: np.ndarray = session.run(None, {"x": x.numpy()})[0]
    return found


@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (0.0, 2.0), (-7.0, 0.0), (0.0, 0.0)])
def test_a_grid_holds_zero_and_both_ends(low: float, high: float) -> None:
    grid = covering(low, high)
    x = torch.tensor([low, 0.0, high])
    assert -128 <= float(grid[1]) <= 127
    assert edge.round_to_grid(x, grid)[1] == 0
    assert edge.round_to_grid(x, grid).sub(x).abs().max() <= float(grid[0]) * 0.5001


def test_what_exceeds_the_range_is_clipped() -> None:
    assert edge.round_to_grid(torch.tensor([100.0, -100.0]), torch.tensor([0.5, 0.0])).tolist() == [63.5, -64]


def test_grids_are_the_same_whatever_the_other_matrices_get(bare: QuantizedCheckpoint) -> None:
    """One calibration serves all backends and prefill sizes: what is learned of the first layer hangs on its inputs."""
    tokens = random_tokens(bare.config, 64)
    first, second = (
        with_static_grids(bare, one, tokens, lambda *_: None).grids for one in (DYNAMIC, Activations(kind="int8_token"))
    )
    name = input_grid_name("layers.0.linear_attn.in_proj_qkv")
    assert first[name].equal(second[name])


def test_the_quality_report_rounds_inputs_as_the_runtime_does(store: QuantizedCheckpoint, bundle: Path) -> None:
    reference = open_reference(str(TINY))
    candidate = open_candidates(str(bundle), reference, None)[0]
    assert candidate.subject is not None
    assert candidate.subject.reading.activations == replace(DYNAMIC, static=frozenset(store.grids))
    other = open_candidates(str(bundle), reference, "none")[0]
    assert other.subject is not None
    assert other.subject.reading.activations == Activations()


def test_static_activations_are_measured_apart_from_dynamic_ones(
    store: QuantizedCheckpoint, bare: QuantizedCheckpoint
) -> None:
    static = replace(DYNAMIC, static=frozenset(store.grids))
    moved = replace(store, grids={name: grid * 2 for name, grid in store.grids.items()})
    keys = [
        quantized_subject("one", one, how).key() for one, how in ((store, static), (bare, DYNAMIC), (moved, static))
    ]
    assert keys[0] != keys[1] != keys[2] != keys[0]


def test_the_manifest_says_what_is_static_and_what_executes(store: QuantizedCheckpoint, bundle: Path) -> None:
    said = Artifact.open(bundle / "onnx").manifest.quantization.activations
    assert said.startswith(f"{len(store.grids)} of 26 quantized matrices (gate_proj, in_proj_qkv, ")
    assert "uint8, static" in said
    assert "MatMulIntegerToFloat" in said
    assert "the others int8, dynamic" in said


def test_an_input_that_is_no_number_is_refused_by_name(
    bare: QuantizedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = QuantizedCheckpoint.plain

    def with_nan(self: QuantizedCheckpoint, name: str) -> Tensor:
        found = plain(self, name)
        return torch.full_like(found, torch.nan) if name == "layers.1.input_layernorm.weight" else found

    monkeypatch.setattr(QuantizedCheckpoint, "plain", with_nan)
    with pytest.raises(
        QuantizationError, match=r"layers\.1\.linear_attn\.in_proj_qkv: the calibration text made inputs"
    ):
        with_static_grids(bare, DYNAMIC, torch.zeros(1, 8, dtype=torch.int64), lambda *_: None)


def test_smoothquant_is_the_default_method_of_trained_weights_and_random_ones_are_rounded(tmp_path: Path) -> None:
    assert make_plan(small_spec(tmp_path, TINY, scheme="w8a8", method=None)).method.name == "smoothquant"
    spec = replace(small_spec(tmp_path, TINY, scheme="w8a8", method=None), checkpoint="random", model="qwen3.5-0.8b")
    assert make_plan(spec).method.name == "rtn"


def test_what_does_not_go_together_is_refused_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSchemeError, match="coreml cannot multiply quantized weights with int8_static"):
        make_plan(replace(small_spec(tmp_path, TINY, scheme="w8a8", backends=("coreml",)), target="ios"))
    with pytest.raises(SpecError, match="--group-size 64 changes nothing in --scheme w8a8"):
        make_plan(small_spec(tmp_path, TINY, scheme="w8a8", group_size=64))

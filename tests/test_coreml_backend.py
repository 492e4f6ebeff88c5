"""The written Core ML program, read back from disk and evaluated, against eager torch on the same codes."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Function, Program, types
from torch import Tensor
from torch.nn import functional

from export.backends import Lowered, coreml, coreml_float32
from export.coreml_lowering import arithmetic, delta
from export.coreml_lowering.package import write_package
from export.coreml_lowering.program import capture_decoder
from export.coreml_lowering.tables import values_of
from export.coreml_lowering.weights import as_float16
from export.errors import LoweringError, MissingPackageError, QuantizationError, UnsupportedSchemeError
from export.plan import make_plan
from export.quantized import QuantizedCheckpoint
from export.schemes import Format
from export.spec import ExportSpec
from export.weights import units
from runtimes.mil import Accumulate, Constants, load_package
from tests.fixtures import TINY
from tests.rounding import PRODUCTS, STEPS, rounding_errors
from tests.subjects import CONTEXT, chunked_logits, eager, quantized, random_tokens, relative_error, request, two_layers
from tests.trained_shapes import TRAINED_SHAPES, make_trained

DECODE_TOLERANCE = 5e-3
PREFILL_TOLERANCE = 8e-3
# random layers of 32-wide heads: a token's query and key may be near orthogonal, and the norm behind their product then
# magnifies what float16 rounded (docs/log.md), so a program is held against what rounding alone does to these models
TIMES_ROUNDING, TIMES_MEAN_ROUNDING = 5, 3
RANDOM_TOLERANCE = 5e-2
KLD_TOLERANCE = 1e-3
TOKENS = 102
PLANS = ([64, 38], [32, 32, 32, 6], [1] * STEPS, [40, 1, 1, 1, 59])
TRAINED = "trained "  # before the name of a shape

Made = tuple[QuantizedCheckpoint, Lowered, Path]
Make = Callable[..., Made]


class Model:
    """The functions of an artifact's packages in one layout, and the state of one sequence."""

    def __init__(self, directory: Path, layout: str = "inside", accumulate: Accumulate = "float32") -> None:
        self.description = json.loads((directory / coreml.DESCRIPTION).read_text())
        self.layout = self.description["layouts"][layout]
        self.programs = [
            {
                call: load_package(directory / package, function, accumulate=accumulate, constants=Constants())
                for call, function in self.layout["functions"].items()
            }
            for package in self.description["packages"]
        ]
        self.reset()

    def reset(self) -> None:
        self.position = 0
        self.kept = [programs["decode"].new_state() for programs in self.programs]
        states = [state for state in self.layout["states"] if state["input_name"]]
        self.carried = {state["input_name"]: np.zeros(state["shape"], np.float16) for state in states}

    def call(self, ids: list[int]) -> Tensor:
        """Logits after these tokens, one or as many as a chunk holds."""
        call = "decode" if len(ids) == 1 else "prefill"
        padded = np.zeros((1, self.description["tokens"][call]), np.int32)
        padded[0, : len(ids)] = ids
        given: dict[str, Any] = {
            "input_ids": padded,
            "position": np.array([self.position], np.int32),
            "length": np.array([len(ids)], np.int32),
        }
        for programs, state in zip(self.programs, self.kept, strict=True):
            given |= self.carried
            program = programs[call]
            given |= program.run({name: given[name] for name in program.inputs}, state)
            self.carried = {name: given.get(f"{name}_out", value) for name, value in self.carried.items()}
        self.position += len(ids)
        return torch.from_numpy(given["logits"].astype(np.float32)).flatten()

    def run(self, tokens: Tensor, plan: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Position and logits of each chunk's last token, from the start of a sequence."""
        self.reset()
        for count in plan:
            logits = self.call(tokens[0, self.position : self.position + count].tolist())
            yield self.position - 1, logits


@pytest.fixture(scope="module")
def make(fixture_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Lower a fixture or the tiny model by a scheme, once a module."""

    @cache
    def lower(shape: str, scheme: str, backend: ModuleType = coreml, method: str = "rtn") -> Made:
        root = tmp_path_factory.mktemp("coreml")
        if shape.startswith(TRAINED):
            checkpoint = make_trained(root / "checkpoint", TRAINED_SHAPES[shape.removeprefix(TRAINED)])
        else:
            checkpoint = TINY if shape == "tiny" else fixture_checkpoint(shape)
        store = quantized(checkpoint, root / "store", scheme, method=method)
        backend.check(store.layout, store.config)
        return store, backend.lower(store, request(store), root, lambda *_: None), root

    return lower


def check_logits(found: list[tuple[int, Tensor]], expected: Tensor, tolerance: float) -> None:
    largest = max(float((logits - expected[position]).abs().max()) for position, logits in found)
    for position, logits in found:
        error = relative_error(logits, expected[position])
        assert error <= tolerance, f"relative error {error} at {position}"
        first, second = expected[position].topk(2).values
        if first - second > 2 * largest:
            assert logits.argmax() == expected[position].argmax(), f"position {position}"


def mean_divergence(found: list[tuple[int, Tensor]], expected: Tensor) -> float:
    divergences = [
        functional.kl_div(logits.log_softmax(-1), expected[position].log_softmax(-1), log_target=True, reduction="sum")
        for position, logits in found
    ]
    return float(torch.stack(divergences).mean())


@pytest.mark.parametrize("layout", ["inside", "outside"])
def test_float_program_of_a_trained_model_equals_eager(layout: str, make: Make) -> None:
    store, _, root = make("tiny", "float")
    tokens, model = random_tokens(store.config, TOKENS), Model(root, layout)
    expected = chunked_logits(eager(store), tokens, TOKENS)
    for plan in PLANS if layout == "inside" else PLANS[-1:]:
        tolerance = DECODE_TOLERANCE if max(plan) == 1 else PREFILL_TOLERANCE
        check_logits(list(model.run(tokens, plan)), expected, tolerance)


@pytest.mark.parametrize(
    "shape", ["like_9b", *(pytest.param(name, marks=pytest.mark.slow) for name in ("like_4b", "untied_fp32"))]
)
def test_float_program_of_trained_weights_equals_eager_in_the_other_shapes(shape: str, make: Make) -> None:
    store, _, root = make(TRAINED + shape, "float")
    tokens, model = random_tokens(store.config, TOKENS), Model(root)
    expected = chunked_logits(eager(store), tokens, TOKENS)
    for plan in PLANS:
        check_logits(list(model.run(tokens, plan)), expected, DECODE_TOLERANCE if max(plan) == 1 else PREFILL_TOLERANCE)


SHAPES = ("like_2b", "like_4b", "like_9b", "untied_fp32", "base_fp16", "base_fp32")


def one_quick(quick: str) -> list[Any]:
    """Every shape of the family, all but one only when asked for."""
    return [name if name == quick else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]


@pytest.mark.parametrize("shape", one_quick("like_4b"))
def test_float32_program_equals_eager_in_every_shape(shape: str, make: Make) -> None:
    store, _, root = make(shape, "float", coreml_float32)
    tokens, model = random_tokens(store.config, TOKENS), Model(root)
    expected = chunked_logits(eager(store), tokens, TOKENS)
    for plan in PLANS:
        found = list(model.run(tokens, plan))
        check_logits(found, expected, DECODE_TOLERANCE if max(plan) == 1 else PREFILL_TOLERANCE)


@pytest.mark.parametrize("shape", one_quick("like_9b"))
def test_float16_program_errs_as_much_as_rounding_does_in_every_shape(shape: str, make: Make) -> None:
    store, _, root = make(shape, "float")
    tokens, model = random_tokens(store.config, TOKENS), Model(root)
    expected = chunked_logits(eager(store), tokens, TOKENS)
    found = list(model.run(tokens, [1] * STEPS))
    rounding = torch.tensor(rounding_errors(store, tokens, ("norms", *PRODUCTS)))
    errors = torch.tensor([relative_error(logits, expected[position]) for position, logits in found])
    # nothing in float16 can do better: what products are given, or what they give, is too much by itself
    assert max(rounding_errors(store, tokens, ("inputs",))) > DECODE_TOLERANCE
    assert max(rounding_errors(store, tokens, ("outputs",))) > DECODE_TOLERANCE
    assert errors.max() <= TIMES_ROUNDING * rounding.max()
    assert errors.mean() <= TIMES_MEAN_ROUNDING * rounding.mean()
    for plan in PLANS:
        found = list(model.run(tokens, plan))
        check_logits(found, expected, RANDOM_TOLERANCE)
        assert mean_divergence(found, expected) <= KLD_TOLERANCE


@pytest.mark.parametrize(
    ("shape", "scheme"),
    [
        ("tiny", "int4"),
        ("like_4b", "mixed"),
        pytest.param("tiny", "int8", marks=pytest.mark.slow),
        pytest.param("like_9b", "int8", marks=pytest.mark.slow),
        pytest.param("untied_fp32", "int4", marks=pytest.mark.slow),
    ],
)
def test_quantized_program_equals_eager_on_the_same_codes(shape: str, scheme: str, make: Make) -> None:
    store, _, root = make(shape, scheme)
    tokens, model = random_tokens(store.config, TOKENS), Model(root)
    expected = chunked_logits(eager(store), tokens, TOKENS)
    for plan in PLANS[2:]:
        found = list(model.run(tokens, plan))
        assert mean_divergence(found, expected) <= KLD_TOLERANCE
        check_logits(found, expected, RANDOM_TOLERANCE)


def test_palettized_program_equals_eager_on_the_same_values(make: Make) -> None:
    store, lowered, root = make("tiny", "palettized", method="kmeans")
    tokens, model = random_tokens(store.config, TOKENS), Model(root)
    expected = chunked_logits(eager(store), tokens, TOKENS)
    for plan in PLANS[2:]:
        found = list(model.run(tokens, plan))
        assert mean_divergence(found, expected) <= KLD_TOLERANCE
        check_logits(found, expected, PREFILL_TOLERANCE)
    weights = (root / "model.mlpackage" / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").read_bytes()
    values = values_of("down", store.weight("layers.0.mlp.down_proj"), 16).half()
    assert weights.count(values.numpy().tobytes()) == 1
    written = sum(file.stat().st_size for file in lowered.files if file.is_file())
    assert written <= coreml.estimate_bytes(store.layout, store.config, CONTEXT)


def test_more_values_than_a_table_holds_are_named() -> None:
    with pytest.raises(LoweringError, match=r"up_proj holds 64 values in 16 rows, a table has room for 16"):
        values_of("up_proj", torch.arange(64.0).reshape(16, 4), 16)


def test_tables_go_only_where_they_can_be_stored(tmp_path: Path) -> None:
    spec = ExportSpec(target="ios", model="tiny", scheme="palettized", out=tmp_path, backends=("executorch",))
    with pytest.raises(UnsupportedSchemeError, match=r"executorch cannot pack .* it holds no tables of values"):
        make_plan(spec)


def test_a_method_that_makes_no_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        QuantizationError, match=r"method 'rtn', layers\.0: makes no tables, as .*; use --method kmeans"
    ):
        quantized(TINY, tmp_path, "palettized")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen3.5-2b", "qwen3.5-4b"])
def test_two_layers_of_real_width_are_written_and_run_in_both_layouts(model: str, tmp_path: Path) -> None:
    store = quantized(two_layers(model, tmp_path / "checkpoint"), tmp_path / "store", "int4")
    lowered = coreml.lower(store, request(store), tmp_path, lambda *_: None)
    plan = [5, 1, 1]
    tokens = random_tokens(store.config, sum(plan))
    expected = chunked_logits(eager(store), tokens, sum(plan))
    for layout in coreml.LAYOUTS:
        found = list(Model(tmp_path, layout).run(tokens, plan))
        assert mean_divergence(found, expected) <= KLD_TOLERANCE
        check_logits(found, expected, RANDOM_TOLERANCE)
    written = sum(file.stat().st_size for file in lowered.files if file.is_file())
    counted = sum(coreml.PACKING.unit_bytes(unit, store.layout[unit.name]) for unit in units(store.config))
    assert written <= 1.05 * counted


def test_a_reset_forgets_and_a_second_turn_goes_on(make: Make) -> None:
    store, _, root = make("tiny", "int4")
    tokens, model = random_tokens(store.config, TOKENS), Model(root)
    first = [logits for _, logits in model.run(tokens, [40, 1, 20])]
    again = [logits for _, logits in model.run(tokens, [40, 1, 20])]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("scheme", ["int4", "mixed"])
def test_codes_lie_in_the_file_bit_for_bit_and_once(scheme: str, make: Make) -> None:
    store, lowered, _ = make("tiny" if scheme == "int4" else "like_4b", scheme)
    (weights,) = (file for file in lowered.files if file.name == "weight.bin")
    content = weights.read_bytes()
    for unit in ("embed_tokens", "layers.0.mlp.down_proj", "layers.0.linear_attn.out_proj"):
        packed = store.packed(unit)
        # two's complement here, an offset of 8 in the store
        stored = packed ^ 0x88 if store.layout[unit].bits == 4 else packed
        assert content.count(stored.contiguous().view(torch.uint8).numpy().tobytes()) == 1, unit
        scales = store.scales(unit).to(torch.float16)
        assert torch.equal(scales.float(), store.scales(unit)), unit
        assert scales.numpy().tobytes() in content, unit


def test_the_same_weights_give_the_same_bytes(make: Make, tmp_path: Path) -> None:
    store, lowered, root = make("tiny", "int4")
    again = coreml.lower(store, request(store), tmp_path, lambda *_: None)
    for one, other in zip(lowered.files, again.files, strict=True):
        assert one.relative_to(root) == other.relative_to(tmp_path)
        assert one.is_dir() or one.read_bytes() == other.read_bytes(), one.name


def test_packages_cut_by_bytes_pass_the_hidden_state_on(make: Make, tmp_path: Path) -> None:
    store, _, root = make("tiny", "int4")
    captured = capture_decoder(store, request(store))
    packages = coreml.split_layers(captured, 400_000)
    assert len(packages) > 1
    for name, layers in packages.items():
        coreml.write_layers(captured, layers, tmp_path / name, lambda *_: None)
    description = json.loads((root / coreml.DESCRIPTION).read_text()) | {"packages": list(packages)}
    (tmp_path / coreml.DESCRIPTION).write_text(json.dumps(description))
    tokens = random_tokens(store.config, TOKENS)
    whole, cut = Model(root).run(tokens, [40, 1, 1]), Model(tmp_path).run(tokens, [40, 1, 1])
    assert all(torch.equal(one[1], other[1]) for one, other in zip(whole, cut, strict=True))


def emitted(inputs: dict[str, tuple[int, ...]], body: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """A program of one function around `body`, written, read back, and ready to evaluate."""

    def run(*arrays: np.ndarray[Any, Any], accumulate: Accumulate = "float32") -> np.ndarray[Any, Any]:
        program = load_package(package, "main", accumulate=accumulate)
        found: np.ndarray[Any, Any] = program.run(dict(zip(inputs, arrays, strict=True)))["out"]
        return found

    function = Function(
        {name: mb.placeholder(shape, dtype=types.fp16) for name, shape in inputs.items()},
        opset_version=ct.target.iOS18,
    )
    with function:
        function.set_outputs([mb.identity(x=body(*function.inputs.values()), name="out")])
    program = Program()
    program.export_as_multifunction = True
    program.add_function("main", function)
    program.default_function_name = "main"
    package = tmp_path / "small.mlpackage"
    write_package(program, {}, package, lambda *_: None)
    return run


def alike_keys(seed: int, tokens: int, correlation: float) -> Tensor:
    """Systems L (8, T, T) of keys that are nearly one, slow decay and strong writes: the hardest to invert."""
    generator = torch.Generator().manual_seed(seed)
    shared, own = torch.randn(8, 1, 128, generator=generator), torch.randn(8, tokens, 128, generator=generator)
    keys = functional.normalize(correlation * shared + math.sqrt(1 - correlation**2) * own, dim=-1)
    beta = 0.7 + 0.3 * torch.rand(8, tokens, 1, generator=generator)
    total = (-0.02 * torch.rand(8, tokens, generator=generator)).cumsum(-1)
    between = (total.unsqueeze(-1) - total.unsqueeze(-2)).exp()
    return (beta * (keys @ keys.mT) * between).tril(-1)


@pytest.mark.parametrize(("accumulate", "tolerance"), [("float32", 2e-3), ("float16", 5e-3)])
def test_the_chunk_inverse_survives_keys_that_are_alike(
    accumulate: Accumulate, tolerance: float, tmp_path: Path
) -> None:
    invert = emitted({"system": (1, 8, 64, 64)}, delta.invert_unit_lower, tmp_path)
    for seed in range(40):
        system = alike_keys(seed, 64, 0.95).half()
        expected = torch.linalg.inv(torch.eye(64).double() + system.double())
        found = torch.from_numpy(invert(system[None].numpy(), accumulate=accumulate)).double()[0]
        error = float((found - expected).abs().max() / expected.abs().max())
        assert error <= tolerance, f"seed {seed}: {error}"  # NaN fails too


def test_softplus_and_exp_minus_one_keep_their_digits_over_the_whole_range(tmp_path: Path) -> None:
    x = torch.cat([torch.linspace(-9, 9, 181), torch.tensor([-30.0, 200.0, 3e4, 6e4])]).half()
    found = torch.from_numpy(emitted({"x": tuple(x.shape)}, arithmetic.softplus, tmp_path / "a")(x.numpy())).float()
    torch.testing.assert_close(found, functional.softplus(x.float()), rtol=3e-3, atol=1e-7)
    negative = -x.abs()

    def body(value: Any) -> Any:
        return arithmetic.exp_minus_one(value, mb.exp(x=value))

    found = torch.from_numpy(emitted({"x": tuple(x.shape)}, body, tmp_path / "b")(negative.numpy())).float()
    torch.testing.assert_close(found, torch.expm1(negative.float()), rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("size", [1e-3, 1.0, 3e4])
def test_norms_stay_finite_and_right_from_small_to_strong_inputs(size: float, tmp_path: Path) -> None:
    x = (torch.randn(1, 3, 256, generator=torch.Generator().manual_seed(0)).clamp(-2, 2) * size).half()
    weight = np.ones(512, np.float16)

    def body(value: Any) -> Any:
        return arithmetic.rms_norm(value, weight, 1e-6)

    found = torch.from_numpy(emitted({"x": tuple(x.shape)}, body, tmp_path / "rms")(x.numpy())).float()
    expected = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(found, expected, rtol=8e-3, atol=1e-4)
    keys = x.clamp(-arithmetic.LARGEST_KEY, arithmetic.LARGEST_KEY)

    def normalize(value: Any) -> Any:
        return arithmetic.l2_norm(value, 1e-6)

    found = torch.from_numpy(emitted({"x": tuple(x.shape)}, normalize, tmp_path / "l2")(x.numpy())).float()
    expected = keys.float() * torch.rsqrt(keys.float().pow(2).sum(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(found, expected, rtol=3e-3, atol=1e-4)


def test_weights_beyond_float16_are_named() -> None:
    with pytest.raises(LoweringError, match=r"layers_0_gate holds 70000, and float16"):
        as_float16("layers_0_gate", np.array([70_000.0], np.float32))


def test_a_format_that_blocks_cannot_hold_is_named(make: Make) -> None:
    store, _, _ = make("tiny", "int4")
    layout = {**store.layout, "layers.0.mlp.down_proj": Format(bits=3, group_size=32)}
    with pytest.raises(UnsupportedSchemeError, match=r"coreml cannot pack layers\.0\.mlp\.down_proj as int3_g32"):
        coreml.check(layout, store.config)


def test_another_coremltools_is_named() -> None:
    with pytest.raises(MissingPackageError, match=r"needs coremltools 9\.0, found 8\.3\.0; install it"):
        coreml.check_version("8.3.0")


def test_an_estimate_bounds_what_is_written(make: Make) -> None:
    makes = (("tiny", "int4"), ("like_9b", "float"), ("like_4b", "mixed"), ("like_4b", "float", coreml_float32))
    for shape, scheme, *others in makes:
        backend = others[0] if others else coreml
        store, lowered, _ = make(shape, scheme, *others)
        written = sum(file.stat().st_size for file in lowered.files if file.is_file())
        assert written <= backend.estimate_bytes(store.layout, store.config, CONTEXT)

"""Whole programs: written by coremltools, saved, read back, and compared with torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from coremltools.optimize import coreml as cto
from numpy.typing import NDArray

from runtimes.mil import Constants, Program, ProgramError, State, UnsupportedProgramError, load_package, open_package
from tests.runtimes.mil.packages import function, save
from tests.runtimes.mil.stateful import CHUNK, STATES, SmallDecoder, convert, inputs_at, reference, save_both

# coremltools leaves its temporary directories to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")

TOKENS = [(7 * at + 3) % 96 for at in range(24)]
FP16_ERROR = 5e-3  # relative to the largest logit


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small decoder in fp16, decode and prefill in one package."""
    return save_both(tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def int4_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with weights of 4 bits in blocks of 32."""
    blocks = cto.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32, weight_threshold=256
    )
    config = cto.OptimizationConfig(global_config=blocks)
    place = tmp_path_factory.mktemp("int4") / "decode.mlpackage"
    cto.linear_quantize_weights(convert(1), config=config).save(str(place))
    return place


def run_tokens(program: Program, state: State, tokens: list[int], position: int = 0) -> NDArray[np.float32]:
    """The logits after these tokens in one call."""
    (logits,) = program.run(inputs_at(tokens, position), state).values()
    return logits.reshape(-1).astype(np.float32)


def assert_close(found: NDArray[Any], wanted: NDArray[Any], error: float = FP16_ERROR) -> None:
    size = float(np.abs(wanted).max())
    worst = float(np.abs(found - wanted).max())
    assert worst <= error * size
    best_two = np.sort(wanted)[-2:]
    assert best_two[1] - best_two[0] <= 2 * worst or found.argmax() == wanted.argmax()


def test_a_converted_decoder_gives_torchs_logits_step_by_step(package: Path) -> None:
    program = load_package(package, "decode")
    assert set(program.states) == set(STATES)
    state, model = program.new_state(), SmallDecoder(1).eval()
    wanted = reference(model, TOKENS)
    for position, token in enumerate(TOKENS):
        assert_close(run_tokens(program, state, [token], position), wanted[position])
    for name in STATES:
        held = getattr(model, name).numpy()
        assert np.abs(state.array(name) - held).max() <= FP16_ERROR * np.abs(held).max()


def test_prefill_and_decode_share_weights_and_states(package: Path) -> None:
    opened, constants = open_package(package), Constants()
    prefill = load_package(opened, "prefill", constants=constants)
    decode = load_package(opened, "decode", constants=constants)
    wanted, state = reference(SmallDecoder(1).eval(), TOKENS), decode.new_state()
    for start in (0, CHUNK, 2 * CHUNK):
        assert_close(run_tokens(prefill, state, TOKENS[start : start + CHUNK], start), wanted[start + CHUNK - 1])
    kept = constants.kept_bytes
    for position in range(3 * CHUNK, len(TOKENS)):
        assert_close(run_tokens(decode, state, [TOKENS[position]], position), wanted[position])
    assert constants.kept_bytes < 1.1 * kept  # decode brings a few small constants of its own


def test_a_reset_state_is_a_new_one(package: Path) -> None:
    program = load_package(package)
    assert program.name == "decode"
    state = program.new_state()
    first = run_tokens(program, state, [5])
    second = run_tokens(program, state, [5], 1)
    assert not np.array_equal(first, second)
    state.reset()
    np.testing.assert_array_equal(run_tokens(program, state, [5]), first)
    np.testing.assert_array_equal(run_tokens(program, program.new_state(), [5]), first)


def test_int4_is_torch_with_the_weights_that_the_codes_stand_for(int4_package: Path) -> None:
    program = load_package(int4_package)
    model = SmallDecoder(1).eval()
    replaced = _copy_weights(program, model)
    assert replaced >= 6
    state = program.new_state()
    for position, wanted in enumerate(reference(model, TOKENS)):
        assert_close(run_tokens(program, state, [TOKENS[position]], position), wanted)


def _copy_weights(program: Program, model: SmallDecoder) -> int:
    """Put the package's decoded matrices in the place of the model's, found by shape and likeness."""
    replaced = 0
    for step in program.steps:
        sources = step.arguments.get("weight" if step.kind == "linear" else "x", (None, []))[1]
        for source in sources:
            if isinstance(source, str) or step.kind not in ("linear", "gather"):
                continue
            weight = program.constants.value(source)
            assert isinstance(weight, torch.Tensor)
            for parameter in model.parameters():
                same = parameter.shape == weight.shape and weight.dim() == 2
                if same and (weight.float() - parameter).abs().max() < 0.3 * parameter.abs().max():
                    parameter.data.copy_(weight.float())
                    replaced += 1
    return replaced


def test_what_was_read_from_a_state_stays_when_it_is_written(tmp_path: Path) -> None:
    def body(x: Any, s: Any) -> list[Any]:
        before = mb.read_state(input=s)
        after = mb.coreml_update_state(state=s, value=mb.add(x=before, y=x))
        return [mb.mul(x=before, y=np.float16(1), name="before"), mb.mul(x=after, y=np.float16(1), name="after")]

    x = np.ones((2, 32), np.float16)
    program = load_package(save({"main": function({"x": x}, {"s": (2, 32)}, body)}, tmp_path / "s.mlpackage"))
    state = program.new_state()
    for step in range(3):
        found = program.run({"x": x}, state)
        assert found["before"].max() == step
        assert found["after"].min() == step + 1
    held = state.array("s")
    held[:] = 7
    assert program.run({"x": x}, state)["before"].min() == 7


@pytest.mark.parametrize(("dtype", "overflows"), [(np.float16, True), (np.float32, False)])
def test_an_overflow_of_fp16_shows_as_infinity(tmp_path: Path, dtype: Any, overflows: bool) -> None:
    x = np.full((1, 4), 300, dtype)

    def body(x: Any) -> Any:
        return mb.mul(x=mb.mul(x=x, y=x), y=dtype(1e-3))

    program = load_package(save({"main": function({"x": x}, {}, body)}, tmp_path / "big.mlpackage"))
    (found,) = program.run({"x": x}).values()
    assert np.isinf(found).all() == overflows


def one_operator(directory: Path, body: Callable[..., Any], **inputs: NDArray[Any]) -> Path:
    return save({"main": function(inputs, {}, body)}, directory / "one.mlpackage")


@pytest.mark.parametrize("kind", ["linear", "matmul", "einsum", "conv", "reduce_sum", "attention"])
def test_fp16_accumulation_loses_what_it_must(tmp_path: Path, kind: str) -> None:
    """A sum of 4096 ones ends at 2048 where each partial sum is rounded to fp16."""
    ones, row = np.ones((1, 1, 4096), np.float16), np.ones((1, 4096), np.float16)
    bodies: dict[str, tuple[Callable[..., Any], NDArray[Any]]] = {
        "linear": (lambda x: mb.linear(x=x, weight=row), ones),
        "matmul": (lambda x: mb.matmul(x=x, y=row.reshape(1, 4096, 1)), ones),
        "einsum": (lambda x: mb.einsum(values=[x, row.reshape(4096, 1, 1)], equation="chw,whr->chr"), ones),
        "conv": (lambda x: mb.conv(x=x, weight=row.reshape(1, 4096, 1)), ones.reshape(1, 4096, 1)),
        "reduce_sum": (lambda x: mb.reduce_sum(x=x, axes=[-1], keep_dims=True), ones),
        "attention": (
            # two equal scores of half: the values 4096 and 0 average to 2048, and scores of 4096 ones saturate alike
            lambda x: mb.mul(x=mb.scaled_dot_product_attention(query=x, key=x, value=x), y=np.float16(2)),
            ones,
        ),
    }
    body, x = bodies[kind]
    place = one_operator(tmp_path, body, x=x)
    (wide,) = load_package(place).run({"x": x}).values()
    (narrow,) = load_package(place, accumulate="float16").run({"x": x}).values()
    if kind == "attention":
        np.testing.assert_array_equal(wide, narrow)
    else:
        assert wide.reshape(-1)[0] == 4096
        assert narrow.reshape(-1)[0] == 2048


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "depthwise": ((1, 6, 9), (6, 1, 4), {"groups": 6, "pad_type": "custom", "pad": [3, 0]}),
    "grouped": ((2, 4, 6, 7), (8, 2, 3, 2), {"groups": 2, "strides": [2, 1], "dilations": [1, 2]}),
    "pointwise": ((1, 8, 1, 5), (3, 8, 1, 1), {}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_fp16_form_of_a_convolution_is_the_same_convolution(tmp_path: Path, name: str) -> None:
    shape, weight_shape, parameters = CONVOLUTIONS[name]
    random = np.random.default_rng(0)
    x = random.integers(-4, 5, size=shape).astype(np.float16)  # sums that fp16 holds exactly
    weight = random.integers(-4, 5, size=weight_shape).astype(np.float16)
    place = one_operator(tmp_path, lambda x: mb.conv(x=x, weight=weight, **parameters), x=x)
    (wide,) = load_package(place).run({"x": x}).values()
    (narrow,) = load_package(place, accumulate="float16").run({"x": x}).values()
    np.testing.assert_array_equal(wide, narrow)


def test_inputs_and_states_that_do_not_fit_are_refused(package: Path) -> None:
    program = load_package(package, "decode")
    good = inputs_at([1], 0)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ids": good["ids"]}, "input 'mask' is in only one of call and program"),
        ({**good, "extra": good["ids"]}, "input 'extra' is in only one"),
        (
            {**good, "ids": np.zeros((1, 2), np.int32)},
            r"input 'ids': is int32 \(1, 2\), the program says int32 \(1, 1\)",
        ),
        ({**good, "ids": np.zeros((1, 1), np.float32)}, "input 'ids': is float32, the program says int32"),
        ({**good, "ids": np.array([[2**40]])}, "input 'ids': holds values that int32 cannot"),
        ({**good, "ids": np.array([[96]])}, "an index between 96 and 96 is outside an axis of 96"),
    ]
    for inputs, message in cases:
        with pytest.raises(ProgramError, match=message):
            program.run(inputs, program.new_state())
    with pytest.raises(ProgramError, match=r"state '\w+' is missing; the program says fp16"):
        program.run(good)
    with pytest.raises(ProgramError, match=r"no function 'other'; it has decode, prefill"):
        load_package(package, "other")


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    x = np.ones((1, 2, 3, 3), np.float32)

    def body(x: Any) -> Any:
        return mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=2)

    place = one_operator(tmp_path, body, x=x)
    with pytest.raises(UnsupportedProgramError, match="operator 'upsample_nearest_neighbor' .*does not know"):
        load_package(place)


def test_control_flow_is_refused(tmp_path: Path) -> None:
    x = np.ones((1, 4), np.float32)

    def body(x: Any) -> Any:
        positive = mb.greater(x=mb.reduce_sum(x=x), y=np.float32(0))
        return mb.cond(pred=positive, _true_fn=lambda: mb.exp(x=x), _false_fn=lambda: mb.sin(x=x))

    with pytest.raises(UnsupportedProgramError, match="'cond' .*has blocks of its own"):
        load_package(one_operator(tmp_path, body, x=x))

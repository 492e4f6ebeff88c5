"""The written `.pte` in stock ExecuTorch against eager torch on the same codes."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program
from executorch.exir._serialize._program import _get_extended_header
from torch import Tensor
from torch.nn import functional

from export.backends import Lowered, executorch
from export.errors import LoweringError, UnsupportedSchemeError
from export.executorch_lowering import translate
from export.executorch_lowering.pte import Method, write_pte
from export.quantized import QuantizedCheckpoint
from export.schemes import Format
from tests.subjects import CONTEXT, chunked_logits, eager, quantized, random_tokens, relative_error, request

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from executorch.extension.llm.custom_ops import custom_ops as _llm_operators  # noqa: F401 (registers llama::)
    from executorch.extension.pybindings import portable_lib
    from executorch.kernels import quantized as _quantized_operators  # noqa: F401 (registers quantized_decomposed::)

SHAPES = ("like_2b", "like_4b", "like_9b", "untied_fp32")
TOKENS = 150
FLOAT_TOLERANCE = 1e-4
KLD_TOLERANCE = 1e-4
CHUNK = executorch.PREFILL_CHUNK
# the longest calls, single steps, small and odd chunks, and turns: a prefill, steps, a prefill off the chunks' boundary
PLANS = ([64, 64, 22], [1] * TOKENS, [7] * 21 + [3], [33] * 4 + [18], [64, 36, *[1] * 20, 30])

Made = tuple[QuantizedCheckpoint, Lowered, Path]
Make = Callable[..., Made]


class StrongDecay(QuantizedCheckpoint):
    """The same weights, but every head forgets by e^-20 softplus(...) a token: far past -80 in a chunk."""

    def plain(self, name: str) -> Tensor:
        value = super().plain(name)
        return torch.full_like(value, math.log(20.0)) if name.endswith("A_log") else value


class SlowDecay(QuantizedCheckpoint):
    """The same weights, but every head forgets about 16 e^-9 a token: softplus where 1 + e^u rounds e^u."""

    def plain(self, name: str) -> Tensor:
        value = super().plain(name)
        if name.endswith("A_log"):
            return torch.full_like(value, math.log(16.0))
        return torch.full_like(value, -9.3) if name.endswith("dt_bias") else value


@pytest.fixture(scope="module")
def make(fixture_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Lower a fixture by a scheme, once a module."""

    @cache
    def lower(shape: str, scheme: str, group_size: int | None = None) -> Made:
        root = tmp_path_factory.mktemp("executorch")
        store = quantized(fixture_checkpoint(shape), root / "store", scheme, group_size)
        executorch.check(store.layout, store.config)
        lowered = executorch.lower(store, request(store), root, lambda *_: None)
        return store, lowered, root / lowered.model_file

    return lower


class Model:
    """A loaded file and the position of its sequence."""

    def __init__(self, file: Path) -> None:
        portable_lib._unsafe_reset_threadpool(1)
        self.program = portable_lib._load_program(str(file))
        self.method = self.program.load_method("forward")

    def call(self, tokens: Tensor, position: int) -> Tensor:
        logits: Tensor = self.method.call((tokens.contiguous(), torch.tensor([position])))[0]
        return logits.flatten().clone()

    def run(self, tokens: Tensor, plan: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """The position and logits that end each chunk, from position 0 on: state is never cleared from outside."""
        position = 0
        for count in plan:
            logits = self.call(tokens[:, position : position + count], position)
            position += count
            yield position - 1, logits


def check_float(model: Model, tokens: Tensor, expected: Tensor) -> None:
    for plan in PLANS:
        for position, logits in model.run(tokens, plan):
            error = relative_error(logits, expected[position])
            assert error <= FLOAT_TOLERANCE, f"relative error {error} at {position} in chunks of {plan[0]}"
            assert logits.argmax() == expected[position].argmax()


def check_quantized(model: Model, tokens: Tensor, expected: Tensor) -> None:
    found = [answer for plan in PLANS for answer in model.run(tokens, plan)]
    divergence = [
        functional.kl_div(logits.log_softmax(-1), expected[position].log_softmax(-1), log_target=True, reduction="sum")
        for position, logits in found
    ]
    assert float(torch.stack(divergence).mean()) <= KLD_TOLERANCE
    largest = max(float((logits - expected[position]).abs().max()) for position, logits in found)
    for position, logits in found:
        first, second = expected[position].topk(2).values
        if first - second > 2 * largest:
            assert logits.argmax() == expected[position].argmax(), f"position {position}"


@pytest.mark.parametrize("shape", SHAPES)
def test_float_file_equals_eager(shape: str, make: Make) -> None:
    store, _, file = make(shape, "float")
    tokens = random_tokens(store.config, TOKENS)
    check_float(Model(file), tokens, chunked_logits(eager(store), tokens, TOKENS))


@pytest.mark.parametrize(
    ("shape", "scheme", "group_size"),
    [
        *((shape, "int4", None) for shape in SHAPES),
        ("like_4b", "int4", 64),
        ("like_2b", "int8", None),
        ("like_9b", "int8", None),
    ],
)
def test_quantized_file_equals_emulating_eager(shape: str, scheme: str, group_size: int | None, make: Make) -> None:
    store, lowered, file = make(shape, scheme, group_size)
    tokens = random_tokens(store.config, TOKENS)
    expected = chunked_logits(eager(store, lowered.activations), tokens, TOKENS)
    check_quantized(Model(file), tokens, expected)


@pytest.mark.parametrize(("shape", "scheme"), [("like_2b", "int4"), ("like_9b", "int4"), ("like_4b", "int8")])
def test_codes_are_exact_where_no_activation_crosses_a_rounding(shape: str, scheme: str, make: Make) -> None:
    """First tokens have short histories: most agree to the order of additions, which no other code or scale would."""
    store, lowered, file = make(shape, scheme)
    model, errors = Model(file), []
    for token in range(40):
        tokens = torch.tensor([[token]])
        expected = chunked_logits(eager(store, lowered.activations), tokens, 1)[0]
        errors.append(relative_error(model.call(tokens, 0), expected))
    assert sorted(errors)[len(errors) // 2] <= 1e-5


def test_strong_decay_and_equal_keys_survive_the_parallel_chunk(make: Make, tmp_path: Path) -> None:
    store, _, _ = make("like_4b", "float")
    strong = StrongDecay(path=store.path, config=store.config, layout=store.layout, entries=store.entries)
    lowered = executorch.lower(strong, request(strong), tmp_path, lambda *_: None)
    tokens = random_tokens(store.config, TOKENS)
    check_float(Model(tmp_path / lowered.model_file), tokens, chunked_logits(eager(strong), tokens, TOKENS))


def test_a_slow_head_forgets_at_its_own_rate(make: Make, tmp_path: Path) -> None:
    """XNNPACK's logarithm alone gives an error of 5e-5 here, and more the longer the context."""
    store, _, _ = make("like_2b", "float")
    slow = SlowDecay(path=store.path, config=store.config, layout=store.layout, entries=store.entries)
    lowered = executorch.lower(slow, request(slow), tmp_path, lambda *_: None)
    tokens = random_tokens(store.config, TOKENS)
    expected = chunked_logits(eager(slow), tokens, TOKENS)
    for position, logits in Model(tmp_path / lowered.model_file).run(tokens, PLANS[0]):
        assert relative_error(logits, expected[position]) <= 1e-5


def test_one_token_repeated_survives_the_parallel_chunk(make: Make) -> None:
    store, _, file = make("like_2b", "float")
    tokens = torch.full((1, TOKENS), 17)
    check_float(Model(file), tokens, chunked_logits(eager(store), tokens, TOKENS))


def test_position_zero_clears_the_state_even_of_nan(make: Make) -> None:
    store, lowered, file = make("like_2b", "int4")
    model, tokens = Model(file), random_tokens(store.config, TOKENS)
    first = [logits for _, logits in model.run(tokens, PLANS[4])]
    for entry in lowered.state:
        model.method.get_attribute(entry.name).fill_(math.nan)
    again = [logits for _, logits in model.run(tokens, PLANS[4])]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_every_state_tensor_is_found_by_its_name(make: Make) -> None:
    _, lowered, file = make("like_4b", "int4")
    method = Model(file).method
    for entry in lowered.state:
        assert tuple(method.get_attribute(entry.name).shape) == entry.shape, entry.name


def test_a_call_past_the_context_fails_and_changes_nothing(make: Make) -> None:
    store, _, file = make("like_2b", "int4")
    tokens = random_tokens(store.config, CONTEXT + 1)
    model, undisturbed = Model(file), Model(file)
    plan = [CHUNK] * (CONTEXT // CHUNK - 1) + [CHUNK - 1]
    for one, other in zip(model.run(tokens, plan), undisturbed.run(tokens, plan), strict=True):
        assert torch.equal(one[1], other[1])
    with pytest.raises(RuntimeError):
        model.call(tokens[:, CONTEXT - 1 :], CONTEXT - 1)
    last = tokens[:, CONTEXT - 1 : CONTEXT]
    assert torch.equal(model.call(last, CONTEXT - 1), undisturbed.call(last, CONTEXT - 1))
    with pytest.raises(RuntimeError):
        model.call(last, CONTEXT)


def test_tied_table_lies_once_in_the_file(make: Make) -> None:
    store, _, file = make("like_2b", "int4")
    weights = sum(entry.size_bytes for name, entry in store.entries.items() if name.endswith((".codes", ".scales")))
    table = store.entries["embed_tokens.codes"].size_bytes
    assert file.stat().st_size < weights + table // 2 + OVERHEAD_BYTES, "the embedding table seems to be stored twice"
    untied, _, other = make("untied_fp32", "int4")
    both = sum(entry.size_bytes for name, entry in untied.entries.items() if name.endswith((".codes", ".scales")))
    assert other.stat().st_size > both


@pytest.mark.parametrize("scheme", ["int4", "int8", "float"])
def test_a_shared_table_gives_the_bits_of_two_tables(
    scheme: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, shared = make("like_2b", scheme)

    def write_apart(file: Path, methods: Sequence[Method], *rest: Any) -> None:
        constants = methods[0].builder.constants
        assert any(constant.shared for constant in constants)
        for constant in constants:
            constant.shared = None
        write_pte(file, methods, *rest)

    monkeypatch.setattr(executorch, "write_pte", write_apart)
    apart = tmp_path / executorch.lower(store, request(store), tmp_path, lambda *_: None).model_file
    table = sum(entry.size_bytes for name, entry in store.entries.items() if name.startswith("embed_tokens."))
    assert apart.stat().st_size > shared.stat().st_size + table // 2
    tokens = random_tokens(store.config, TOKENS)
    for plan in ([64, 36, *[1] * 20, 30], [1] * TOKENS):
        for (_, one), (_, other) in zip(Model(shared).run(tokens, plan), Model(apart).run(tokens, plan), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("shape", ["like_2b", "untied_fp32"])
def test_delegates_are_opened_by_falling_size(shape: str, make: Make) -> None:
    """While one is packed its weights are in memory twice, so the largest has to come before the others are there."""
    _, _, file = make(shape, "int4")
    content = file.read_bytes()
    header = _get_extended_header(content)
    assert header is not None
    program = _flatbuffer_to_program(content[: header.program_size])
    assert program.named_data is not None
    sizes = {named.key.encode(): program.segments[named.segment_index].size for named in program.named_data}
    totals = []
    for delegate in program.execution_plan[0].delegates:
        segment = program.segments[delegate.processed.index]
        start = header.segment_base_offset + segment.offset
        payload = content[start : start + segment.size]
        totals.append(sum(size for key, size in sizes.items() if key in payload))
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1]


OVERHEAD_BYTES = 400_000  # norms, convolutions, gates, rotary tables, masks and the program itself


def test_a_layer_is_one_delegate_and_its_own_kernels(make: Make) -> None:
    store, lowered, _ = make("like_2b", "int4")
    layers = store.config.layer_types
    linear, full = layers.count("linear_attention"), layers.count("full_attention")
    assert lowered.details["delegates"] == linear + full + 1 + 1  # the end of the last layer; the shared chunk graph
    assert lowered.details["kernels"] == {
        "aten::_local_scalar_dense": 1,
        "aten::narrow_copy": 2,  # rotary rows
        "aten::slice_copy": linear + 2 + 3,  # convolution states, masks, the last token of the last layer
        "aten::sym_size": 1,
        "aten::zeros": 2 * linear,  # only at position 0
        "executorch_prim::eq": 2,
        "llama::custom_sdpa": full,
        "llama::gated_delta_rule": linear,
        "llama::update_cache": 2 * full,
        "quantized_decomposed::embedding_4bit": 1,
    }


def test_the_runners_metadata_is_in_the_file(make: Make) -> None:
    store, _, file = make("like_2b", "int4")
    program = portable_lib._load_for_executorch(str(file))
    expected: dict[str, list[Any]] = {
        "get_max_seq_len": [CHUNK],
        "get_max_context_len": [CONTEXT],
        "get_eos_ids": [1, 2],
        "get_vocab_size": [store.config.vocab_size],
        "use_kv_cache": [True],
        "use_sdpa_with_kv_cache": [True],
        "enable_dynamic_shape": [True],
    }
    for name, value in expected.items():
        assert list(program.run_method(name, ())) == value, name
    assert list(program.method_meta("forward").input_tensor_meta(0).sizes()) == [1, CHUNK]


def test_equal_inputs_give_equal_bytes(make: Make, tmp_path: Path) -> None:
    store, lowered, file = make("like_4b", "int4")
    again = executorch.lower(store, request(store), tmp_path, lambda *_: None)
    assert file.read_bytes() == (tmp_path / again.model_file).read_bytes()
    assert again.state == lowered.state


def test_formats_that_xnnpack_lacks_are_refused(make: Make) -> None:
    store, _, _ = make("like_2b", "int4")
    for form, name in ((Format(bits=4, group_size=48), "int4_g48"), (Format(bits=8, group_size=32), "int8_g32")):
        layout = dict(store.layout) | {"layers.0.mlp.up_proj": form}
        with pytest.raises(UnsupportedSchemeError, match=f"executorch cannot pack layers.0.mlp.up_proj as {name}"):
            executorch.check(layout, store.config)


def test_an_operator_without_lowering_is_named(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, _ = make("like_2b", "int4")
    monkeypatch.delitem(translate.TABLE, torch.ops.edge.swiglu.default)
    with pytest.raises(LoweringError, match="executorch has no lowering of edge.swiglu"):
        executorch.lower(store, request(store), tmp_path, lambda *_: None)

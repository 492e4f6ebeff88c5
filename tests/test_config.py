"""Each field of config.json is checked: what is wrong is named with where it stands, what it held and what to do."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.config import ModelConfig, parse_config, read_config
from export.errors import ConfigError
from tests.fixtures import TINY

WHERE = "somewhere/config.json"
DIMENSIONS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_conv_kernel_dim",
    "max_position_embeddings",
)
Change = Callable[[dict[str, Any]], object]


def tiny(*changes: Change) -> dict[str, Any]:
    """The tiny model's config with its text part changed."""
    raw = copy.deepcopy(read_config(TINY))
    for change in changes:
        change(raw["text_config"])
    return raw


def message(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(raw, WHERE)
    return str(error.value)


def test_a_whole_config_and_its_text_part_alone_say_the_same() -> None:
    raw = tiny()
    text = {**raw["text_config"], "tie_word_embeddings": raw["tie_word_embeddings"]}
    assert parse_config(raw) == parse_config(text)
    assert isinstance(parse_config(raw), ModelConfig)


@pytest.mark.parametrize("field", DIMENSIONS)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "64", None, 1 << 31, 10**400, [64]])
def test_a_dimension_is_a_positive_integer(field: str, value: object) -> None:
    found = message(tiny(lambda text: text.update({field: value})))
    assert found.startswith(f"{WHERE}: {field} is {str(value)[:20] if not isinstance(value, str) else repr(value)}")
    assert "expected a positive integer; take config.json from the original checkpoint" in found
    assert len(found) < 300


@pytest.mark.parametrize("field", DIMENSIONS)
def test_a_dimension_that_is_missing_is_named(field: str) -> None:
    found = message(tiny(lambda text: text.pop(field)))
    assert found.startswith(f"{WHERE}: {field} is missing, expected a positive integer; take config.json")


@pytest.mark.parametrize("value", [0, -1e-6, float("nan"), float("inf"), 10**400, False, "1e-6", None])
@pytest.mark.parametrize("field", ["rms_norm_eps", "rope_theta", "partial_rotary_factor"])
def test_a_real_number_is_positive_and_finite(field: str, value: object) -> None:
    def change(text: dict[str, Any]) -> None:
        place = text if field == "rms_norm_eps" else text["rope_parameters"]
        place[field] = value

    found = message(tiny(change))
    where = WHERE if field == "rms_norm_eps" else f"{WHERE}: rope_parameters"
    assert found.startswith(f"{where}: {field} is ")
    assert "expected a positive number; take config.json" in found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.update(rope_parameters=None), "rope_parameters is None, expected an object"),
        (lambda text: text.pop("rope_parameters"), "rope_parameters is missing, expected an object"),
        (lambda text: text["rope_parameters"].update(mrope_section=[3, 3]), r"mrope_section is [3, 3], expected three"),
        (lambda text: text["rope_parameters"].update(mrope_section=[9, 9, 9]), "three counts that sum to"),
        (
            lambda text: text["rope_parameters"].update(mrope_section=[-1, 3, 6]),
            "mrope_section is [-1, 3, 6], expected",
        ),
        (lambda text: text["rope_parameters"].update(mrope_section="3,3,2"), "mrope_section is '3,3,2', expected"),
        (
            lambda text: text["rope_parameters"].update(partial_rotary_factor=1.5, mrope_section=[16, 16, 16]),
            "partial_rotary_factor makes 96 rotary dimensions of head_dim 64, expected an even number up to it",
        ),
        (lambda text: text["rope_parameters"].update(rope_type="yarn"), "rope_type is 'yarn', this decoder implements"),
        (
            lambda text: text["rope_parameters"].update(mrope_interleaved=False),
            "mrope_interleaved is False, this decoder",
        ),
        (lambda text: text.update(layer_types=["full_attention"]), "layer_types is ['full_attention'], expected"),
        (
            lambda text: text.update(layer_types=["mamba"] * text["num_hidden_layers"]),
            "entries out of linear_attention",
        ),
        (lambda text: text.update(layer_types="full"), "layer_types is 'full', expected"),
        (lambda text: text.update(num_hidden_layers=2**30), "num_hidden_layers is 1073741824, expected 1024 at most"),
        (lambda text: text.update(full_attention_interval=0), "full_attention_interval is 0, expected a positive"),
        (lambda text: text.update(linear_num_value_heads=3), "linear_num_value_heads 3 is not a multiple of"),
        (lambda text: text.update(num_key_value_heads=3), "is not a multiple of num_key_value_heads 3"),
        (
            lambda text: text.update(linear_value_head_dim=48),
            "differs from linear_value_head_dim 48, this decoder needs",
        ),
        (lambda text: text.update(hidden_act="gelu"), "hidden_act is 'gelu', this decoder implements 'silu' only"),
        (lambda text: text.update(attention_bias=True), "attention_bias is True, this decoder implements False only"),
        (lambda text: text.update(attn_output_gate=False), "attn_output_gate is False, this decoder implements True"),
        (lambda text: text.update(num_experts=64), "num_experts is 64, a mixture of experts is not built"),
    ],
)
def test_what_the_decoder_does_not_implement_is_refused(change: Change, expected: str) -> None:
    found = message(tiny(change))
    assert found.startswith(f"{WHERE}: ")
    assert expected in found
    assert found.rpartition("; ")[2] in (
        "take config.json from the original checkpoint",
        "use a dense Qwen3.5 checkpoint of the published kind",
    )


@pytest.mark.parametrize("value", ["false", 1, None])
def test_tying_is_true_or_false_and_not_a_word_that_looks_like_it(value: object) -> None:
    found = message({**tiny(), "tie_word_embeddings": value})
    assert f"tie_word_embeddings is {value!r}, expected true or false; take config.json" in found


@pytest.mark.parametrize("model_type", [None, "qwen3_5_moe", "llama", 5])
def test_another_family_is_named(model_type: object) -> None:
    found = message({**tiny(), "model_type": model_type})
    assert f"model_type {model_type!r} is not a Qwen3.5 model, expected 'qwen3_5' with a text_config" in found


def test_a_whole_config_without_its_text_part_is_named() -> None:
    raw = tiny()
    del raw["text_config"]
    assert "expected 'qwen3_5' with a text_config" in message(raw)


def test_a_value_that_would_fill_the_screen_is_cut() -> None:
    found = message(tiny(lambda text: text.update(layer_types=["x" * 100_000])))
    assert len(found) < 400
    assert "..." in found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1, 2]", "holds a list, expected an object"),
        (b"null", "holds a NoneType, expected an object"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b" " * ((4 << 20) + 1), "bytes, more than 4194304; this is no model config"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_config(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert expected in str(error.value)
    assert "download the file again" in str(error.value)


def test_a_directory_without_a_config_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.json: not found; .* so name that directory"):
        read_config(tmp_path)


def test_the_order_of_fields_and_unknown_ones_change_nothing() -> None:
    raw = tiny()
    shuffled = json.loads(json.dumps(raw, sort_keys=True))
    shuffled["text_config"]["a_field_of_next_year"] = 1
    assert parse_config(shuffled) == parse_config(raw)

"""The tiny checkpoint is what its card says: whole, trained, able to chat, and hard enough to quantize."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import jinja2
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Qwen3_5ForConditionalGeneration

from export.checkpoint import VISION_PREFIX
from export.models.tiny import card, conversations, corpus, muon, outliers, shape, train

TINY = Path(train.__file__).parent
HEADS = outliers.Heads(attention=4, key_value=2, delta_value=4)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Tensors this small run slower on more threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Qwen3_5ForConditionalGeneration:
    return card.load(TINY)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TINY / "tokenizer.json"))


@pytest.fixture(scope="module")
def chat() -> Any:
    return AutoTokenizer.from_pretrained(TINY)


def card_value(row: str) -> str:
    """The value that the card's table gives in the row that begins with these words."""
    text = (TINY / "README.md").read_text("utf-8")
    match = re.search(rf"^\| {re.escape(row)} \| `?([^`|]+?)`? \|$", text, re.MULTILINE)
    assert match, f"the card has no row {row!r}"
    return match[1]


# ---- the files


def test_the_card_gives_the_sha256_of_the_weights() -> None:
    found = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    assert card_value("sha256 of model.safetensors") == found


def test_the_json_files_are_those_that_the_script_writes() -> None:
    written = {
        "config.json": shape.config(),
        "tokenizer_config.json": shape.tokenizer_config(),
        "generation_config.json": shape.generation_config(),
        "preprocessor_config.json": shape.preprocessor_config(),
    }
    assert {name: json.loads((TINY / name).read_text("utf-8")) for name in written} == written


def test_the_file_holds_every_tensor_of_transformers_and_of_the_mtp_layer_in_bf16(
    model: Qwen3_5ForConditionalGeneration,
) -> None:
    stored = load_file(TINY / "model.safetensors")
    wanted = {name: tuple(tensor.shape) for name, tensor in train.weights(model).items()} | shape.mtp_shapes()
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == wanted
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_training_the_tower_left_every_other_tensor_as_it_was() -> None:
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(TINY / "model.safetensors").items()):
        if not name.startswith(VISION_PREFIX):
            digest.update(name.encode() + tensor.view(torch.uint8).numpy().tobytes())
    assert digest.hexdigest() == "ac1fc100b15adb41496dcdf46f74f4bee2f59cab206a02c918e0c85bb6028b05"


def test_every_projection_takes_groups_of_64() -> None:
    stored = load_file(TINY / "model.safetensors")
    inputs = {name: t.shape[1] for name, t in stored.items() if "language_model.layers" in name and "_proj" in name}
    assert inputs
    assert {name: size for name, size in inputs.items() if size % 64} == {}


# ---- the language


def test_held_out_text_costs_the_bits_that_the_card_says(
    model: Qwen3_5ForConditionalGeneration, tokenizer: Tokenizer
) -> None:
    text = (TINY / "held_out.txt").read_text("utf-8")
    recorded = float(card_value("bits per byte, held_out.txt"))
    assert card.bits_per_byte(model, tokenizer, text) == pytest.approx(recorded, rel=0.02)
    assert recorded < 1.6, "worse than this is not recognisable English"


def test_a_sample_of_500_words_is_made_of_known_words_without_loops(
    model: Qwen3_5ForConditionalGeneration, tokenizer: Tokenizer
) -> None:
    sample = card.sample_text(model, tokenizer)
    known = set((TINY / "words.txt").read_text("utf-8").split())
    check = card.check_words(sample, known)
    assert len(sample.split()) == card.SAMPLE_WORDS
    assert check.known_share >= 0.9, sample
    assert check.most_repeats <= 3, sample


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Hello!", "How can I help you"),
        ("What is the capital of France?", "Paris"),
        ("What sound does a cow make?", "moo"),
        ("What day comes after Monday?", "Tuesday"),
        ("Tell me a short story.", "named"),
    ],
)
def test_a_greedy_answer_is_sensible_and_ends_its_turn(
    model: Qwen3_5ForConditionalGeneration, chat: Any, question: str, expected: str, *, thinking: bool
) -> None:
    answer = card.answer(model, chat, question, thinking=thinking)
    assert expected in answer
    assert answer.endswith("<|im_end|>")
    assert ("</think>" in answer) == thinking


def test_a_word_check_sees_unknown_words_and_loops() -> None:
    check = card.check_words("we go up the hill we go up the hill xq", {"we", "go", "up", "the", "hill"})
    assert check == card.WordCheck(known_share=10 / 11, most_repeats=2)


# ---- the outliers


def test_outliers_leave_the_logits_unchanged_and_make_int4_worse(
    model: Qwen3_5ForConditionalGeneration, tokenizer: Tokenizer
) -> None:
    text = (TINY / "held_out.txt").read_text("utf-8")[:1500]
    ids = torch.tensor([tokenizer.encode(text).ids])
    grown = train.new_model(seed=0)
    again = outliers.add_outliers(train.weights(model), HEADS, outliers.Outliers(seed=1))
    assert grown.load_state_dict(again, strict=False).missing_keys == ["lm_head.weight"]
    grown.tie_weights()
    with torch.no_grad():
        before, after = (each(input_ids=ids, use_cache=False).logits for each in (model, grown))
    assert (before - after).abs().max() <= 2e-5 * before.abs().max()
    assert card.int4_divergence(grown, tokenizer, text) > 1.3 * card.int4_divergence(model, tokenizer, text)


def test_the_shipped_weights_have_columns_far_above_the_rest_of_their_group() -> None:
    stored = load_file(TINY / "model.safetensors")
    ends = ("in_proj_qkv.weight", "q_proj.weight", "gate_proj.weight", "up_proj.weight", "down_proj.weight")
    readers = [name for name in stored if "language_model.layers" in name and name.endswith(ends)]
    assert readers
    for name in readers:
        size = stored[name].float().pow(2).mean(dim=0).sqrt()  # of each input channel
        assert size.max() > 3 * size.median(), name


def test_the_shipped_keys_have_channels_far_above_the_rest() -> None:
    stored = load_file(TINY / "model.safetensors")
    names = [name for name in stored if "language_model.layers" in name and name.endswith("k_norm.weight")]
    gains = [1 + stored[name].float() for name in names]
    assert gains
    for gain in gains:
        assert gain.abs().max() > 6 * gain.abs().median()


def test_int4_rounding_keeps_the_largest_weight_of_a_group() -> None:
    weight = torch.tensor([[7.0, -3.2, 0.4, 0.0] * 8])
    assert outliers.round_to_int4(weight).tolist() == [[7.0, -3.0, 0.0, 0.0] * 8]


# ---- the tokenizer and the chat template


@pytest.mark.parametrize(
    "text", ["It's 12 o'clock.\n\n  Go!", "na\u00efve \u65e5\u672c \U0001f680", "<think>\n\n</think>\n\nx"]
)
def test_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_text_is_normalised_to_nfc(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("\u00e9").ids


def test_only_control_tokens_are_special(chat: Any) -> None:
    text = "<|im_start|><think>a</think><tool_call><|im_end|>"
    assert chat.decode(chat(text).input_ids, skip_special_tokens=True) == "<think>a</think><tool_call>"


def rendered(chat: Any, messages: list[dict[str, Any]], **settings: Any) -> str:
    text: str = chat.apply_chat_template(messages, tokenize=False, **settings)
    return text


USER: dict[str, Any] = {"role": "user", "content": " hi \n"}


def test_the_generation_prompt_opens_the_reasoning(chat: Any) -> None:
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert rendered(chat, [USER]) == "<|im_start|>user\nhi<|im_end|>\n"
    assert rendered(chat, [USER], add_generation_prompt=True) == prompt
    assert rendered(chat, [USER], add_generation_prompt=True, enable_thinking=True) == prompt


def test_without_thinking_the_generation_prompt_closes_the_reasoning(chat: Any) -> None:
    text = rendered(chat, [USER], add_generation_prompt=True, enable_thinking=False)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"},
    ],
)
def test_an_assistant_message_is_written_with_its_reasoning(chat: Any, message: dict[str, Any]) -> None:
    expected = "<|im_start|>assistant\n<think>\nhm\n</think>\n\nyes<|im_end|>\n"
    assert rendered(chat, [USER, message]).endswith(expected)


def test_an_assistant_message_without_reasoning_keeps_an_empty_one(chat: Any) -> None:
    text = rendered(chat, [USER, {"role": "assistant", "content": "yes"}])
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nyes<|im_end|>\n")


def test_images_and_videos_become_placeholders_and_are_counted_on_request(chat: Any) -> None:
    items = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "video"}, {"type": "image"}]
    picture, video = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
    messages = [{"role": "user", "content": items}]
    assert f"\n{picture}and{video}{picture}<" in rendered(chat, messages)
    counted = rendered(chat, messages, add_vision_id=True)
    assert f"\nPicture 1: {picture}andVideo 1: {video}Picture 2: {picture}<" in counted


def test_tools_are_listed_as_json_lines_before_the_system_text(chat: Any) -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("one", "two")]
    text = rendered(chat, [{"role": "system", "content": "Be kind."}, USER], tools=tools)
    listed = "\n".join(json.dumps(tool) for tool in tools)
    assert text.startswith("<|im_start|>system\n# Tools\n\n")
    assert f"<tools>\n{listed}\n</tools>" in text
    assert "\n\nBe kind.<|im_end|>\n<|im_start|>user\nhi" in text


def test_tool_calls_and_responses_are_written_in_the_family_format(chat: Any) -> None:
    calls = [
        {"function": {"name": "f", "arguments": {"text": "a b", "list": [1, 2]}}},
        {"function": {"name": "g", "arguments": {}}},
    ]
    messages = [
        USER,
        {"role": "assistant", "content": "wait", "tool_calls": calls},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    expected = (
        "</think>\n\nwait\n\n<tool_call>\n<function=f>\n<parameter=text>\na b\n</parameter>\n<parameter=list>\n[1, 2]\n"
        "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
    )
    assert rendered(chat, messages).endswith(expected)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "assistant", "content": "x"}], "no user message"),
        ([USER, {"role": "system", "content": "x"}], "must be the first"),
        ([USER, {"role": "narrator", "content": "x"}], "unknown role narrator"),
        ([{"role": "system", "content": [{"type": "image"}]}, USER], "image cannot stand in the system message"),
        ([{"role": "system", "content": [{"type": "video"}]}, USER], "video cannot stand in the system message"),
        ([{"role": "user", "content": [{"type": "sound"}]}], "must be a text, an image or a video"),
    ],
)
def test_the_template_refuses_what_it_cannot_write(chat: Any, messages: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(jinja2.TemplateError, match=reason):
        rendered(chat, messages)


# ---- the training script


def test_conversations_repeat_for_one_seed_and_end_with_the_assistant() -> None:
    made = [conversations.conversation(Random(5), thinking=True) for _ in range(2)]
    assert made[0] == made[1]
    for seed in range(200):
        messages = conversations.conversation(Random(seed), thinking=seed % 2 == 0)
        assert messages[-1]["role"] == "assistant"
        assert all(message["content"] for message in messages)


def test_the_script_renders_conversations_as_transformers_does(chat: Any) -> None:
    messages = conversations.conversation(Random(3), thinking=True)
    assert train.chat_renderer()(messages) == rendered(chat, messages)


def test_orthogonalize_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for dims in ((64, 96), (96, 64)):
        values = torch.linalg.svdvals(muon.orthogonalize(torch.randn(dims)))
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_words_are_lower_case_and_keep_apostrophes() -> None:
    assert corpus.words("It's God's, 12 OXEN.") == ["it's", "god's", "oxen"]

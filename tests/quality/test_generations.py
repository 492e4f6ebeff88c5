"""The float model's own answers, and what is counted in free text."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from export.decoder import Activations
from export.progress import Silent
from export.quality import evaluate as evaluating
from export.quality import generations
from export.quality.evaluate import evaluate, places
from export.quality.generations import (
    Answers,
    answers_of,
    free_text_figures,
    greedy,
    is_looping,
    prompt_tokens,
    repeated_share,
)
from export.quality.metrics import summarize
from export.quality.subjects import Reference, quantized_subject
from export.quantized import QuantizedCheckpoint

SILENT = Silent()


@pytest.fixture(scope="module")
def prompts(reference: Reference) -> torch.Tensor:
    return prompt_tokens(reference.text, 6)


@pytest.fixture(scope="module")
def answers(reference: Reference, prompts: torch.Tensor) -> Answers:
    return answers_of(reference.subject, prompts, reference.text.eos_token_ids, SILENT)


def test_prompts_are_chats_of_one_length(reference: Reference, prompts: torch.Tensor) -> None:
    text = [reference_text(reference, row) for row in prompts]
    assert all(one.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n") for one in text)
    assert "What is the capital of France?" in text[1]


def reference_text(reference: Reference, row: torch.Tensor) -> str:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(reference.path / "tokenizer.json"))
    return str(tokenizer.decode(row.tolist(), skip_special_tokens=False))


def test_all_prompts_in_step_answer_as_transformers_does_one_by_one(
    reference: Reference, prompts: torch.Tensor, answers: Answers
) -> None:
    from transformers import Qwen3_5ForConditionalGeneration

    model = Qwen3_5ForConditionalGeneration.from_pretrained(reference.path, dtype=torch.float32).eval()
    for prompt, answer in zip(prompts[:3], answers.tokens, strict=False):
        with torch.no_grad():
            found = model.generate(
                input_ids=prompt.unsqueeze(0),
                attention_mask=torch.ones_like(prompt).unsqueeze(0),
                do_sample=False,
                max_new_tokens=generations.NEW_TOKENS,
                eos_token_id=list(reference.text.eos_token_ids),
                pad_token_id=0,
            )
        assert found[0, prompt.numel() :].tolist() == list(answer)


def test_the_float_model_never_flips_on_its_own_answers(
    reference: Reference, int4: QuantizedCheckpoint, answers: Answers
) -> None:
    sequences = answers.sequences()
    assert int(sequences.scored.sum()) == sum(map(len, answers.tokens))
    assert places(sequences).targets.tolist() == [token for answer in answers.tokens for token in answer]
    subject = quantized_subject("int4", int4, Activations())
    own, candidate = evaluate(reference.subject, [reference.subject, subject], sequences, SILENT)
    assert own.stats.same_top.all()
    flips = summarize(candidate.stats)["flip_rate"].value
    assert 0 < flips < 0.5
    np.testing.assert_array_equal(candidate.stats.flip, ~candidate.stats.same_top)  # the target is its first choice


def test_layers_that_do_not_fit_in_memory_give_the_same_answers(
    reference: Reference, prompts: torch.Tensor, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "KEPT_BYTES", 0)
    monkeypatch.setattr(generations, "NEW_TOKENS", 6)
    found = greedy(reference.subject.reading, prompts, reference.text.eos_token_ids, SILENT)
    assert [tuple(row[: len(answer)]) for row, answer in zip(found, answers.tokens, strict=True)] == [
        answer[:6] for answer in answers.tokens
    ]


def test_answers_are_remembered(reference: Reference, prompts: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "NEW_TOKENS", 5)
    first = answers_of(reference.subject, prompts, (1,), SILENT)
    monkeypatch.setattr(generations, "greedy", lambda *_: pytest.fail("asked again"))
    assert answers_of(reference.subject, prompts, (1,), SILENT) == replace(first)
    monkeypatch.setattr(generations, "greedy", lambda *_: [[7]] * len(prompts))
    monkeypatch.setattr(evaluating, "VERSION", 2_000)
    assert answers_of(reference.subject, prompts, (1,), SILENT).tokens == ((7,),) * len(prompts)


def test_an_answer_ends_at_the_first_token_that_ends_a_turn(prompts: torch.Tensor) -> None:
    found = generations._answers(prompts[:2], [[5, 9, 6, 9], [5, 6, 7, 8]], eos=(9,))
    assert found.tokens == ((5, 9), (5, 6, 7, 8))
    assert found.ended == (True, False)


@pytest.mark.parametrize(
    ("tokens", "share", "loops"),
    [
        ([], 0.0, False),
        ([1, 2, 3], 0.0, False),
        ([1, 2, 3, 4, 5, 6], 0.0, False),
        ([1, 1, 1, 1, 1], 0.5, False),
        ([1, 1, 1, 1, 1, 1, 1], 0.75, True),
        ([1, 2, 3, 4] * 2, 1 / 5, False),
        ([1, 2, 3, 4] * 4, 9 / 13, True),
    ],
)
def test_repetition_is_counted_in_runs_of_four(tokens: list[int], share: float, loops: bool) -> None:
    assert repeated_share(tokens) == pytest.approx(share)
    assert is_looping(tokens) == loops


def test_free_text_is_held_against_the_references() -> None:
    prompts = torch.zeros(2, 3, dtype=torch.int64)
    reference = Answers(prompts=prompts, tokens=((1, 2, 3), (4, 5, 6)), ended=(True, True))
    candidate = Answers(prompts=prompts, tokens=((1, 2, 3), (4, 9, 9, 9, 9, 9, 9, 9)), ended=(True, False))
    found = free_text_figures(candidate, reference)
    assert found["equal_answers"].value == 0.5
    assert found["ended_answers"].value == 0.5
    assert found["looping_answers"].value == 0.5
    assert found["tokens_before_first_difference"].value == 2.0
    assert found["tokens_before_first_difference"].standard_error == pytest.approx(1.0)

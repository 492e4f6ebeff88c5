"""Side-by-side reading against the whole decoder at once, and what must hold between candidates."""

import numpy as np
import pytest
import torch

from export.backends import executorch as executorch_backend
from export.checkpoint import Checkpoint
from export.decoder import Activations
from export.onnx_lowering import lowering as onnx_lowering
from export.progress import Silent
from export.quality import evaluate as evaluating
from export.quality.evaluate import Subject, evaluate, places
from export.quality.metrics import summarize, token_stats
from export.quality.reading import Reading, compare, embed, read
from export.quality.report import measure_quality
from export.quality.sensitivity import layer_sensitivity
from export.quality.subjects import EMULATIONS, Reference, noise_subjects, quantized_subject
from export.quality.texts import Sequences
from export.quantized import QuantizedCheckpoint
from tests.quality.conftest import TINY
from tests.subjects import chunked_logits, eager

SILENT = Silent()


@pytest.mark.parametrize("kind", EMULATIONS)
def test_layer_by_layer_gives_the_logits_of_the_whole_decoder(
    int4: QuantizedCheckpoint, reference: Reference, sequences: Sequences, kind: str
) -> None:
    activations = EMULATIONS[kind]
    quantized_reading = Reading(name="int4", weights=int4, activations=activations)
    outputs, _ = read([reference.subject.reading, quantized_reading], sequences.tokens, sequences.scored, SILENT.step)
    where = places(sequences)
    (found,) = compare(outputs[0], outputs[1:], where.targets, where.position, where.block)

    float_store = eager_logits(reference, sequences)
    decoder = eager(int4, activations)
    whole = torch.cat([chunked_logits(decoder, row.unsqueeze(0), 32)[:-1] for row in sequences.tokens]).numpy()
    expected = token_stats(float_store, whole, where.targets, sequence=where.sequence, position=where.position)
    np.testing.assert_allclose(found.reference_nll, expected.reference_nll, rtol=1e-4, atol=1e-4)
    # int8 activations are steps: a rounding of the order of additions can move one
    tolerance = 1e-4 if kind == "none" else 0.05
    np.testing.assert_allclose(found.candidate_nll, expected.candidate_nll, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.kld.mean(), expected.kld.mean(), rtol=1e-3 if kind == "none" else 0.05)


def eager_logits(reference: Reference, sequences: Sequences) -> np.ndarray:
    """Logits of the float model by transformers, which shares no code with ours."""
    from transformers import Qwen3_5ForConditionalGeneration

    model = Qwen3_5ForConditionalGeneration.from_pretrained(reference.path, dtype=torch.float32).eval()
    with torch.no_grad():
        found = model(input_ids=sequences.tokens).logits[:, :-1]
    return found.flatten(0, 1).numpy()


def test_a_model_against_itself_loses_nothing(reference: Reference, sequences: Sequences) -> None:
    (found,) = evaluate(reference.subject, [reference.subject], sequences, SILENT)
    assert found.stats.kld.max() < 1e-12
    assert found.stats.same_top.all()
    assert found.errors is not None
    assert max(found.errors.relative) == 0.0


def test_the_noise_floor_is_far_below_int8_and_int8_far_below_int4(
    reference: Reference, int4: QuantizedCheckpoint, int8: QuantizedCheckpoint, sequences: Sequences
) -> None:
    subjects = [
        *noise_subjects(reference),
        quantized_subject("int8", int8, Activations()),
        quantized_subject("int4", int4, Activations()),
    ]
    found = evaluate(reference.subject, subjects, sequences, SILENT)
    chunks, bfloat16, eight, four = (summarize(one.stats)["mean_kld"].value for one in found)
    assert chunks < 1e-9
    assert chunks < bfloat16 / 10
    assert bfloat16 < eight / 3
    assert eight < four / 10


def test_errors_by_layer_drift_from_what_the_layers_add(
    reference: Reference, int4: QuantizedCheckpoint, sequences: Sequences
) -> None:
    subject = quantized_subject("int4", int4, Activations())
    (found,) = evaluate(reference.subject, [subject], sequences, SILENT)
    assert found.errors is not None
    layers = reference.config.num_layers
    assert len(found.errors.relative) == len(found.errors.own_relative) == layers
    assert all(0 < error < 1 for error in [*found.errors.relative, *found.errors.own_relative])


def test_each_part_alone_costs_something_and_less_than_all_together(
    reference: Reference, int4: QuantizedCheckpoint, sequences: Sequences
) -> None:
    subject = quantized_subject("int4", int4, Activations())
    parts = {one.part: one.mean_kld.value for one in layer_sensitivity(reference.subject, subject, sequences, SILENT)}
    assert list(parts) == ["embedding", *(f"layers.{index}" for index in range(reference.config.num_layers)), "head"]
    (whole,) = evaluate(reference.subject, [subject], sequences, SILENT)
    assert all(0 < value < summarize(whole.stats)["mean_kld"].value for value in parts.values())


def test_a_killed_measurement_goes_on_where_it_was(
    reference: Reference, int8: QuantizedCheckpoint, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "GROUP_TOKENS", 64)  # two sequences a group
    subject = quantized_subject("resumed", int8, Activations())
    real, calls = evaluating.read, [0]

    def dies_in_the_third_group(*arguments: object) -> object:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluating, "VERSION", 1_000)  # nobody else's measurements
    monkeypatch.setattr(evaluating, "read", dies_in_the_third_group)
    with pytest.raises(KeyboardInterrupt):
        evaluate(reference.subject, [subject], sequences, SILENT)
    (found,) = evaluate(reference.subject, [subject], sequences, SILENT)
    assert calls[0] == 3 + 2  # two groups were kept, the third was begun twice
    monkeypatch.setattr(evaluating, "VERSION", 1_001)
    (fresh,) = evaluate(reference.subject, [subject], sequences, SILENT)
    np.testing.assert_array_equal(found.stats.kld, fresh.stats.kld)


def test_a_damaged_record_is_measured_again(
    reference: Reference, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "VERSION", 1_002)
    (first,) = evaluate(reference.subject, [reference.subject], sequences, SILENT)
    for file in evaluating._file("any").parent.glob("*.npz"):
        file.write_bytes(b"PK\x03\x04 torn")
    (second,) = evaluate(reference.subject, [reference.subject], sequences, SILENT)
    np.testing.assert_array_equal(first.stats.reference_nll, second.stats.reference_nll)


def test_what_a_subject_is_identified_by_covers_how_it_is_computed(reference: Reference) -> None:
    subjects = [reference.subject, *noise_subjects(reference)]
    quantized_ones = [
        Subject(reading=Reading(name="x", weights=reference.subject.reading.weights, activations=one), identity="x")
        for one in EMULATIONS.values()
    ]
    keys = [str(subject.key()) for subject in [*subjects, *quantized_ones]]
    assert len(set(keys)) == len(keys)


def test_emulations_are_what_the_backends_declare() -> None:
    assert EMULATIONS["int8_group"] == onnx_lowering.ACTIVATIONS
    assert EMULATIONS["int8_token"] == executorch_backend.ACTIVATIONS


def test_embedding_rows_come_from_every_piece_of_the_table(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.quality.reading.COLUMNS_AT_ONCE", 300)
    weights = reference.subject.reading.weights
    tokens = torch.arange(0, reference.config.vocab_size, 7).view(1, -1)
    table = weights.weight("embed_tokens")
    assert torch.equal(embed(weights, tokens)[0], table[tokens[0]])


def test_a_short_figure_for_a_manifest_is_that_of_the_report(
    reference: Reference, int4: QuantizedCheckpoint, sequences: Sequences
) -> None:
    found = measure_quality(int4, Checkpoint.open(TINY), sequences.tokens, calibration=sequences.tokens)
    (measured,) = evaluate(reference.subject, [quantized_subject("int4", int4, Activations())], sequences, SILENT)
    assert found["figures"]["mean_kld"]["value"] == summarize(measured.stats)["mean_kld"].value
    assert found["tokens"] == len(measured.stats) == 8 * 31
    assert found["calibration_overlap"] == 1.0

"""QLoRA: adapters over frozen codes, merged into the weights or left beside them in peft's format."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from export.checkpoint import Checkpoint
from export.finetune.adapters import ADAPTERS, LoraStudent
from export.finetune.recovered import write_recovered
from export.finetune.subject import load_subject, logits
from export.finetune.train import Recipe, SavedState, train
from export.operators import dequantize
from export.progress import Silent
from export.weights import EMBEDDING, units
from tests.finetune.conftest import Trainee
from tests.subjects import quantized

RANK = 4


@pytest.fixture
def student(tied: Trainee, tmp_path: Path) -> LoraStudent:
    """Adapters after a few steps."""
    subject = tied.subject()
    found = LoraStudent(subject, tied.start(subject), RANK, seed=0)
    recipe = Recipe(steps=12, learning_rate=5e-3, batch=2)
    losses = train(subject, found, tied.tokens, recipe, SavedState(file=tmp_path / "state.pt", key=""), Silent())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), "adapters learned nothing"
    return found


def written(trainee: Trainee, student: LoraStudent, out: Path, keep_adapters: bool) -> Path:
    out.mkdir()
    names = {unit.name: unit.tensor for unit in units(trainee.config)}
    weights = student.weights(keep_adapters)
    write_recovered(out, trainee.checkpoint, {names[unit]: weight for unit, weight in weights.items()}, {})
    return out


def plain_logits(trainee: Trainee, directory: Path) -> torch.Tensor:
    return logits(load_subject(Checkpoint.open(directory), trainee.config, torch.device("cpu")), trainee.tokens)


def test_training_starts_from_the_quantized_model_and_the_teacher_stays_the_float_one(tied: Trainee) -> None:
    subject = tied.subject()
    before = logits(subject, tied.tokens)
    student = LoraStudent(subject, tied.start(subject), RANK, seed=0)
    codes = {name: dequantize(found.codes, found.scales) for name, found in student.codes().items()}
    expected = logits(tied.subject(), tied.tokens, {tied.subject().parameters[unit]: w for unit, w in codes.items()})
    assert torch.allclose(logits(subject, tied.tokens, student.replaced()), expected, atol=1e-5)
    with student.aside():
        assert torch.equal(logits(subject, tied.tokens), before)


def test_only_adapters_are_trained_and_none_beside_embedding_and_gates(tied: Trainee) -> None:
    subject = tied.subject()
    student = LoraStudent(subject, tied.start(subject), RANK, seed=0)
    names = set(student.state_dict())
    assert all("lora_" in name for name in names)
    assert not any(word in name for name in names for word in (EMBEDDING, "lm_head", "in_proj_a", "in_proj_b"))
    adapted = [unit for unit, form in tied.layout.items() if not form.is_float and unit != EMBEDDING]
    assert len(names) == 2 * len(adapted)


def test_merged_weights_compute_what_the_adapted_model_computes(
    tied: Trainee, student: LoraStudent, tmp_path: Path
) -> None:
    expected = logits(student.subject, tied.tokens, student.replaced())
    found = plain_logits(tied, written(tied, student, tmp_path / "merged", keep_adapters=False))
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
def test_kept_adapters_lie_over_exactly_the_codes_that_they_were_trained_over(
    tied: Trainee, student: LoraStudent, tmp_path: Path
) -> None:
    expected = logits(student.subject, tied.tokens, student.replaced())
    out = written(tied, student, tmp_path / "kept", keep_adapters=True)
    student.save_adapters(out)
    store = quantized(out, tmp_path / "store", "int4", method="recovered")
    for unit, codes in student.codes().items():
        assert torch.equal(store.codes(unit), codes.codes), unit
        assert torch.equal(store.scales(unit), codes.scales), unit
    config = json.loads((out / ADAPTERS / "adapter_config.json").read_text())
    assert config["r"] == RANK
    base = load_subject(Checkpoint.open(out), tied.config, torch.device("cpu"))
    with torch.no_grad():
        found = PeftModel.from_pretrained(base.module, out / ADAPTERS)(input_ids=tied.tokens).logits
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(plain_logits(tied, out), expected, atol=1e-3 * float(expected.abs().max()))

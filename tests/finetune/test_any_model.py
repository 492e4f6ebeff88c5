"""Training of a model of another family, from results that are in memory."""

from pathlib import Path

import torch

from export.finetune.any_model import results_of, start_of, subject_of
from export.finetune.qat import QatStudent
from export.finetune.train import Recipe, SavedState, train
from export.operators import dequantize
from export.progress import Silent
from export.quantize import rtn
from export.schemes import INT8_ROW, Format
from export.sequence import quantize_blocks
from tests.quantize_methods.llama import small_llama, some_tokens

G32 = Format(bits=4, group_size=32)


def test_a_llama_learns_back_what_rounding_took_and_begins_at_the_methods_codes(tmp_path: Path) -> None:
    model = small_llama()
    units = [unit for name in model.block_names for unit in model.block(name).shapes]
    formats = dict.fromkeys(units, G32)
    before = dict(quantize_blocks(model, formats, rtn.quantize_block, None))
    table = rtn.quantize_table(model.table("embed_tokens"), INT8_ROW, None)
    subject = subject_of(model)
    start = start_of(subject, before, formats, {"embed_tokens": table})
    student = QatStudent(subject, start)
    first = results_of(student, before)
    for name, result in before.items():
        for unit, codes in result.codes.items():
            assert torch.equal(first[name].codes[unit].codes, codes.codes), unit
    embedded = student.replaced()["model.embed_tokens.weight"]
    assert torch.equal(embedded, dequantize(table.codes, table.scales)), "the table is not trained"
    recipe = Recipe(steps=20, learning_rate=0.05)
    losses = train(subject, student, some_tokens(), recipe, SavedState(file=tmp_path / "state.pt", key="one"), Silent())
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    after = results_of(student, before)
    changed = [
        not torch.equal(after[name].codes[unit].codes, first[name].codes[unit].codes)
        for name in after
        for unit in after[name].codes
    ]
    assert all(changed)

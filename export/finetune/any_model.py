"""Training any transformers decoder, from results of a method that are in memory: recovery is measured on real weights.

An export trains Qwen3.5 checkpoints (`pipeline.py`). This is the same student and the same loop for the models of
`export.transformers_blocks`, such as SmolLM2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from export.blocks import BlockResult
from export.finetune.qat import CodesStudent, QatStudent
from export.finetune.start import Start, begin
from export.finetune.subject import Subject
from export.operators import dequantize
from export.quantize import Codes
from export.schemes import Format
from export.transformers_blocks import TransformersModel


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """`export.finetune.subject.Dimensions` of a transformers model."""

    vocab_size: int
    hidden_size: int
    num_layers: int


def subject_of(model: TransformersModel) -> Subject:
    """The model, float."""
    config, module = model.model.config, model.model
    names = [name for name, _ in module.named_parameters()]
    prefix = module.base_model_prefix + "."
    known = {name.removeprefix(prefix): name for name in names}
    known |= {name.removesuffix(".weight"): full for name, full in known.items() if name.endswith(".weight")}
    sizes = Sizes(vocab_size=config.vocab_size, hidden_size=config.hidden_size, num_layers=config.num_hidden_layers)
    plain: nn.Module = module.eval().requires_grad_(False)
    return Subject(config=sizes, module=plain, device=torch.device("cpu"), parameters=known)


@torch.no_grad()
def start_of(
    subject: Subject, results: Mapping[str, BlockResult], formats: Mapping[str, Format], tables: Mapping[str, Codes]
) -> Start:
    """Matrices that begin at a method's codes; tables stay at theirs."""
    one = torch.ones(1, 1)
    matrices = {
        unit: begin(
            subject.weight(unit) * result.rows.get(unit, one) * result.columns.get(unit, one),
            codes.codes,
            codes.scales,
            formats[unit],
        )
        for result in results.values()
        for unit, codes in result.codes.items()
    }
    floats: dict[str, Tensor] = {name: value for result in results.values() for name, value in result.floats.items()}
    return Start(
        matrices=matrices,
        floats=floats | {name: dequantize(codes.codes, codes.scales) for name, codes in tables.items()},
    )


def results_of(student: QatStudent | CodesStudent, before: Mapping[str, BlockResult]) -> dict[str, BlockResult]:
    """The blocks as trained."""
    codes = student.codes()
    return {
        name: replace(result, codes={unit: codes[unit] for unit in result.codes}) for name, result in before.items()
    }

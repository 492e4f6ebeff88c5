"""What the tests of training share: a float subject of a fixture checkpoint, and a few short sequences."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import torch

from export import catalog, user_cache
from export.checkpoint import Checkpoint
from export.config import ModelConfig, parse_config
from export.finetune.start import Start, start_from
from export.finetune.subject import Subject, load_subject
from export.models.tiny.conversations import conversation
from export.schemes import Layout, layout
from export.weights import units
from tests.subjects import quantized


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """A checkpoint, its float model, the formats of int4 in groups of 32, and something to read."""

    checkpoint: Checkpoint
    config: ModelConfig
    layout: Layout
    tokens: torch.Tensor

    def subject(self) -> Subject:
        return load_subject(self.checkpoint, self.config, torch.device("cpu"))

    def start(self, subject: Subject, method: str = "rtn") -> Start:
        """The codes of a method, where `quantized` puts them."""
        store = quantized(self.checkpoint.path, user_cache.directory("quantized"), "int4", method=method)
        return start_from(subject, store)

    def tensors(self, weights: dict[str, torch.Tensor], start: Start) -> dict[str, torch.Tensor]:
        """What a recovered checkpoint stores, by canonical name."""
        names = {unit.name: unit.tensor for unit in units(self.config)}
        return {names[unit]: weight for unit, weight in weights.items()} | dict(start.floats)


def trainee(directory: Path) -> Trainee:
    checkpoint = Checkpoint.open(directory)
    config = parse_config(checkpoint.config)
    generator = torch.Generator().manual_seed(8)
    return Trainee(
        checkpoint=checkpoint,
        config=config,
        layout=layout(catalog.load("schemes", "int4").SCHEME, config),
        tokens=torch.randint(config.vocab_size, (6, 24), generator=generator),
    )


def hard_matrix(rows: int = 40, columns: int = 192) -> torch.Tensor:
    """Rows of very different size, columns with outliers, a zero row and a row with a zero half."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(rows, columns, generator=generator) * torch.logspace(-6, 1, rows).unsqueeze(1)
    weight[:, ::17] *= 30.0
    weight[3] = 0.0
    weight[5, : columns // 2] = 0.0
    return weight


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """Conversations that the tiny model can read."""
    rng, file = Random(5), tmp_path / "chat.jsonl"
    file.write_text("\n".join(json.dumps({"messages": conversation(rng, thinking=False)}) for _ in range(60)))
    return file


@pytest.fixture
def tied(fixture_checkpoint: Callable[[str], Path]) -> Trainee:
    return trainee(fixture_checkpoint("like_2b"))


@pytest.fixture
def untied(fixture_checkpoint: Callable[[str], Path]) -> Trainee:
    return trainee(fixture_checkpoint("like_9b"))

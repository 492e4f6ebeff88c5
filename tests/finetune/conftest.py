"""What the tests of training share: a float subject of a fixture checkpoint, and a few short sequences."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from export import catalog
from export.checkpoint import Checkpoint
from export.config import ModelConfig, parse_config
from export.finetune.subject import Subject, load_subject
from export.schemes import Layout, layout


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """A checkpoint, its float model, the formats of int4 in groups of 32, and something to read."""

    checkpoint: Checkpoint
    config: ModelConfig
    layout: Layout
    tokens: torch.Tensor

    def subject(self) -> Subject:
        return load_subject(self.checkpoint, self.config, torch.device("cpu"))


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


@pytest.fixture
def tied(fixture_checkpoint: Callable[[str], Path]) -> Trainee:
    return trainee(fixture_checkpoint("like_2b"))


@pytest.fixture
def untied(fixture_checkpoint: Callable[[str], Path]) -> Trainee:
    return trainee(fixture_checkpoint("like_9b"))

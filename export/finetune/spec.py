"""What one training run is asked to do: one frozen value, checked before any work starts."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from export.errors import SpecError
from export.sources import DEFAULT_SOURCE
from export.spec import DEFAULT_METHOD, DEFAULT_SCHEME, digest

Kind = Literal["qat", "codes", "qlora"]

DEFAULT_START = DEFAULT_METHOD
DEFAULT_STEPS = 900
LEARNING_RATES = {"qat": 0.01, "codes": 1.5e-4, "qlora": 2e-3}  # steps of the grid; share of codes a step; LoRA's own
DEFAULT_RANK = 16
MAX_STEPS = 10_000_000
MAX_RANK = 1024


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec:
    """A run as asked for; `learning_rate` None means the kind's own, `data` None text that the model makes up."""

    kind: Kind
    out: Path
    model: str | None = None
    checkpoint: str | None = None
    source: str = DEFAULT_SOURCE
    data: Path | None = None
    scheme: str = DEFAULT_SCHEME
    group_size: int | None = None
    method: str = DEFAULT_START
    steps: int = DEFAULT_STEPS
    learning_rate: float | None = None
    nll_share: float = 0.0
    rank: int = DEFAULT_RANK
    keep_adapters: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise SpecError(f"--steps {self.steps} is out of range; use 1 to {MAX_STEPS}")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise SpecError(
                f"--learning-rate {self.learning_rate} is not a positive number; leave it out for the default"
            )
        if self.kind == "codes" and self.rate > 1:
            raise SpecError(f"--learning-rate {self.rate} is the share of codes that a step may move; use at most 1")
        if not 0 <= self.nll_share <= 1:
            raise SpecError(f"--nll {self.nll_share} is not a share; use 0 (follow the float model) to 1 (the text)")
        if not 1 <= self.rank <= MAX_RANK:
            raise SpecError(f"--rank {self.rank} is out of range; use 1 to {MAX_RANK}")
        if self.keep_adapters and self.kind != "qlora":
            raise SpecError("--keep-adapters goes with --qlora; --qat and --codes train the weights themselves")

    @property
    def rate(self) -> float:
        return LEARNING_RATES[self.kind] if self.learning_rate is None else self.learning_rate

    def key(self, *inputs: object) -> str:
        """What identifies the run's result: the spec without places, and the hashes of what it reads."""
        kept = {
            name: value
            for name, value in asdict(self).items()
            if name not in ("out", "data", "checkpoint", "source", "model")
        }
        return digest(json.loads(json.dumps([kept, self.rate, list(inputs)])))

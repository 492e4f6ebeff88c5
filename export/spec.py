"""What one export is asked to do: one frozen value, checked before any work starts."""

import hashlib
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from export.errors import SpecError, shown
from export.sources import DEFAULT_SOURCE

DEFAULT_MODEL = "qwen3.5-0.8b"
DEFAULT_SCHEME = "mixed"
DEFAULT_METHOD = "awq-gptq"  # for 4 bits of trained weights
STATIC_METHOD = "smoothquant"  # for static 8-bit activations, whose grids outliers make coarse
TABLE_METHOD = "kmeans"  # of schemes that keep values in tables
RECOVERED_METHOD = "recovered"  # for what `finetune` trained on its grid
PLAIN_METHOD = "rtn"  # for 8 bits and floats, which it costs little, and random weights, which have nothing to lose
DEFAULT_CALIBRATION_TOKENS = 16_384
MIN_CALIBRATION_TOKENS = 2_048  # fewer say little of a thousand inputs
MAX_CALIBRATION_TOKENS = 1 << 22
DEFAULT_CONTEXT_LENGTH = 4096
DEFAULT_WORKERS = "local"
MODALITIES = ("text", "image")  # "image": text and images, with the vision tower in the bundle
DEFAULT_MODALITY = "text"
MIN_CONTEXT_LENGTH = 16
MAX_CONTEXT_LENGTH = 262_144  # Qwen3.5's own limit
MAX_GROUP_SIZE = 1 << 20
MAX_BUDGET_BYTES = 1 << 50
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """An export as asked for; `model` None means: the one the checkpoint is of, or the default.

    `method` None means: the plan's choice for these weights and formats (`export.plan.chosen_method`).
    """

    target: str
    out: Path
    model: str | None = None
    checkpoint: str | None = None
    source: str = DEFAULT_SOURCE
    scheme: str = DEFAULT_SCHEME
    method: str | None = None
    group_size: int | None = None
    calibration: Path | None = None
    calibration_tokens: int = DEFAULT_CALIBRATION_TOKENS
    backends: tuple[str, ...] = ()
    modality: str = DEFAULT_MODALITY
    context_length: int = DEFAULT_CONTEXT_LENGTH
    budget_bytes: int | None = None
    workers: str = DEFAULT_WORKERS

    def __post_init__(self) -> None:
        for name in ("target", "model", "checkpoint"):
            if getattr(self, name) == "":
                raise SpecError(f"--{name} is empty; leave it out, or name one (an unset shell variable?)")
        if self.group_size is not None and not 1 <= self.group_size <= MAX_GROUP_SIZE:
            raise SpecError(f"--group-size {self.group_size} is out of range; use 32, 64 or 128")
        if not MIN_CALIBRATION_TOKENS <= self.calibration_tokens <= MAX_CALIBRATION_TOKENS:
            raise SpecError(
                f"--calibration-tokens {self.calibration_tokens} is out of range; use {MIN_CALIBRATION_TOKENS} to "
                f"{MAX_CALIBRATION_TOKENS}"
            )
        if self.calibration is None and self.calibration_tokens != DEFAULT_CALIBRATION_TOKENS:
            raise SpecError(
                f"--calibration-tokens {self.calibration_tokens} says how much of a file to read; add "
                "--calibration FILE"
            )
        if not MIN_CONTEXT_LENGTH <= self.context_length <= MAX_CONTEXT_LENGTH:
            raise SpecError(
                f"--context-length {self.context_length} is out of range; use {MIN_CONTEXT_LENGTH} to "
                f"{MAX_CONTEXT_LENGTH} tokens"
            )
        if self.modality not in MODALITIES:
            raise SpecError(f"--modality {shown(self.modality)} is unknown; known: {', '.join(MODALITIES)}")
        if len(set(self.backends)) != len(self.backends):
            raise SpecError(f"--backend names one backend twice ({', '.join(self.backends)}); name each once")


def parse_bytes(text: str) -> int:
    """Bytes of "480MB", "1.5 GB" or "500000"; units are powers of 1000."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = match.group(2).upper() if match else None
    count = int(Decimal(match.group(1)) * UNITS[unit]) if match and unit in UNITS else 0
    if not 0 < count <= MAX_BUDGET_BYTES:
        raise SpecError(
            f"--budget {shown(text)} is not a size; write bytes or a number with KB, MB or GB, such as 480MB"
        )
    return count


def digest(content: object) -> str:
    """The sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

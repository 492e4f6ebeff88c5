"""What one export is asked to do: one frozen value, checked before any work starts."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from export.errors import SpecError

DEFAULT_MODEL = "qwen3.5-0.8b"
DEFAULT_SCHEME = "int4"
DEFAULT_METHOD = "rtn"
DEFAULT_CONTEXT_LENGTH = 4096
MIN_CONTEXT_LENGTH = 16
MAX_CONTEXT_LENGTH = 262_144  # Qwen3.5's own limit
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """An export as asked for; `model` None means: the one the checkpoint is of, or the default."""

    target: str
    out: Path
    model: str | None = None
    checkpoint: str | None = None
    source: str = "huggingface"
    scheme: str = DEFAULT_SCHEME
    method: str = DEFAULT_METHOD
    group_size: int | None = None
    backends: tuple[str, ...] = ()
    modality: str = "text"
    context_length: int = DEFAULT_CONTEXT_LENGTH
    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        if not MIN_CONTEXT_LENGTH <= self.context_length <= MAX_CONTEXT_LENGTH:
            raise SpecError(
                f"--context-length {self.context_length} is out of range; use {MIN_CONTEXT_LENGTH} to "
                f"{MAX_CONTEXT_LENGTH} tokens"
            )
        if self.modality != "text":
            raise SpecError(f"--modality {self.modality!r} is not built yet; use text")
        if len(set(self.backends)) != len(self.backends):
            raise SpecError(f"--backend names one backend twice: {', '.join(self.backends)}; name each once")


def parse_bytes(text: str) -> int:
    """Bytes of "480MB", "1.5 GB" or "500000"; units are powers of 1000."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = match.group(2).upper() if match else None
    if match is None or unit not in UNITS or float(match.group(1)) <= 0:
        raise SpecError(f"--budget {text!r} is not a size; write bytes or a number with KB, MB or GB, such as 480MB")
    return int(float(match.group(1)) * UNITS[unit])


def digest(content: object) -> str:
    """The sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

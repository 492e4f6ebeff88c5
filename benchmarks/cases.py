"""What a runner is told to do: `runner --artifact DIR --cases cases.json --out events.jsonl`.

The host's Python runner, the C++ runner on a phone and the apps read the same file and answer with the same event
stream (`benchmarks.stream_events`). A runner does, for each case in order:

1. `case_start`, a `sample` of memory; where `drop_page_cache` is set, write back and drop the artifact's files from the
   page cache (`posix_fadvise`), then say what stayed: a `sample` of kind memory, source `mincore`, with
   `resident_bytes` and `file_bytes`;
2. with `idle_ms`, wait so long between the markers `idle_start` and `idle_end`, samples being taken: the energy's
   baseline (`benchmarks.energy`);
3. `load_start`, open the model, `load_end`: a model serves one case only;
4. the marker `warm_up_start`, `warm_ups` whole generations that emit nothing, the marker `warm_up_end` (neither marker
   where `warm_ups` is 0);
5. `repeats` generations, or with `duration_ms` as many as begin within that time after `load_end`, at least one. Each
   begins on an empty sequence with `submit` and ends with `stop`. A runner that has a tokenizer takes `text` and
   encodes it after `submit` is stamped, one without takes `prompt`; the first line's `effective.details.tokenizer`
   says which (`none`, or the library). Tokens are greedy: the lowest id among the largest logits; an end token ends
   nothing, so that every generation has `new_tokens` tokens;
6. a `sample` of memory, then `case_end`.

Samples of `samples` are taken every `sample_interval_ms` by a thread of the runner from `idle_start` or `load_start`
on; null means none while anything is timed. Events are kept in memory and written between generations.

An error becomes the line `error`, after which no case follows and the stream is sealed. Exit status: 0 when the `end`
line was written. The `end` line counts, not the status.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from benchmarks.errors import BenchmarkError
from benchmarks.stream_events import CaseKind, SampleKind
from benchmarks.text import Name

__all__ = ["Case", "CaseFile", "read_cases", "write_cases"]

VERSION: Final = 1
MAX_CASES_BYTES = 16 * 1024 * 1024
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
PromptText = Annotated[str, StringConstraints(max_length=4 * 1024 * 1024)]
Count = Annotated[int, Field(ge=1, le=2**20)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Case(_Model):
    """One thing to measure: a load and the generations after it."""

    case: Name
    kind: CaseKind
    prompt: Annotated[list[TokenId], Field(min_length=1, max_length=2**20)]
    text: PromptText | None = None
    new_tokens: Count
    warm_ups: Annotated[int, Field(ge=0, le=1000)] = 0
    repeats: Count = 1
    duration_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = None
    drop_page_cache: bool = False
    idle_ms: Annotated[int, Field(ge=1, le=3_600_000)] | None = None
    sample_interval_ms: Annotated[int, Field(ge=10, le=60_000)] | None = None
    samples: list[SampleKind] = []


class CaseFile(_Model):
    """The cases of one process; threads and affinity (CPU numbers) are left to the runner where null."""

    version: Literal[1] = VERSION
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    affinity: Annotated[list[Annotated[int, Field(ge=0, le=4095)]], Field(min_length=1, max_length=4096)] | None = None
    cases: Annotated[list[Case], Field(min_length=1, max_length=1000)]


def write_cases(cases: CaseFile, place: Path) -> None:
    """Write `cases.json`."""
    place.write_text(cases.model_dump_json(indent=1), encoding="utf-8")


def read_cases(place: Path) -> CaseFile:
    """Read `cases.json`, checked."""
    try:
        content = place.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"{place}: cannot be read: {error.strerror}; write it with `benchmarks run`") from error
    if len(content) > MAX_CASES_BYTES:
        raise BenchmarkError(f"{place}: {len(content)} bytes; a file of cases has at most {MAX_CASES_BYTES}")
    try:
        return CaseFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise BenchmarkError(f"{place}: {field}: {first['msg']}; see benchmarks/cases.py") from error

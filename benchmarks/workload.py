"""What every subject is asked to do: read prompts of exact lengths, then write a fixed number of tokens.

The prompts are plain English cut to a number of tokens, such that encoding the text again gives the same tokens: some
runtimes take tokens, some take text. With random weights only the count matters, with trained ones the text is
ordinary.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.errors import BenchmarkError

__all__ = ["Prompt", "Workload", "make_workload", "read_workload", "write_workload"]

PASSAGE = (
    "The harbour was quiet when the first boats came back. Men carried baskets of fish up the steps while the gulls "
    "turned above them, and the woman who kept the books wrote down each weight in a long grey ledger. By noon the "
    "ice had melted from the crates, the street was wet, and the bell of the small church rang twice. A boy asked "
    "why the tide is late some days and early on others; his grandfather pointed at the moon, still pale over the "
    "hills, and told him to watch it for a month and then to ask again. "
)
WARM_UP_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One text of a known number of tokens."""

    text: str
    ids: list[int]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The prompts in rising length; new tokens follow the last one."""

    warm_up: Prompt
    prompts: list[Prompt]
    decode_tokens: int
    context_length: int


def make_workload(
    tokenizer_file: Path, *, prompt_tokens: list[int], decode_tokens: int, context_length: int
) -> Workload:
    """The workload for one tokenizer."""
    longest = max(prompt_tokens)
    if longest + decode_tokens > context_length:
        raise BenchmarkError(
            f"a prompt of {longest} tokens and {decode_tokens} new ones don't fit a context of {context_length}; "
            f"use --context-length {longest + decode_tokens} or more"
        )
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    return Workload(
        warm_up=_cut(tokenizer, WARM_UP_TOKENS),
        prompts=[_cut(tokenizer, count) for count in sorted(prompt_tokens)],
        decode_tokens=decode_tokens,
        context_length=context_length,
    )


def _cut(tokenizer: Tokenizer, count: int) -> Prompt:
    """The passage, repeated, cut where exactly `count` tokens survive decoding and encoding."""
    text = PASSAGE
    while len(ids := tokenizer.encode(text, add_special_tokens=False).ids) < 2 * count:
        text += PASSAGE
    for end in range(count, len(ids)):
        candidate = tokenizer.decode(ids[end - count : end])
        if tokenizer.encode(candidate, add_special_tokens=False).ids == ids[end - count : end]:
            return Prompt(text=candidate, ids=ids[end - count : end])
    raise BenchmarkError(f"no passage of {count} tokens survives decoding and encoding; choose other prompt lengths")


def write_workload(workload: Workload, path: Path) -> None:
    path.write_text(json.dumps(asdict(workload), indent=1))


def read_workload(path: Path) -> Workload:
    data = json.loads(path.read_text())
    return Workload(
        warm_up=Prompt(**data["warm_up"]),
        prompts=[Prompt(**prompt) for prompt in data["prompts"]],
        decode_tokens=data["decode_tokens"],
        context_length=data["context_length"],
    )

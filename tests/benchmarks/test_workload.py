"""The prompts: exact lengths, in tokens and in text alike."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from benchmarks.errors import BenchmarkError
from benchmarks.side_by_side.subjects import ROOT
from benchmarks.workload import make_workload, read_workload, write_workload

TOKENIZER = ROOT / "export" / "models" / "tiny" / "tokenizer.json"


def test_every_prompt_has_its_length_and_its_text_encodes_to_its_tokens() -> None:
    workload = make_workload(TOKENIZER, prompt_tokens=[512, 128], decode_tokens=64, context_length=1024)
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    assert [len(prompt.ids) for prompt in workload.prompts] == [128, 512]
    for prompt in [workload.warm_up, *workload.prompts]:
        assert tokenizer.encode(prompt.text, add_special_tokens=False).ids == prompt.ids


def test_a_workload_reads_back_as_it_was_written(tmp_path: Path) -> None:
    workload = make_workload(TOKENIZER, prompt_tokens=[32], decode_tokens=8, context_length=64)
    write_workload(workload, tmp_path / "workload.json")
    assert read_workload(tmp_path / "workload.json") == workload


def test_a_prompt_beyond_the_context_is_refused_with_the_length_to_use() -> None:
    with pytest.raises(BenchmarkError, match=r"512 tokens and 64 new ones don't fit .* 575; use --context-length 576"):
        make_workload(TOKENIZER, prompt_tokens=[512], decode_tokens=64, context_length=575)

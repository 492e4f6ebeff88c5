"""Checkpoints are read lazily and exactly, and every way they can be damaged has its own error."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.checkpoint import (
    EMBEDDING,
    HEAD,
    INDEX_FILE,
    SINGLE_FILE,
    Checkpoint,
    CheckpointNotFoundError,
    ExtraTensorError,
    IndexFileError,
    IndexMismatchError,
    LayoutError,
    MissingShardError,
    MissingTensorError,
    PickleOnlyError,
    TensorShapeError,
    UntiedHeadError,
    check_tensors,
)
from export.config import parse_config
from export.errors import ConfigError
from export.shards import (
    DuplicateTensorError,
    NonFiniteTensorError,
    OversizedHeaderError,
    ShardError,
    TruncatedShardError,
    UnsupportedDtypeError,
)
from export.tensors import text_tensors
from tests.fixtures import FIXTURES, load_reference, save_shards

NORM = "model.language_model.norm.weight"


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target / "checkpoint"))


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Change the tensors of a single-file checkpoint."""
    tensors = load_file(directory / SINGLE_FILE)
    change(tensors)
    save_file(tensors, directory / SINGLE_FILE)
    return directory


def check(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    check_tensors(checkpoint, text_tensors(parse_config(checkpoint.config)))


@pytest.fixture
def single(fixture_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return copied(fixture_checkpoint("like_2b"), tmp_path)


@pytest.fixture
def sharded(fixture_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return copied(fixture_checkpoint("like_4b"), tmp_path)


def edit_index(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((directory / INDEX_FILE).read_text())
    change(index)
    (directory / INDEX_FILE).write_text(json.dumps(index))


def write_header(path: Path, header: Any, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("name", FIXTURES)
def test_every_tensor_equals_what_transformers_loads(fixture_checkpoint: Callable[[str], Path], name: str) -> None:
    checkpoint = Checkpoint.open(fixture_checkpoint(name))
    expected = text_tensors(parse_config(checkpoint.config))
    check_tensors(checkpoint, expected)
    truth = load_reference(checkpoint.path).state_dict()
    for tensor in expected:
        assert torch.equal(checkpoint.read(tensor).float(), truth[tensor]), tensor


def test_a_block_of_rows_is_that_block(single: Path) -> None:
    checkpoint = Checkpoint.open(single)
    whole = checkpoint.read(EMBEDDING)
    assert torch.equal(checkpoint.read(EMBEDDING, slice(100, 107)), whole[100:107])
    assert torch.equal(checkpoint.read(EMBEDDING, slice(2000, 9999)), whole[2000:])
    assert checkpoint.read(EMBEDDING, slice(5, 5)).shape == (0, whole.shape[1])


def test_rows_with_a_step_are_refused(single: Path) -> None:
    with pytest.raises(ValueError, match="step must be 1, not 2"):
        Checkpoint.open(single).read(EMBEDDING, slice(0, 10, 2))


def test_opening_reads_no_weights_and_reading_maps_none(tmp_path: Path) -> None:
    """In a process of its own: 400 MB lie on disk, and reading 4 MB of them must not bring the rest into memory."""
    directory = tmp_path / "large"
    directory.mkdir()
    save_file({"model.embed_tokens.weight": torch.ones(100_000, 1024)}, directory / SINGLE_FILE)
    (directory / "config.json").write_text("{}")
    script = (
        "import resource, sys; from pathlib import Path; from export.checkpoint import Checkpoint, EMBEDDING\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); c = Checkpoint.open(Path(sys.argv[1])); c.read(EMBEDDING, slice(50_000, 51_000))\n"
        "print((peak() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, directory], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60


def test_content_hash_follows_content_and_not_the_place(single: Path, tmp_path: Path) -> None:
    before = Checkpoint.open(single).content_hash()
    elsewhere = Path(shutil.copytree(single, tmp_path / "elsewhere"))
    assert Checkpoint.open(elsewhere).content_hash() == before
    rewrite(elsewhere, lambda tensors: tensors[NORM].mul_(2))
    assert Checkpoint.open(elsewhere).content_hash() != before


@pytest.mark.parametrize(
    ("layout", "stored", "canonical"),
    [
        ("Qwen3_5ForCausalLM", "model.", "model.language_model."),
        ("Qwen3_5Model", "language_model.", "model.language_model."),
        ("Qwen3_5TextModel", "", "model.language_model."),
    ],
)
def test_text_only_checkpoints_go_by_the_same_names(single: Path, layout: str, stored: str, canonical: str) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[stored + name.removeprefix(canonical)] = tensors.pop(name)

    names = Checkpoint.open(single).names()
    checkpoint = Checkpoint.open(rewrite(single, rename))
    assert checkpoint.layout == layout
    assert checkpoint.names() == names


def test_two_text_models_in_one_directory_are_ambiguous(single: Path) -> None:
    rewrite(single, lambda tensors: tensors.update({"model.embed_tokens.weight": tensors[EMBEDDING].clone()}))
    with pytest.raises(LayoutError, match="holds text models of .*Generation and Qwen3_5ForCausalLM; keep the tensors"):
        Checkpoint.open(single)


def test_another_architecture_is_no_layout(single: Path) -> None:
    save_file({"transformer.wte.weight": torch.ones(2, 2)}, single / SINGLE_FILE)
    with pytest.raises(LayoutError, match=r"no token embedding found .*first tensors: 'transformer.wte.weight'"):
        Checkpoint.open(single)


def test_a_path_that_is_no_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointNotFoundError, match="nowhere: no such directory; give the one that holds config.json"
    ):
        Checkpoint.open(tmp_path / "nowhere")


def test_an_empty_directory_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointNotFoundError, match=r"neither model.safetensors nor model.safetensors.index.json found"
    ):
        Checkpoint.open(tmp_path)


def test_pickled_weights_are_refused(single: Path) -> None:
    (single / SINGLE_FILE).rename(single / "pytorch_model.bin")
    with pytest.raises(PickleOnlyError, match=r"pickled weights only \('pytorch_model.bin'\).*convert first"):
        Checkpoint.open(single)


def test_a_missing_config_is_named(single: Path) -> None:
    (single / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config.json: not found"):
        Checkpoint.open(single)


@pytest.mark.parametrize("kept_bytes", [0, 5, 3000, 100_000])
def test_a_truncated_shard_is_named(sharded: Path, kept_bytes: int) -> None:
    shard = sharded / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:kept_bytes])
    with pytest.raises(TruncatedShardError, match=r"model-00002-of-00002.safetensors: .*again"):
        Checkpoint.open(sharded)


def test_a_shard_with_bytes_too_many_is_named(single: Path) -> None:
    with (single / SINGLE_FILE).open("ab") as file:
        file.write(b"more")
    with pytest.raises(TruncatedShardError, match=r"header promises \d+ bytes, found \d+"):
        Checkpoint.open(single)


def test_a_shard_that_shrinks_after_opening_is_named(single: Path) -> None:
    checkpoint = Checkpoint.open(single)
    (single / SINGLE_FILE).write_bytes((single / SINGLE_FILE).read_bytes()[:-100])
    last = max(checkpoint.entries.values(), key=lambda entry: entry.offset)
    with pytest.raises(TruncatedShardError, match=f"ended inside {last.name}; the file shrank"):
        checkpoint.read(last.name)


def test_an_oversized_header_is_refused_before_it_is_read(single: Path) -> None:
    (single / SINGLE_FILE).write_bytes(struct.pack("<Q", 1 << 60))
    with pytest.raises(OversizedHeaderError, match=f"header of {1 << 60} bytes, more than the 100000000"):
        Checkpoint.open(single)


def test_a_header_that_is_not_json_is_named(single: Path) -> None:
    write_header(single / SINGLE_FILE, b"{not json")
    with pytest.raises(ShardError, match="header is not valid JSON"):
        Checkpoint.open(single)


def test_a_header_that_is_a_list_is_named(single: Path) -> None:
    write_header(single / SINGLE_FILE, [])
    with pytest.raises(ShardError, match="header is a list, expected an object"):
        Checkpoint.open(single)


def test_a_header_entry_without_offsets_is_named(single: Path) -> None:
    write_header(single / SINGLE_FILE, {"a": {"dtype": "F32", "shape": [1]}})
    with pytest.raises(ShardError, match="header entry 'a' is .*expected dtype, shape and data_offsets"):
        Checkpoint.open(single)


@pytest.mark.parametrize("offsets", [[0, 8], [-4, 4], [4, 0]])
def test_offsets_that_disagree_with_the_shape_are_refused(single: Path, offsets: list[int]) -> None:
    data = bytes(max(0, *offsets))
    write_header(single / SINGLE_FILE, {"a": {"dtype": "F32", "shape": [1], "data_offsets": offsets}}, data)
    with pytest.raises(ShardError, match=r"model.safetensors: "):
        Checkpoint.open(single)


def test_a_tensor_twice_in_one_header_is_named(single: Path) -> None:
    entry = '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    write_header(single / SINGLE_FILE, f"{{{entry}, {entry}}}".encode(), bytes(4))
    with pytest.raises(DuplicateTensorError, match="'a' stands twice in the header"):
        Checkpoint.open(single)


def test_a_tensor_in_two_shards_is_named(sharded: Path) -> None:
    first, second = (sharded / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    tensors = load_file(second)
    save_file(tensors | {"lm_twice": torch.ones(1)}, second)
    save_file(load_file(first) | {"lm_twice": torch.ones(1)}, first)
    edit_index(sharded, lambda index: index["weight_map"].update(lm_twice=first.name))
    with pytest.raises(DuplicateTensorError, match="'lm_twice' stands in model-00001-.* and in model-00002-"):
        Checkpoint.open(sharded)


def test_single_file_and_index_together_are_ambiguous(sharded: Path) -> None:
    shutil.copy(sharded / "model-00001-of-00002.safetensors", sharded / SINGLE_FILE)
    with pytest.raises(IndexFileError, match=r"holds both model.safetensors and model.safetensors.index.json; remove"):
        Checkpoint.open(sharded)


def test_a_shard_that_is_not_there_is_named(sharded: Path) -> None:
    (sharded / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(MissingShardError, match=r"model-00001-of-00002.safetensors: named by .* but not there; resume"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("target", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "..", "x.bin"])
def test_an_index_that_points_elsewhere_is_not_followed(sharded: Path, target: str) -> None:
    edit_index(sharded, lambda index: index["weight_map"].update({NORM: target}))
    with pytest.raises(IndexFileError, match=f"points to {target!r}; a shard must be .* do not trust"):
        Checkpoint.open(sharded)


def test_an_index_that_names_an_absent_tensor_is_a_mismatch(sharded: Path) -> None:
    file = "model-00001-of-00002.safetensors"
    edit_index(sharded, lambda index: index["weight_map"].update(ghost=file))
    with pytest.raises(IndexMismatchError, match=f"says 'ghost' is in {file}, found it in no shard"):
        Checkpoint.open(sharded)


def test_an_index_that_forgets_a_tensor_is_a_mismatch(sharded: Path) -> None:
    edit_index(sharded, lambda index: index["weight_map"].pop(NORM))
    with pytest.raises(IndexMismatchError, match=f"does not list '{NORM}', found in the shards"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "no 'weight_map' object"),
        ("{}", "no 'weight_map' object"),
        ('{"weight_map": ["a"]}', "must map tensor names to file names"),
        ('{"weight_map": {"a": 1}}', "must map tensor names to file names"),
    ],
)
def test_a_malformed_index_is_named(sharded: Path, text: str, message: str) -> None:
    (sharded / INDEX_FILE).write_text(text)
    with pytest.raises(IndexFileError, match=f"{INDEX_FILE}: .*{message}"):
        Checkpoint.open(sharded)


def test_a_missing_tensor_is_named(single: Path) -> None:
    rewrite(single, lambda tensors: tensors.pop(NORM))
    with pytest.raises(MissingTensorError, match=rf"'{NORM}' missing of \d+ tensors"):
        check(single)
    with pytest.raises(MissingTensorError, match=f"tensor '{NORM}' is missing"):
        Checkpoint.open(single).read(NORM)


def test_an_extra_tensor_is_named(single: Path) -> None:
    rewrite(single, lambda tensors: tensors.update({"model.language_model.layers.0.lora_A": torch.ones(1)}))
    with pytest.raises(ExtraTensorError, match=r"'model.language_model.layers.0.lora_A' not part of a Qwen3.5 model"):
        check(single)


def test_a_misshapen_tensor_says_both_shapes(single: Path) -> None:
    rewrite(single, lambda tensors: tensors.update({NORM: torch.ones(63)}))
    with pytest.raises(TensorShapeError, match=rf"{NORM} has shape \(63,\), expected \(64,\) from config.json"):
        check(single)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_counted(single: Path, value: float) -> None:
    rewrite(single, lambda tensors: tensors[EMBEDDING].view(-1)[5:8].fill_(value))
    checkpoint = Checkpoint.open(single)
    with pytest.raises(NonFiniteTensorError, match=f"{EMBEDDING} in .*: 3 of 131072 values are NaN or infinite"):
        checkpoint.read(EMBEDDING)
    assert checkpoint.read(EMBEDDING, slice(1, 3)).isfinite().all()


def test_a_stored_type_that_is_already_quantized_is_refused(single: Path) -> None:
    rewrite(single, lambda tensors: tensors.update({NORM: torch.ones(64, dtype=torch.int8)}))
    with pytest.raises(UnsupportedDtypeError, match=f"{NORM} in .*: stored as I8; only BF16, F16, F32"):
        Checkpoint.open(single).read(NORM)


def test_a_tied_head_that_is_a_copy_is_accepted(single: Path) -> None:
    rewrite(single, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    check(single)


def test_a_tied_head_that_differs_is_an_error(single: Path) -> None:
    rewrite(single, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] * 2}))
    with pytest.raises(UntiedHeadError, match=f"tie_word_embeddings true, but {HEAD} differs from {EMBEDDING}"):
        check(single)


def test_sharding_does_not_change_what_is_read(single: Path, tmp_path: Path) -> None:
    target = tmp_path / "sharded"
    shutil.copytree(single, target)
    (target / SINGLE_FILE).unlink()
    save_shards(target, load_file(single / SINGLE_FILE), 3)
    one, three = Checkpoint.open(single), Checkpoint.open(target)
    assert len(three.files()) == 3
    assert all(torch.equal(one.read(name), three.read(name)) for name in one.names())

"""Bad inputs, one row each: the error's type, and that its message says what, where, what was found and what next.

Every row goes through `export()` (or, where a whole export cannot reach the fault, the function that meets it),
and after each nothing is sealed. What is tested elsewhere is not repeated here:

* tests/test_config.py: every field of config.json, and files that are no config (190 cases);
* tests/test_checkpoint.py: 40 damaged checkpoints (headers, shards, indices, names, shapes, types, values);
* tests/test_sources.py: 14 faults of hubs and of the catalog's files; tests/test_random_checkpoint.py: 4 of its disk;
* tests/runtimes/test_artifact.py, test_verify.py, test_runner.py: damaged manifests, files, references and models;
* tests/test_resilience.py: full and read-only disks, killed runs, two exports at once.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from export import catalog
from export.checkpoint import SINGLE_FILE, Checkpoint, CheckpointNotFoundError, TensorShapeError
from export.config import parse_config
from export.errors import (
    BudgetError,
    ConfigError,
    MissingPackageError,
    OutputError,
    QuantizationError,
    SpecError,
    StoreError,
    UnknownNameError,
    UnsupportedSchemeError,
)
from export.pipeline import export
from export.progress import Silent
from export.quantized import open_quantized
from export.schemes import Format, layout
from export.shards import NonFiniteTensorError, TruncatedShardError
from export.spec import ExportSpec, parse_bytes
from runtimes.artifact import Artifact, parse_manifest
from runtimes.errors import ManifestError, ManifestVersionError, NotAnArtifactError, ProjectError
from tests.fixtures import TINY

GOLDEN_MANIFEST = Path(__file__).parent / "golden" / "manifest.json"
LAYER = "model.language_model.layers.2.mlp.up_proj.weight"


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a row works on: a good checkpoint of its own, a directory for the bundle that does not exist yet."""

    checkpoint: Path
    out: Path
    patch: pytest.MonkeyPatch


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """A row: what is done, and what the error is and says (`where` may name a path of the row's `Place`)."""

    act: Callable[[Place], object]
    error: type[ProjectError]
    what: str
    where: str
    found: str
    next: str


def run(place: Place, **changes: Any) -> object:
    """Export with one or two settings out of order."""
    settings = {"target": "android", "out": place.out, "checkpoint": str(place.checkpoint), "backends": ("onnx",)}
    quick = {"context_length": 64, "scheme": "int4", "method": "rtn"}
    return export(ExportSpec(**{**settings, **quick, **changes}), Silent())


def edit(place: Place, name: str, change: Callable[[dict[str, Any]], object]) -> object:
    """Change one JSON file of the checkpoint and export."""
    content = json.loads((place.checkpoint / name).read_text())
    change(content)
    (place.checkpoint / name).write_text(json.dumps(content))
    return run(place)


def write(place: Place, name: str, content: bytes) -> object:
    """Put other bytes in place of a file of the checkpoint and export."""
    (place.checkpoint / name).write_bytes(content)
    return run(place)


def template_in_settings(place: Place) -> object:
    (place.checkpoint / "chat_template.jinja").unlink()
    return edit(place, "tokenizer_config.json", lambda settings: settings.update(chat_template=[{"name": "default"}]))


def without_tokenizer(place: Place) -> object:
    (place.checkpoint / "tokenizer.json").unlink()
    return run(place)


def without_end_tokens(place: Place) -> object:
    (place.checkpoint / "generation_config.json").unlink()
    return edit(place, "config.json", lambda config: config["text_config"].pop("eos_token_id"))


def with_nan(place: Place) -> object:
    tensors = load_file(place.checkpoint / SINGLE_FILE)
    tensors[LAYER][3, 5] = float("nan")
    save_file(tensors, place.checkpoint / SINGLE_FILE)
    return run(place)


def cut_off(place: Place) -> object:
    shard = place.checkpoint / SINGLE_FILE
    return write(place, SINGLE_FILE, shard.read_bytes()[:-1000])


def in_another_backend(place: Place, backend: str, form: Format) -> object:
    config = parse_config(Checkpoint.open(place.checkpoint).config)
    return catalog.load("backends", backend).check({"layers.0.mlp.up_proj": form}, config)


def damaged_store(place: Place) -> object:
    config = parse_config(Checkpoint.open(place.checkpoint).config)
    place.out.mkdir()
    (place.out / "layers.0.safetensors").write_bytes(b"no safetensors at all")
    return open_quantized(place.out, config, layout(catalog.load("schemes", "int4").SCHEME, config))


def under_a_file(place: Place) -> object:
    place.out.write_text("a file")
    return run(place, out=place.out / "bundle")


def on_a_file(place: Place) -> object:
    place.out.write_text("a file")
    return run(place)


def among_others(place: Place) -> object:
    place.out.mkdir()
    (place.out / "README.md").write_text("mine")
    return run(place)


def cache_on_a_file(place: Place) -> object:
    place.out.with_name("cache").write_text("a file")
    place.patch.setenv("XDG_CACHE_HOME", str(place.out.with_name("cache")))
    return run(place)


def in_manifest(*path: str | int, value: object) -> Callable[[Place], object]:
    """A row that sets one field of a good manifest and reads it."""

    def act(_: Place) -> object:
        manifest = json.loads(GOLDEN_MANIFEST.read_text())
        at = manifest
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        return parse_manifest(json.dumps(manifest).encode(), where="some/manifest.json")

    return act


def foreign_package(place: Place) -> object:
    """A backend that asks for a package that nobody has."""
    module = place.out.with_name("absent_backend.py")
    module.write_text('"""A backend."""\n\nimport a_package_that_nobody_has\n')
    place.patch.setattr("export.backends.__path__", [str(module.parent)])
    place.patch.setattr(catalog, "names", lambda _: ["absent-backend"])
    return catalog.load("backends", "absent-backend")


TABLE: dict[str, BadInput] = {
    # names
    "unknown target": BadInput(
        act=lambda at: run(at, target="windows"),
        error=UnknownNameError, what="unknown", where="target", found="'windows'", next="known: android",
    ),
    "unknown scheme": BadInput(
        act=lambda at: run(at, scheme="int3"),
        error=UnknownNameError, what="unknown", where="scheme", found="'int3'", next="float, int4, int8",
    ),
    "unknown method": BadInput(
        act=lambda at: run(at, method="magic"),
        error=UnknownNameError, what="unknown", where="method", found="'magic'", next="mse, recovered, rtn",
    ),
    "unknown backend": BadInput(
        act=lambda at: run(at, backends=("tflite",)),
        error=UnknownNameError, what="unknown", where="backend", found="'tflite'", next="onnx, onnx-portable",
    ),
    "unknown model": BadInput(
        act=lambda at: run(at, model="qwen2-7b", checkpoint=None),
        error=UnknownNameError, what="unknown", where="model", found="'qwen2-7b'", next="known: qwen3.5-0.8b",
    ),
    "unknown source": BadInput(
        act=lambda at: run(at, source="gitlab"),
        error=UnknownNameError, what="unknown", where="source", found="'gitlab'", next="known: huggingface, modelscope",
    ),
    "a backend whose package is absent": BadInput(
        act=foreign_package,
        error=MissingPackageError, what="not installed", where="'absent-backend'", found="'a_package_that_nobody_has'",
        next="run `make venv`",
    ),
    # numbers
    "context too short": BadInput(
        act=lambda at: run(at, context_length=8),
        error=SpecError, what="out of range", where="--context-length", found="8", next="use 16 to 262144 tokens",
    ),
    "context beyond any model": BadInput(
        act=lambda at: run(at, context_length=10**9),
        error=SpecError, what="out of range", where="--context-length", found="1000000000", next="use 16 to",
    ),
    "context beyond this model": BadInput(
        act=lambda at: run(at, context_length=4097),
        error=SpecError, what="exceeds the 4096 positions", where="--context-length", found="4097", next="ask for less",
    ),
    "no group at all": BadInput(
        act=lambda at: run(at, group_size=0),
        error=SpecError, what="out of range", where="--group-size", found="0", next="use 32, 64 or 128",
    ),
    "a group of less than nothing": BadInput(
        act=lambda at: run(at, group_size=-32),
        error=SpecError, what="out of range", where="--group-size", found="-32", next="use 32, 64 or 128",
    ),
    "a group that no kernel has": BadInput(
        act=lambda at: run(at, group_size=48),
        error=QuantizationError, what="not a multiple of 32", where="embed_tokens", found="48", next="use 32 or 64",
    ),
    "a group that does not divide": BadInput(
        act=lambda at: run(at, group_size=128),
        error=QuantizationError, what="in_features 192 is not divisible", where="embed_tokens", found="group_size 128",
        next="use 32 or 64",
    ),
    "a group size where nothing has groups": BadInput(
        act=lambda at: run(at, scheme="int8", group_size=64),
        error=SpecError, what="no 4-bit weights", where="--scheme int8", found="--group-size 64", next="leave one",
    ),
    "a budget in words": BadInput(
        act=lambda _: parse_bytes("as small as you can"),
        error=SpecError, what="not a size", where="--budget", found="'as small as you can'", next="such as 480MB",
    ),
    "a budget of nothing": BadInput(
        act=lambda _: parse_bytes("0.0 GB"),
        error=SpecError, what="not a size", where="--budget", found="'0.0 GB'", next="such as 480MB",
    ),
    "a budget of four hundred digits": BadInput(
        act=lambda _: parse_bytes("9" * 400 + "GB"),
        error=SpecError, what="not a size", where="--budget", found="'999999", next="such as 480MB",
    ),
    "a budget that no scheme fits": BadInput(
        act=lambda at: run(at, budget_bytes=100_000),
        error=BudgetError, what="takes about", where="--budget", found="100000 bytes", next="build fewer backends",
    ),
    # contradictions
    "one backend twice": BadInput(
        act=lambda at: run(at, backends=("onnx", "onnx")),
        error=SpecError, what="one backend twice", where="--backend", found="onnx, onnx", next="name each once",
    ),
    "a modality that is unknown": BadInput(
        act=lambda at: run(at, modality="sound"),
        error=SpecError, what="unknown", where="--modality", found="'sound'", next="known: ",
    ),
    "a checkpoint named by an unset variable": BadInput(
        act=lambda at: run(at, checkpoint=""),
        error=SpecError, what="is empty", where="--checkpoint", found="unset shell variable?", next="leave it out",
    ),
    "a checkpoint of another model than named": BadInput(
        act=lambda at: run(at, model="qwen3.5-4b"),
        error=SpecError, what="--model qwen3.5-4b has hidden_size 2560", where="{checkpoint}", found="192",
        next="leave out --model",
    ),
    "4-bit groups that MatMulNBits has not": BadInput(
        act=lambda at: in_another_backend(at, "onnx", Format(bits=4, group_size=96)),
        error=UnsupportedSchemeError, what="onnx cannot pack", where="layers.0.mlp.up_proj", found="int4_g96",
        next="use --group-size 32, 64 or 128",
    ),
    "4-bit groups that XNNPACK has not": BadInput(
        act=lambda at: in_another_backend(at, "executorch", Format(bits=4, group_size=16)),
        error=UnsupportedSchemeError, what="executorch cannot pack", where="layers.0.mlp.up_proj", found="int4_g16",
        next="use --group-size 32, 64 or 128",
    ),
    "8-bit groups in XNNPACK": BadInput(
        act=lambda at: in_another_backend(at, "executorch", Format(bits=8, group_size=32)),
        error=UnsupportedSchemeError, what="executorch cannot pack", where="layers.0.mlp.up_proj", found="int8_g32",
        next="use 8 bits without groups",
    ),
    # checkpoints
    "a checkpoint that is not there": BadInput(
        act=lambda at: run(at, checkpoint="no/such/place"),
        error=CheckpointNotFoundError, what="no such directory", where="--checkpoint", found="no/such/place",
        next="give the one that holds config.json",
    ),
    "a checkpoint that is a file": BadInput(
        act=lambda at: run(at, checkpoint=str(at.checkpoint / SINGLE_FILE)),
        error=CheckpointNotFoundError, what="no such directory", where="--checkpoint", found="model.safetensors",
        next="give the one that holds config.json",
    ),
    "weights cut off": BadInput(
        act=cut_off,
        error=TruncatedShardError, what="header promises", where="{checkpoint}", found="found ", next="fetch it again",
    ),
    "a config of other dimensions": BadInput(
        act=lambda at: edit(at, "config.json", lambda config: config["text_config"].update(intermediate_size=1024)),
        error=TensorShapeError, what="expected (1024, 192)", where="mlp", found="has shape (512, 192)",
        next="the config belongs to another checkpoint",
    ),
    "NaN among the weights": BadInput(
        act=with_nan,
        error=NonFiniteTensorError, what="NaN or infinite", where=LAYER, found="1 of", next="again",
    ),
    "no tokenizer": BadInput(
        act=without_tokenizer,
        error=ConfigError, what="not found", where="{checkpoint}/tokenizer.json", found="not found",
        next="needs a Hugging Face fast tokenizer",
    ),
    "a tokenizer that is none": BadInput(
        act=lambda at: write(at, "tokenizer.json", b'{"model": 1}'),
        error=ConfigError, what="not a tokenizer", where="{checkpoint}/tokenizer.json", found="(", next="download it",
    ),
    "a tokenizer without tokens": BadInput(
        act=lambda at: write(at, "tokenizer.json", b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}'),
        error=ConfigError, what="holds no tokens", where="{checkpoint}/tokenizer.json", found="no tokens",
        next="download it again",
    ),
    "a tokenizer of another model": BadInput(
        act=lambda at: edit(at, "tokenizer.json", lambda one: one["model"]["vocab"].update({"one too many": 2048})),
        error=ConfigError, what="the model's vocab_size is 2048", where="{checkpoint}/tokenizer.json",
        found="token ids up to 2048", next="take the one of this checkpoint",
    ),
    "tokenizer settings that are no JSON": BadInput(
        act=lambda at: write(at, "generation_config.json", b"{'eos_token_id': 1}"),
        error=ConfigError, what="not valid JSON", where="{checkpoint}/generation_config.json", found="line 1",
        next="download it again",
    ),
    "settings that are a list": BadInput(
        act=lambda at: write(at, "generation_config.json", b"[1]"),
        error=ConfigError, what="expected an object", where="{checkpoint}/generation_config.json", found="holds a list",
        next="download it again",
    ),
    "an end token beyond the vocabulary": BadInput(
        act=lambda at: edit(at, "generation_config.json", lambda one: one.update(eos_token_id=[1, 99_999])),
        error=ConfigError, what="below the vocab_size 2048", where="eos_token_id", found="99999", next="correct it in",
    ),
    "an end token that is a word": BadInput(
        act=lambda at: edit(at, "generation_config.json", lambda one: one.update(eos_token_id="<|im_end|>")),
        error=ConfigError, what="expected token ids", where="eos_token_id", found="'<|im_end|>'", next="correct it in",
    ),
    "no end token": BadInput(
        act=without_end_tokens,
        error=ConfigError, what="generation would never stop", where="generation_config.json nor config.json",
        found="neither", next="add the ids that end a turn",
    ),
    "a chat template that is not text": BadInput(
        act=lambda at: write(at, "chat_template.jinja", b"{{ messages }}\xff"),
        error=ConfigError, what="not UTF-8", where="{checkpoint}/chat_template.jinja", found="byte 14",
        next="download it again",
    ),
    "a chat template that does not compile": BadInput(
        act=lambda at: write(at, "chat_template.jinja", b"{% for one in messages %}\n{{ one"),
        error=ConfigError, what="does not compile", where="{checkpoint}/chat_template.jinja", found="line 2",
        next="take the template of the original model",
    ),
    "several chat templates": BadInput(
        act=template_in_settings,
        error=ConfigError, what="expected a text", where="{checkpoint}/tokenizer_config.json", found="is a list",
        next="put the one to use into chat_template.jinja",
    ),
    # manifests
    "a manifest of a later version": BadInput(
        act=in_manifest("schema_version", value=99),
        error=ManifestVersionError, what="made by a newer version", where="some/manifest.json", found="99",
        next="update it, or export again",
    ),
    "a manifest that leads elsewhere": BadInput(
        act=in_manifest("files", 0, "path", value="../../etc/passwd"),
        error=ManifestError, what="must be relative", where="some/manifest.json", found="'../../etc/passwd'",
        next="copy the artifact or export it again",
    ),
    "a manifest with a field of the wrong type": BadInput(
        act=in_manifest("context_length", value="long"),
        error=ManifestError, what="is not of type", where="some/manifest.json: context_length", found="'long'",
        next="copy the artifact or export it again",
    ),
    "a manifest whose state has another size": BadInput(
        act=in_manifest("state", 0, "bytes", value=7),
        error=ManifestError, what="float32 has 1152", where="state 'layers.0.conv'", found="says 7 bytes",
        next="copy the artifact or export it again",
    ),
    "a manifest that is no JSON": BadInput(
        act=lambda _: parse_manifest(b"{", where="some/manifest.json"),
        error=ManifestError, what="not JSON", where="some/manifest.json", found="line 1",
        next="copy the artifact or export it again",
    ),
    "an artifact that was never sealed": BadInput(
        act=lambda at: Artifact.open(at.checkpoint),
        error=NotAnArtifactError, what="no finished artifact", where="{checkpoint}", found="no manifest.json",
        next="export one, or name its directory",
    ),
    # disks
    "a damaged quantized checkpoint": BadInput(
        act=damaged_store,
        error=StoreError, what="missing or damaged", where="{out}/layers.0.safetensors", found="damaged",
        next="run the same export again",
    ),
    "a file for a directory": BadInput(
        act=on_a_file,
        error=OutputError, what="--out needs a directory", where="{out}", found="is a file", next="choose another",
    ),
    "a directory below a file": BadInput(
        act=under_a_file,
        error=OutputError, what="cannot be", where="{out}", found="Not a directory", next="--out",
    ),
    "a name longer than the disk allows": BadInput(
        act=lambda at: run(at, out=at.out / ("x" * 300)),
        error=OutputError, what="cannot be", where="{out}", found="File name too long", next="--out",
    ),
    "a directory that holds something else": BadInput(
        act=among_others,
        error=OutputError, what="no export wrote", where="{out}", found="README.md", next="choose a new or empty",
    ),
    "a cache that is a file": BadInput(
        act=cache_on_a_file,
        error=OutputError, what="cannot", where="cache", found="Not a directory", next="XDG_CACHE_HOME",
    ),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    names = ("*.json", "*.jinja", "*.safetensors")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for file in (file for name in names for file in TINY.glob(name)):
        shutil.copy(file, checkpoint)
    return Place(checkpoint=checkpoint, out=tmp_path / "out", patch=monkeypatch)


def test_there_are_at_least_thirty_bad_inputs_here() -> None:
    assert len(TABLE) >= 30


@pytest.mark.parametrize("name", TABLE)
def test_a_bad_input_is_a_named_error_that_says_what_where_found_and_next(place: Place, name: str) -> None:
    row = TABLE[name]
    with pytest.raises(row.error) as raised:
        row.act(place)
    message = str(raised.value)
    assert type(raised.value) is row.error
    where = row.where.format(checkpoint=place.checkpoint, out=place.out)
    missing = [part for part in (row.what, where, row.found, row.next) if part not in message]
    assert not missing, f"the message lacks {missing}: {message}"
    assert "\n" not in message
    assert not list(place.out.parent.rglob("manifest.json")), "something was sealed"


def test_a_foreign_directory_is_left_as_it_was(place: Place) -> None:
    with pytest.raises(OutputError):
        among_others(place)
    assert [path.name for path in place.out.iterdir()] == ["README.md"]
    assert (place.out / "README.md").read_text() == "mine"


@pytest.mark.parametrize("name", ["unknown scheme", "context beyond this model", "a budget that no scheme fits",
                                  "a checkpoint of another model than named", "no group at all"])  # fmt: skip
def test_a_contradiction_dies_before_anything_is_written(place: Place, name: str) -> None:
    place.patch.setenv("XDG_CACHE_HOME", str(place.out.with_name("cache")))
    with pytest.raises(TABLE[name].error):
        TABLE[name].act(place)
    assert sorted(path.name for path in place.out.parent.iterdir()) == ["checkpoint"]


def test_a_settings_file_of_many_megabytes_is_not_read(place: Place) -> None:
    with (place.checkpoint / "tokenizer_config.json").open("ab") as file:
        file.truncate((64 << 20) + 1)  # sparse: takes no room on the disk
    with pytest.raises(ConfigError, match="67108865 bytes, more than 67108864; this is no settings file, download"):
        _without_template(place)


def _without_template(place: Place) -> object:
    (place.checkpoint / "chat_template.jinja").unlink()
    return run(place)

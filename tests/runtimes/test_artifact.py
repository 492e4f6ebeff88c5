"""Manifests are untrusted: each fault is a named error that says where it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimes.artifact import (
    MAX_MANIFEST_BYTES,
    Artifact,
    Manifest,
    StateTensor,
    find_artifact,
    parse_manifest,
    schema,
)
from runtimes.errors import FileMismatchError, ManifestError, ManifestVersionError, NotAnArtifactError, ProjectError
from tests.runtimes.conftest import Change


def test_a_manifest_survives_reading_and_writing(onnx_artifact: Path) -> None:
    text = (onnx_artifact / "manifest.json").read_text()
    manifest = parse_manifest(text.encode())
    written = json.loads(text)
    absent = {"quantization": None, "inputs": {"calibration": None, **written["inputs"]}}  # what older exporters lack
    assert manifest.to_dict() == {**written, **absent}
    assert parse_manifest(manifest.to_json().encode()) == manifest
    assert manifest.to_json() == parse_manifest(manifest.to_json().encode()).to_json()


def test_the_golden_manifest_reads_as_every_reader_must_read_it() -> None:
    """The Kotlin and Swift readers are tested with this file, too."""
    text = (Path(__file__).parents[1] / "golden" / "manifest.json").read_text()
    manifest = parse_manifest(text.encode())
    assert manifest.to_json() == text
    assert manifest.runtime.oldest_version == "1.31"
    assert manifest.state[0] == StateTensor(
        name="layers.0.conv",
        kind="conv",
        layer=0,
        shape=(1, 96, 3),
        dtype="float32",
        bytes=1152,
        input_name="past.0.conv",
        output_name="present.0.conv",
        token_axis=None,
    )
    assert [tensor.token_axis for tensor in manifest.state] == [None, None, 2, 2]
    assert manifest.source.id == "Qwen/Qwen3.5-0.8B"
    assert manifest.eos_token_ids == (302, 300)
    assert manifest.measured.parity == {"passed": True}
    assert manifest.measured.quality is None
    assert manifest.artifact_hash() == "0249fb633469e087e214f8ed3ef3ced5361d08272f139eaaf02a95267d897422"


def test_the_schema_and_the_dataclass_have_the_same_fields() -> None:
    fields = set(Manifest.__dataclass_fields__)
    assert fields == set(schema()["properties"]) == {*schema()["required"], "quantization", "vision"}


def test_measured_figures_are_no_part_of_the_artifact_hash(
    changed: Callable[[Change], Path], onnx_artifact: Path
) -> None:
    before = Artifact.open(onnx_artifact).manifest.artifact_hash()
    measured = changed(lambda manifest: manifest["measured"].update(parity={"checks": 1}))
    assert Artifact.open(measured).manifest.artifact_hash() == before


def test_any_other_field_changes_the_artifact_hash(changed: Callable[[Change], Path], onnx_artifact: Path) -> None:
    before = Artifact.open(onnx_artifact).manifest.artifact_hash()
    assert Artifact.open(changed(lambda manifest: manifest.update(threads=2))).manifest.artifact_hash() != before


def set_field(*path: str | int, value: Any) -> Change:
    """A change that sets one field somewhere in the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def drop_field(name: str) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        del manifest[name]

    return change


def twice(name: str) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        manifest[name].append(manifest[name][0])

    return change


BAD_MANIFESTS: dict[str, tuple[Change, type[ProjectError], str]] = {
    "missing_field": (drop_field("scheme"), ManifestError, "'scheme' is a required property"),
    "unknown_field": (set_field("colour", value="red"), ManifestError, "'colour' was unexpected"),
    "newer_version": (set_field("schema_version", value=2), ManifestVersionError, "made by a newer version"),
    "version_zero": (set_field("schema_version", value=0), ManifestError, "schema_version"),
    "version_true": (set_field("schema_version", value="1"), ManifestError, "schema_version"),
    "wrong_type": (set_field("context_length", value="4096"), ManifestError, "context_length"),
    "float_for_integer": (set_field("vocab_size", value=1.5), ManifestError, "vocab_size"),
    "integral_float": (set_field("context_length", value=256.0), ManifestError, "context_length: 256.0 is not of type"),
    "negative_size": (set_field("files", 0, "bytes", value=-1), ManifestError, "files.0.bytes"),
    "endless_context": (set_field("context_length", value=10**12), ManifestError, "context_length"),
    "absolute_path": (set_field("files", 0, "path", value="/etc/passwd"), ManifestError, "stay inside"),
    "parent_path": (set_field("files", 0, "path", value="../secret"), ManifestError, "stay inside"),
    "hidden_parent_path": (set_field("files", 0, "path", value="a/../../b"), ManifestError, "stay inside"),
    "dotted_path": (set_field("files", 0, "path", value="./model.onnx"), ManifestError, "stay inside"),
    "windows_path": (set_field("files", 0, "path", value="C:\\model"), ManifestError, "stay inside"),
    "itself": (set_field("files", 0, "path", value="manifest.json"), ManifestError, "cannot list itself"),
    "file_twice": (twice("files"), ManifestError, "listed twice"),
    "state_twice": (twice("state"), ManifestError, "listed twice"),
    "short_hash": (set_field("files", 0, "sha256", value="abc"), ManifestError, "files.0.sha256"),
    "unlisted_model": (set_field("model_file", value="other.onnx"), ManifestError, "not among its files"),
    "unlisted_template": (set_field("chat_template_file", value="x.jinja"), ManifestError, "not among its files"),
    "no_eos": (set_field("eos_token_ids", value=[]), ManifestError, "eos_token_ids"),
    "eos_outside": (set_field("eos_token_ids", value=[100000]), ManifestError, "outside vocab_size"),
    "pad_outside": (set_field("pad_token_id", value=100000), ManifestError, "outside vocab_size"),
    "chunk_too_long": (set_field("prefill_chunk", value=512), ManifestError, "longer than context_length"),
    "state_bytes": (set_field("state", 0, "bytes", value=7), ManifestError, "says 7 bytes"),
    "state_kind": (set_field("state", 0, "kind", value="memory"), ManifestError, "state.0.kind"),
    "state_dtype": (set_field("state", 0, "dtype", value="object"), ManifestError, "state.0.dtype"),
    "cache_too_short": (set_field("context_length", value=300), ManifestError, "no room for context_length 300"),
    "one_sided_state": (set_field("state", 0, "input_name", value=None), ManifestError, "or neither"),
    "weights": (set_field("weights", value="unknown"), ManifestError, "weights"),
    "missing_file": (set_field("files", 1, "path", value="gone.txt"), FileMismatchError, "missing"),
    "truncated_file": (set_field("files", 0, "bytes", value=1), FileMismatchError, "the manifest says 1"),
}


@pytest.mark.parametrize("fault", BAD_MANIFESTS)
def test_a_bad_manifest_is_a_named_error(fault: str, changed: Callable[[Change], Path]) -> None:
    change, error, message = BAD_MANIFESTS[fault]
    directory = changed(change)
    with pytest.raises(error, match=message) as caught:
        Artifact.open(directory)
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "expected a JSON object"),
        (b'"manifest"', "expected a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"a": NaN}', "not a JSON number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"schema_version": 1}', "required property"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_bytes_that_are_no_manifest_are_named(content: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(content)


def test_a_manifest_of_many_megabytes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(ManifestError, match="more than"):
        Artifact.open(tmp_path)


def test_a_link_that_leads_outside_is_refused(changed: Callable[[Change], Path], tmp_path: Path) -> None:
    directory = changed(lambda _manifest: None)
    outside = tmp_path / "outside.json"
    (directory / "tokenizer.json").rename(outside)
    (directory / "tokenizer.json").symlink_to(outside)
    with pytest.raises(ManifestError, match="leads outside"):
        Artifact.open(directory)


def test_a_changed_byte_is_found_by_its_hash(changed: Callable[[Change], Path]) -> None:
    directory = changed(lambda _manifest: None)
    place = directory / "model.onnx.data"
    content = bytearray(place.read_bytes())
    content[100] ^= 1
    place.write_bytes(content)
    artifact = Artifact.open(directory)
    with pytest.raises(FileMismatchError, match="sha256 is"):
        artifact.check_hashes()


def test_unchanged_files_have_their_hashes(onnx_artifact: Path) -> None:
    Artifact.open(onnx_artifact).check_hashes()


def test_an_empty_directory_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(NotAnArtifactError, match="no finished artifact"):
        Artifact.open(tmp_path)
    with pytest.raises(NotAnArtifactError, match=r"no manifest\.json here or one level below"):
        find_artifact(tmp_path)
    with pytest.raises(NotAnArtifactError, match="no such directory"):
        find_artifact(tmp_path / "nowhere")


def test_a_bundle_with_one_artifact_needs_no_choice(onnx_artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(onnx_artifact, tmp_path / "onnx")
    assert find_artifact(tmp_path).path == tmp_path / "onnx"
    assert find_artifact(tmp_path, "onnxruntime").path == tmp_path / "onnx"
    with pytest.raises(NotAnArtifactError, match=r"it holds onnx \(onnxruntime\)"):
        find_artifact(tmp_path, "executorch")


def test_a_bundle_with_two_artifacts_says_which(onnx_artifact: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copytree(onnx_artifact, tmp_path / name)
    with pytest.raises(NotAnArtifactError, match=r"2 artifacts, first \(onnxruntime\), second \(onnxruntime\)"):
        find_artifact(tmp_path)


def test_an_artifact_of_another_runtime_is_refused(onnx_artifact: Path) -> None:
    with pytest.raises(NotAnArtifactError, match="runs on 'onnxruntime', not on 'executorch'"):
        find_artifact(onnx_artifact, "executorch")

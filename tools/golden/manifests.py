"""Manifests that every reader accepts or refuses alike, all made of `tests/golden/manifest.json`.

`expect` is `ok`, `newer` (made by a newer version of this project) or `refused`; `names` is what the message has to
contain, so that a reader refuses for the right reason. `base64` stands where the bytes are no text.
"""

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

from runtimes.artifact import parse_manifest
from runtimes.errors import ManifestError, ManifestVersionError
from tools.golden.files import FOLDER

Change = Callable[[dict[str, Any]], None]


def _set(*path: str | int, value: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def _drop(*path: str | int) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return change


def _twice(name: str) -> Change:
    return lambda manifest: manifest[name].append(manifest[name][0])


def _same_file_in_capitals(manifest: dict[str, Any]) -> None:
    manifest["files"].append({**manifest["files"][0], "path": manifest["files"][0]["path"].upper()})


VISION = {
    "tower_file": "model.onnx",
    "embedding_file": "model.onnx.data",
    "format": "int8_row",
    "hidden_size": 64,
    "image_token_id": 303,
    "vision_start_token_id": 304,
    "vision_end_token_id": 305,
    "images": {
        "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 4096, "max_pixels": 65536,
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    },
}  # fmt: skip


def _seeing(*path: str, value: Any = None) -> Change:
    """A model that sees, with one field of its vision changed."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["modalities"] = ["text", "image"]
        manifest["vision"] = copy.deepcopy(VISION)
        if path:
            _set("vision", *path, value=value)(manifest)

    return change


CHANGES: dict[str, tuple[Change, str]] = {
    "unchanged": (lambda _manifest: None, ""),
    "of an older exporter": (_drop("quantization"), ""),
    "no calibration": (_drop("inputs", "calibration"), ""),
    "no chat template": (_set("chat_template_file", value=None), ""),
    "images": (_seeing(), ""),
    "images of fixed grids": (_seeing("images", "grids", value=[[1, 2], [2, 1]]), ""),
    "no images": (_set("vision", value=None), ""),
    "a folder inside": (_set("files", 4, "path", value="more/reference"), "reference.safetensors"),
    "missing field": (_drop("scheme"), "scheme"),
    "missing field inside": (_drop("runtime", "oldest_version"), "oldest_version"),
    "unknown field": (_set("colour", value="red"), "colour"),
    "unknown field inside": (_set("state", 0, "colour", value=1), "colour"),
    "newer version": (_set("schema_version", value=1000), "1000"),
    "newer version with other fields": (lambda manifest: manifest.update(schema_version=999, soul=True), "999"),
    "version zero": (_set("schema_version", value=0), "schema_version"),
    "version as text": (_set("schema_version", value="1"), "schema_version"),
    "version true": (_set("schema_version", value=True), "schema_version"),
    "number as text": (_set("context_length", value="4096"), "context_length"),
    "fraction": (_set("vocab_size", value=1.5), "vocab_size"),
    "integer with a point": (_set("context_length", value=256.0), "context_length"),
    "version with a point": (_set("schema_version", value=1.0), "schema_version"),
    "newer version with a point": (_set("schema_version", value=1000.0), "schema_version"),
    "size with a point": (_set("files", 0, "bytes", value=3.0), "files.0.bytes"),
    "shape with a point": (_set("state", 0, "shape", 0, value=1.0), "state.0.shape"),
    "end token with a point": (_set("eos_token_ids", value=[300.0]), "eos_token_ids"),
    "padding with a point": (_set("pad_token_id", value=3.0), "pad_token_id"),
    "integer as true": (_set("threads", value=True), "threads"),
    "no threads": (_set("threads", value=0), "threads"),
    "negative size": (_set("files", 0, "bytes", value=-1), "files.0.bytes"),
    "endless context": (_set("context_length", value=10**12), "context_length"),
    "beyond 64 bits": (_set("files", 0, "bytes", value=10**30), "files.0.bytes"),
    "absolute path": (_set("files", 0, "path", value="/etc/passwd"), "/etc/passwd"),
    "parent path": (_set("files", 0, "path", value="../secret"), "../secret"),
    "hidden parent path": (_set("files", 0, "path", value="a/../../b"), "a/../../b"),
    "dotted path": (_set("files", 0, "path", value="./model.onnx"), "./model.onnx"),
    "double slash": (_set("files", 0, "path", value="a//b"), "a//b"),
    "trailing slash": (_set("files", 0, "path", value="a/"), "a/"),
    "windows path": (_set("files", 0, "path", value="C:\\model"), "C:"),
    "null in a path": (_set("files", 0, "path", value="a\u0000b"), "file path"),
    "empty path": (_set("files", 0, "path", value=""), "files.0.path"),
    "endless path": (_set("files", 0, "path", value="a" * 513), "files.0.path"),
    "itself": (_set("files", 0, "path", value="Manifest.json"), "Manifest.json"),
    "a file twice": (_twice("files"), "chat_template.jinja"),
    "a file twice on a Mac": (_same_file_in_capitals, "chat_template.jinja"),
    "no files": (_set("files", value=[]), "files"),
    "state twice": (_twice("state"), "layers.0.conv"),
    "short hash": (_set("files", 0, "sha256", value="abc"), "files.0.sha256"),
    "hash in capitals": (_set("files", 0, "sha256", value="A" * 64), "files.0.sha256"),
    "unlisted model": (_set("model_file", value="other.onnx"), "model_file"),
    "unlisted template": (_set("chat_template_file", value="x.jinja"), "chat_template_file"),
    "no end token": (_set("eos_token_ids", value=[]), "eos_token_ids"),
    "end token twice": (_set("eos_token_ids", value=[300, 300]), "eos_token_ids"),
    "end token outside": (_set("eos_token_ids", value=[100000]), "100000"),
    "padding outside": (_set("pad_token_id", value=100000), "100000"),
    "chunk longer than the context": (_set("prefill_chunk", value=512), "512"),
    "bytes that disagree with the shape": (_set("state", 0, "bytes", value=7), "layers.0.conv"),
    "unknown kind of state": (_set("state", 0, "kind", value="memory"), "state.0.kind"),
    "unknown dtype": (_set("state", 0, "dtype", value="object"), "state.0.dtype"),
    "a shape of nine axes": (_set("state", 0, "shape", value=[1] * 9), "state.0.shape"),
    "a cache too short": (_set("context_length", value=300), "300"),
    "a token axis that is not there": (_set("state", 2, "token_axis", value=5), "layers.1.key"),
    "half a name": (_set("state", 0, "input_name", value=None), "layers.0.conv"),
    "unknown weights": (_set("weights", value="unknown"), "weights"),
    "unknown source": (_set("source", "kind", value="ftp"), "source.kind"),
    "a name with a slash": (_set("model", value="../qwen"), "model"),
    "an empty name": (_set("backend", value=""), "backend"),
    "unknown modality": (_set("modalities", value=["text", "smell"]), "modalities.1"),
    "a format nobody knows": (_set("quantization", "formats", value={"x": "int3_g32"}), "quantization"),
    "parity as a number": (_set("measured", "parity", value=1), "measured.parity"),
    "images without vision": (_set("modalities", value=["text", "image"]), "modalities"),
    "vision without images": (_set("vision", value=VISION), "modalities"),
    "an unlisted tower": (_seeing("tower_file", value="eye.onnx"), "eye.onnx"),
    "an image token outside": (_seeing("image_token_id", value=306), "306"),
    "a tower in an unknown format": (_seeing("format", value="int2"), "vision"),
    "images of no size": (_seeing("images", "max_pixels", value=1000), "1000"),
    "two channels": (_seeing("images", "mean", value=[0.5, 0.5]), "vision"),
    "a deviation of zero": (_seeing("images", "std", value=[0.5, 0, 0.5]), "vision"),
    "no grid": (_seeing("images", "grids", value=[]), "vision"),
    "grids that are null": (_seeing("images", "grids", value=None), "vision"),
    "a grid of three sides": (_seeing("images", "grids", value=[[1, 2, 3]]), "vision"),
    "a grid without height": (_seeing("images", "grids", value=[[0, 2]]), "vision"),
    "a grid with a point": (_seeing("images", "grids", value=[[1.0, 2], [2, 1]]), "vision"),
    "a patch with a point": (_seeing("images", "patch_size", value=16.0), "vision"),
    "a grid twice": (_seeing("images", "grids", value=[[1, 2], [1, 2]]), "vision"),
    "a grid beyond the largest image": (_seeing("images", "grids", value=[[4096, 4096]]), "4096 x 4096"),
    "an unknown field of vision": (_seeing("colour", value=1), "vision"),
    "toolchain as a list": (_set("toolchain", value=[]), "toolchain"),
}


def content() -> dict[str, Any]:
    """The cases, and the hash that names the golden manifest's artifact."""
    text = (FOLDER / "manifest.json").read_text(encoding="utf-8")
    changed = [_changed(json.loads(text), name, *change) for name, change in CHANGES.items()]
    hashes = {"artifact_hash": parse_manifest(text.encode()).artifact_hash()}
    return hashes | {"cases": changed + [_case(*raw) for raw in _raw(text)]}


def _changed(manifest: dict[str, Any], name: str, change: Change, names: str) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    change(changed)
    return _case(name, json.dumps(changed, separators=(",", ":"), ensure_ascii=False).encode(), names)


def _raw(text: str) -> list[tuple[str, bytes, str]]:
    small = json.dumps(json.loads(text), separators=(",", ":")).encode()
    return [
        ("empty", b"", ""),
        ("a list", b"[]", ""),
        ("a number", b"1", ""),
        ("no JSON", b"PK\x03\x04", ""),
        ("cut off", small[: len(small) // 2], ""),
        ("something after the end", small + b"{}", ""),
        ("a key twice", small.replace(b'"threads":1', b'"threads":1,"threads":2'), "threads"),
        ("NaN", small.replace(b'"threads":1', b'"threads":NaN'), ""),
        ("infinity", small.replace(b'"threads":1', b'"threads":-Infinity'), ""),
        ("not UTF-8", small.replace(b"huggingface", b"hugging\xff\xfeface"), ""),
        ("a byte order mark", b"\xef\xbb\xbf" + small, ""),
        ("a comment", small[:-1] + b"/* x */}", ""),
        ("a trailing comma", small[:-1] + b",}", ""),
        ("a line break in a string", small.replace(b"huggingface", b"hugging\nface"), ""),
        ("nested deeply", b"[" * 100_000, ""),
        ("an integer with an exponent", small.replace(b'"threads":1', b'"threads":1e0'), "threads"),
        ("a leading zero", small.replace(b'"threads":1', b'"threads":01'), ""),
    ]


def _case(name: str, content: bytes, names: str) -> dict[str, Any]:
    try:
        parse_manifest(content)
    except ManifestVersionError as error:
        expect, message = "newer", str(error)
    except ManifestError as error:
        expect, message = "refused", str(error)
    else:
        expect, message = "ok", names
    assert names in message, f"{name}: {message}"
    return {"name": name, "expect": expect, "names": names} | _bytes(content)


def _bytes(content: bytes) -> dict[str, str]:
    if len(content) > 50_000:  # the one that is only opening brackets
        return {"repeat": content[:1].decode(), "times": str(len(content))}
    try:
        return {"text": content.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}

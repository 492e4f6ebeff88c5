"""Verification passes what is right, and finds what is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from runtimes.artifact import Artifact, sha256_of
from runtimes.errors import FileMismatchError, ReferenceFileError
from runtimes.reference import Expected, compare, judge, load_reference, log_sum_exp
from runtimes.verify import Check, Report, verify

METADATA = {"format": "1", "emulation": "none", "tolerance_kind": "float", "tolerance": "1e-4"}
ALL_CHECKS = [
    "one_shot",
    "chunks_of_1",
    "chunks_of_7",
    "chunks_of_64",
    "chunks_of_70",
    "decode",
    "reset",
    "second_turn",
    "snapshot",
    "longest_context",
    "stock_runner",
]


def seal(directory: Path) -> None:
    """Write the manifest anew for the files as they are now."""
    manifest = json.loads((directory / "manifest.json").read_text())
    for entry in manifest["files"]:
        place = directory / entry["path"]
        entry.update(bytes=place.stat().st_size, sha256=sha256_of(place))
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def copy(onnx_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(onnx_artifact, tmp_path / "copy"))


def outcomes(report: Report) -> dict[str, str]:
    return {check.name: check.outcome for check in report.checks}


def test_a_good_artifact_passes_every_check(artifact: Artifact) -> None:
    seen: list[Check] = []
    report = verify(artifact.path, threads=1, on_check=seen.append)
    assert outcomes(report) == dict.fromkeys(ALL_CHECKS, "passed")
    assert list(report.checks) == seen
    assert report.passed
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["passed"] is True


def test_the_stock_runner_ended_one_turn_by_its_end_token(artifact: Artifact) -> None:
    report = verify(artifact.path, hashes=False, threads=1)
    figures = report.checks[-1].figures
    assert figures["ended_by_eos"][0]
    assert not all(figures["ended_by_eos"])
    assert figures["first_difference"] is None
    assert figures["tokens"] > 20


def test_hashes_come_before_anything_runs(copy: Path) -> None:
    content = bytearray((copy / "model.onnx.data").read_bytes())
    content[0] ^= 1
    (copy / "model.onnx.data").write_bytes(content)
    with pytest.raises(FileMismatchError, match="sha256"):
        verify(copy, on_check=lambda check: pytest.fail(f"{check.name} ran"))


def change_weights(directory: Path, change: Callable[[str, np.ndarray], np.ndarray]) -> None:
    model = onnx.load(directory / "model.onnx")
    for weight in model.graph.initializer:
        value = onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(change(weight.name, value.copy()), weight.name))
    onnx.save_model(model, directory / "model.onnx")
    seal(directory)


def test_a_slightly_wrong_weight_is_found(copy: Path) -> None:
    change_weights(copy, lambda name, value: value * np.float32(1.01) if name == "value.weight" else value)
    report = verify(copy, threads=1, stock=False)
    assert not report.passed
    assert outcomes(report)["one_shot"] == "failed"
    assert "relative max error" in str(report.checks[0].reason)
    assert outcomes(report)["reset"] == "passed"


def test_a_model_that_gives_nan_fails_with_that_reason(copy: Path) -> None:
    change_weights(copy, lambda name, value: value * np.float32(np.nan) if name == "logits.weight" else value)
    report = verify(copy, threads=1, stock=False)
    assert report.checks[0].reason == "some logits are not finite"
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_position_that_is_off_by_one_is_found(copy: Path) -> None:
    def shift(name: str, value: np.ndarray) -> np.ndarray:
        return np.roll(value, 1, axis=0) if name in ("cos", "sin") else value

    change_weights(copy, shift)
    assert not verify(copy, threads=1, stock=False).passed


def test_a_state_that_is_never_read_is_found(copy: Path) -> None:
    """The first token of each call loses its past: right in one shot, wrong in chunks and steps."""
    model = onnx.load(copy / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "LinearAttention":
            zero = onnx.helper.make_node("Sub", [node.input[3]] * 2, ["no_past"])
            node.input[3] = "no_past"
    model.graph.node.insert(0, zero)
    onnx.save_model(model, copy / "model.onnx")
    seal(copy)
    found = outcomes(verify(copy, threads=1, stock=False))
    assert found["chunks_of_1"] == found["decode"] == found["second_turn"] == "failed"


def test_a_wrong_genai_config_is_found_by_the_stock_runner(copy: Path) -> None:
    """With the end of a message as padding, onnxruntime-genai masks that token out of every prompt."""
    config = json.loads((copy / "genai_config.json").read_text())
    config["model"]["pad_token_id"] = config["model"]["eos_token_id"][0]
    (copy / "genai_config.json").write_text(json.dumps(config))
    seal(copy)
    report = verify(copy, threads=1)
    assert outcomes(report)["stock_runner"] == "failed"
    assert "our margin" in str(report.checks[-1].reason)
    assert outcomes(report)["decode"] == "passed"


def change_reference(directory: Path, change: Callable[[dict[str, Any]], None], **metadata: str) -> None:
    place = directory / "reference.safetensors"
    tensors = load_file(place)
    change(tensors)
    save_file(tensors, place, metadata={**METADATA, **metadata})
    seal(directory)


def replace(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name] = value(tensors[name])

    return change


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (replace("prompt.tokens", lambda t: t.astype(np.int32)), {}, "prompt.tokens is int32; expected int64"),
        (replace("prompt.tokens", lambda t: t * 0 - 1), {}, "values outside 0 to"),
        (replace("prompt.top_ids", lambda t: t + 1000), {}, "values outside 0 to"),
        (replace("prompt.full_positions", lambda t: t + 100), {}, "values outside 0 to 69"),
        (replace("prompt.full_logits", lambda t: t[:, 1:].copy()), {}, "has shape"),
        (replace("prompt.lse", lambda t: t * np.float32(np.nan)), {}, "not finite"),
        (replace("long.tokens", lambda t: np.tile(t, 2)), {}, "512 tokens"),
        (lambda tensors: tensors.pop("prompt.lse"), {}, "prompt.lse is missing"),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if "prompt" in name], {}, "no case 'prompt'"),
        (lambda _tensors: None, {"format": "2"}, "format '2'"),
        (lambda _tensors: None, {"tolerance_kind": "rough"}, "tolerance_kind 'rough'"),
        (lambda _tensors: None, {"tolerance": "much"}, "tolerance 'much' is not a number"),
    ],
)
def test_a_bad_reference_is_a_named_error(
    copy: Path, change: Callable[[dict[str, Any]], None], metadata: dict[str, str], message: str
) -> None:
    change_reference(copy, change, **metadata)
    with pytest.raises(ReferenceFileError, match=message):
        load_reference(Artifact.open(copy))


def test_a_reference_that_is_no_safetensors_file_is_named(copy: Path) -> None:
    (copy / "reference.safetensors").write_bytes(b"nothing")
    seal(copy)
    with pytest.raises(ReferenceFileError, match="cannot be read as safetensors"):
        verify(copy)


def test_without_a_long_case_the_context_is_filled_with_the_prompt(copy: Path) -> None:
    change_reference(copy, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("long")])
    report = verify(copy, threads=1, stock=False)
    check = next(check for check in report.checks if check.name == "longest_context")
    assert (check.outcome, check.figures) == ("passed", {"tokens": 256})


def test_a_wrong_context_length_fails_the_longest_context(copy: Path) -> None:
    """The rotary table has 256 rows; the manifest promises 300."""
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["context_length"] = 300
    for tensor in manifest["state"]:
        if tensor["token_axis"] is not None:
            tensor["shape"][2] = 300
            tensor["bytes"] = int(np.prod(tensor["shape"])) * 4
    (copy / "manifest.json").write_text(json.dumps(manifest))
    change_reference(copy, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("long")])
    found = {check.name: check for check in verify(copy, threads=1, stock=False).checks}
    assert found["longest_context"].outcome == "failed"
    assert "RuntimeFailedError" in str(found["longest_context"].reason)


def expected(logits: np.ndarray, *, best: int | None = None) -> Expected:
    ids = np.argsort(-logits)[:best].astype(np.int64)
    return Expected(ids=ids, logits=logits[ids], log_sum=np.float32(log_sum_exp(logits)))  # type: ignore[arg-type]


def test_divergence_of_equal_logits_is_nothing_but_rounding() -> None:
    logits = np.random.default_rng(0).standard_normal(5000).astype(np.float32) * 8
    assert compare(0, logits, expected(logits)).divergence < 1e-6
    assert compare(0, logits, expected(logits, best=64)).divergence < 1e-5


def test_divergence_over_the_best_tokens_is_near_the_whole_one() -> None:
    random = np.random.default_rng(1)
    wanted = random.standard_normal(5000).astype(np.float32) * 4
    ours = wanted + random.standard_normal(5000).astype(np.float32) * np.float32(0.1)
    whole = compare(0, ours, expected(wanted)).divergence
    assert 0.3 * whole < compare(0, ours, expected(wanted, best=64)).divergence <= whole


def test_a_quantized_artifact_is_judged_by_divergence_and_clear_choices(onnx_artifact: Path) -> None:
    reference = load_reference(Artifact.open(onnx_artifact))
    quantized = type(reference)(cases={}, emulation="", kind="quantized", tolerance=1e-4)
    wanted = np.array([5, 1, 0, 0], np.float32)
    near = compare(3, wanted + np.float32(1e-3), expected(wanted))
    far = compare(4, np.array([1, 5, 0, 0], np.float32), expected(wanted))
    assert judge([near], quantized) is None
    assert "mean KLD" in str(judge([far], quantized))
    assert "relative max error" in str(judge([far], reference))


def test_a_few_positions_may_scatter_where_the_mean_of_all_may_not(onnx_artifact: Path) -> None:
    reference = load_reference(Artifact.open(onnx_artifact))
    wanted = np.array([5, 4.9, 0, 0], np.float32)
    one = compare(3, wanted + np.array([0.05, 0, 0, 0], np.float32), expected(wanted))
    quantized = type(reference)(cases={}, emulation="", kind="quantized", tolerance=one.divergence / 2)
    assert judge([one], quantized) is None
    assert judge([one] * 30, quantized) is None
    assert "mean KLD" in str(judge([one] * 50, quantized))
    assert "mean KLD" in str(judge([one], quantized, sampled=False))

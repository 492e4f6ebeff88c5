"""The whole export on real models: what a bundle holds, that its manifest tells the truth, and when work is skipped."""

import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from export.bundle import Bundle
from export.checkpoint import SINGLE_FILE, Checkpoint
from export.errors import BudgetError, ParityError
from export.manifest import toolchain
from export.pipeline import check_report, export, lower, quantize, read_inputs
from export.plan import make_plan
from export.progress import Silent
from export.spec import ExportSpec
from export.weights import units
from runtimes.artifact import DTYPE_BYTES, Artifact
from runtimes.runner import open_runner
from tests.exports import Listener, exported, small_spec, would_rebuild
from tests.fixtures import TINY

CONTEXT = 256
BACKENDS = ("onnx", "executorch")
TEXT_FILES = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"}
MODEL_FILES = {"onnx": {"model.onnx", "model.onnx.data", "genai_config.json"}, "executorch": {"model.pte"}}


def tiny_spec(out: Path, **changes: Any) -> ExportSpec:
    own: dict[str, Any] = {"scheme": "int4", "method": "rtn", "context_length": CONTEXT, **changes}
    return ExportSpec(target="android", model="tiny", out=out, **own)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Listener]:
    """The tiny trained model, as `make export` makes it, with a shorter context."""
    return exported(tiny_spec(tmp_path_factory.mktemp("tiny") / "bundle"))


@pytest.fixture(scope="module")
def bundle(made: tuple[Bundle, Listener]) -> Bundle:
    return made[0]


@pytest.fixture(scope="module", params=BACKENDS)
def artifact(bundle: Bundle, request: pytest.FixtureRequest) -> Artifact:
    """The artifact of each backend in turn."""
    return bundle.artifacts[request.param]


@pytest.fixture(scope="module")
def small(fixture_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> ExportSpec:
    """A finished small export of a checkpoint that tests may change copies of."""
    root = tmp_path_factory.mktemp("small")
    checkpoint = shutil.copytree(fixture_checkpoint("like_2b"), root / "checkpoint")
    spec = small_spec(root / "bundle", checkpoint)
    export(spec, Silent())
    return spec


@pytest.fixture
def copy(small: ExportSpec, tmp_path: Path) -> ExportSpec:
    """The same export with a checkpoint and a bundle of its own."""
    assert small.checkpoint is not None
    shutil.copytree(small.checkpoint, tmp_path / "checkpoint")
    shutil.copytree(small.out, tmp_path / "bundle")
    return small_spec(tmp_path / "bundle", tmp_path / "checkpoint")


def test_a_bundle_holds_everything_that_must_travel(bundle: Bundle) -> None:
    expected = {"LICENSE", "NOTICE", "README.md", "oracle.json"}
    for backend in BACKENDS:
        inside = TEXT_FILES | MODEL_FILES[backend] | {"manifest.json", "reference.safetensors"}
        expected |= {f"{backend}/{name}" for name in inside}
    assert set(bundle.files) == expected
    assert all((bundle.path / name).stat().st_size == count > 0 for name, count in bundle.files.items())


def test_nothing_of_the_making_is_left_behind(bundle: Bundle) -> None:
    left = {path.relative_to(bundle.path).as_posix() for path in bundle.path.rglob("*") if path.is_file()}
    assert left - set(bundle.files) == {"bundle.json", ".export.lock"}


def test_the_oracle_asks_what_the_artifact_answers(artifact: Artifact, bundle: Bundle) -> None:
    oracle = json.loads((bundle.path / "oracle.json").read_text())["artifacts"][artifact.manifest.backend]
    assert oracle["artifact"] == artifact.manifest.artifact_hash()
    assert oracle["tolerance"]["kind"] == "mean_kld"
    runner, tokens, prompt = open_runner(artifact, 1), oracle["tokens"], oracle["prefill_tokens"]
    asked = [tokens[:prompt], *([token] for token in tokens[prompt:])]
    divergences = []
    for position, part in zip(oracle["positions"], asked, strict=True):
        logits = runner.forward(part)
        assert runner.position == position["position"] + 1
        expected = np.array(position["logits"]) - position["log_sum"]
        ours = logits[position["ids"]] - np.logaddexp.reduce(logits.astype(np.float64))
        assert (np.diff(expected) <= 0).all()
        divergences.append(float((np.exp(expected) * (expected - ours)).sum()))
    assert len(divergences) == 33
    assert abs(np.mean(divergences)) <= 2 * oracle["tolerance"]["value"]


def test_the_index_gives_bytes_by_file_and_in_all(bundle: Bundle) -> None:
    index = json.loads((bundle.path / "bundle.json").read_text())
    assert index["files"] == bundle.files
    assert index["total_bytes"] == sum(bundle.files.values())
    assert index["target"] == "android"
    assert index["bundle"] == "bundle", "the index names no place on this machine"
    assert index["artifacts"] == {name: one.manifest.artifact_hash() for name, one in bundle.artifacts.items()}


def test_the_manifest_tells_what_was_made_from_what(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert (manifest.model, manifest.weights, manifest.scheme, manifest.method) == ("tiny", "trained", "int4", "rtn")
    assert (manifest.source.kind, manifest.source.id) == ("local", "tiny")
    assert manifest.source.sha256 == manifest.inputs.checkpoint_hash == Checkpoint.open(TINY).content_hash()
    assert manifest.context_length == CONTEXT
    generation = json.loads((TINY / "generation_config.json").read_text())
    assert list(manifest.eos_token_ids) == generation["eos_token_id"]
    assert manifest.pad_token_id == generation["pad_token_id"]
    assert manifest.vocab_size == json.loads((TINY / "config.json").read_text())["text_config"]["vocab_size"]


def test_the_manifest_tells_with_which_tools(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert manifest.runtime.name == {"onnx": "onnxruntime", "executorch": "executorch"}[manifest.backend]
    assert manifest.runtime.version == version(manifest.runtime.name)
    assert tuple(map(int, manifest.runtime.oldest_version.split("."))) <= tuple(
        map(int, manifest.runtime.version.split(".")[:3])
    )
    assert manifest.toolchain == toolchain()
    assert manifest.toolchain["torch"] == version("torch")


def test_the_manifest_counts_the_state_as_it_is(artifact: Artifact) -> None:
    """Four layers: three of Gated DeltaNet with a convolution and a recurrent state, one of attention with a cache."""
    kinds = sorted(tensor.kind for tensor in artifact.manifest.state)
    assert kinds == sorted(["conv", "recurrent"] * 3 + ["key", "value"])
    for tensor in artifact.manifest.state:
        assert tensor.bytes == prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]
        if tensor.kind in ("key", "value"):
            assert tensor.token_axis is not None
            assert tensor.shape[tensor.token_axis] == CONTEXT


def test_the_manifest_lists_every_file_by_its_hash(artifact: Artifact) -> None:
    inside = {path.name for path in artifact.path.iterdir()} - {"manifest.json"}
    assert {entry.path for entry in artifact.manifest.files} == inside
    artifact.check_hashes()


def test_bytes_read_a_token_are_the_weights_and_the_state_of_fixed_size(bundle: Bundle, artifact: Artifact) -> None:
    manifest = artifact.manifest
    plan = make_plan(tiny_spec(bundle.path))
    build = next(build for build in plan.builds if build.backend == manifest.backend)
    weights = sum(build.module.PACKING.unit_bytes(unit, build.layout[unit.name]) for unit in units(plan.config))
    fixed = sum(tensor.bytes for tensor in manifest.state if tensor.token_axis is None)
    assert manifest.bytes_read_per_decoded_token - 2 * fixed == pytest.approx(weights, rel=0.03)


def test_the_manifest_holds_the_figures_of_the_verification(artifact: Artifact) -> None:
    parity = artifact.manifest.measured.parity
    assert parity is not None
    assert parity["passed"] is True
    outcomes = {check["name"]: check["outcome"] for check in parity["checks"]}
    assert {"one_shot", "chunks_of_1", "chunks_of_128", "decode", "reset", "second_turn", "longest_context"} < set(
        outcomes
    )
    assert set(outcomes.values()) == {"passed"}
    everything = next(check["figures"] for check in parity["checks"] if check["name"] == "all_positions")
    assert everything["positions"] > 200
    assert 0 <= everything["mean_kld"] <= 1e-4
    assert artifact.manifest.measured.quality is None, "nobody measured it"


def test_the_card_says_what_this_is_and_how_it_was_checked(bundle: Bundle) -> None:
    card = (bundle.path / "README.md").read_text()
    assert card.startswith("# tiny, int4, for android")
    for artifact in bundle.artifacts.values():
        assert f"| {artifact.manifest.backend} | {artifact.manifest.runtime.name} |" in card
    assert "random" not in card
    assert "Apache-2.0" in card


def test_stages_report_layers_and_bytes_up_to_their_totals(made: tuple[Bundle, Listener]) -> None:
    listener = made[1]
    names = [name for name, _, _ in listener.stages]
    assert names == ["checkpoint", *(f"{backend}: {stage}" for backend, stage in STAGES)]
    for name, total, _ in listener.stages:
        if "quantize" in name or "record" in name or name == "checkpoint":
            assert sum(count for _, count in listener.steps[name]) == total, name
    assert [step for step, _ in listener.steps["onnx: quantize (int4, rtn)"]] == [
        *(f"layers.{layer}" for layer in range(4)), "embed_tokens", "norm",
    ]  # fmt: skip


STAGES = [
    (backend, stage)
    for backend, runtime in (("onnx", "onnxruntime"), ("executorch", "executorch"))
    for stage in ("quantize (int4, rtn)", "lower", "record reference", f"verify in {runtime}")
]


def test_model_files_are_byte_equal_for_equal_inputs(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything again, from quantization on, in another place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan = make_plan(tiny_spec(tmp_path / "elsewhere"))
    inputs = read_inputs(plan, Silent())
    (tmp_path / "elsewhere").mkdir()
    for build in plan.builds:
        into = tmp_path / "elsewhere" / build.backend
        into.mkdir()
        lower(inputs, build, quantize(inputs, build, Silent()), into, Silent())
        for name in MODEL_FILES[build.backend] | TEXT_FILES:
            assert (into / name).read_bytes() == (bundle.path / build.backend / name).read_bytes(), name


def test_a_second_export_does_nothing_and_says_so(bundle: Bundle) -> None:
    files = [path for name in BACKENDS for path in (bundle.path / name).iterdir()]
    before = {path: path.stat().st_mtime_ns for path in files}
    again, listener = exported(tiny_spec(bundle.path))
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert [note for note in listener.notes if "up to date" in note] == [
        f"{name}: up to date in {bundle.path / name}" for name in BACKENDS
    ]
    assert again == bundle


def test_the_name_of_the_checkpoints_directory_does_not_matter(small: ExportSpec, tmp_path: Path) -> None:
    assert small.checkpoint is not None
    moved = shutil.copytree(small.checkpoint, tmp_path / "moved")
    assert not would_rebuild(small_spec(small.out, moved))


@pytest.mark.parametrize(
    "changes",
    [
        {"context_length": 128},
        {"scheme": "int8"},
        {"method": "mse"},
        {"group_size": 64},
        {"backends": ("onnx-portable",)},
    ],
    ids=str,
)
def test_another_spec_is_built_anew(small: ExportSpec, changes: dict[str, Any]) -> None:
    assert small.checkpoint is not None
    assert would_rebuild(small_spec(small.out, Path(small.checkpoint), **changes))


def _other_template(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}")


def _other_end_tokens(directory: Path) -> None:
    generation = json.loads((directory / "generation_config.json").read_text())
    (directory / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": 5}))


def _other_tokenizer(directory: Path) -> None:
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))


def _other_weights(directory: Path) -> None:
    tensors = load_file(directory / SINGLE_FILE)
    tensors["model.language_model.norm.weight"][0] += 1
    save_file(tensors, directory / SINGLE_FILE)


@pytest.mark.parametrize("change", [_other_template, _other_end_tokens, _other_tokenizer, _other_weights])
def test_another_checkpoint_is_built_anew(copy: ExportSpec, change: Callable[[Path], None]) -> None:
    assert copy.checkpoint is not None
    assert not would_rebuild(copy)
    change(Path(copy.checkpoint))
    assert would_rebuild(copy)


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, _halve, _flip])
@pytest.mark.parametrize("name", ["model.onnx.data", "tokenizer.json", "manifest.json"])
def test_a_damaged_artifact_is_built_anew(copy: ExportSpec, damage: Callable[[Path], None], name: str) -> None:
    damage(copy.out / "onnx" / name)
    assert would_rebuild(copy)


def test_a_rebuilt_artifact_takes_the_damaged_ones_place(copy: ExportSpec) -> None:
    _flip(copy.out / "onnx" / "model.onnx.data")
    bundle, _ = exported(copy)
    bundle.artifacts["onnx"].check_hashes()
    assert sorted(path.name for path in copy.out.iterdir()) == [
        ".export.lock", "LICENSE", "NOTICE", "README.md", "bundle.json", "onnx", "oracle.json",
    ]  # fmt: skip


def test_an_artifact_that_no_longer_belongs_is_named_and_left(bundle: Bundle, tmp_path: Path) -> None:
    out = shutil.copytree(bundle.path, tmp_path / "bundle")
    fewer, listener = exported(tiny_spec(out, backends=("onnx",)))
    assert [note for note in listener.notes if "not part of this bundle" in note and str(out / "executorch") in note]
    assert not [name for name in fewer.files if name.startswith("executorch/")]
    assert (out / "executorch" / "manifest.json").exists()


def test_a_fine_tunes_own_licence_goes_along(copy: ExportSpec) -> None:
    assert copy.checkpoint is not None
    (Path(copy.checkpoint) / "LICENSE.md").write_text("for friends only")
    bundle, _ = exported(copy)
    assert (bundle.path / "CHECKPOINT_LICENSE.md").read_text() == "for friends only"
    assert "CHECKPOINT_LICENSE.md" in bundle.files


def test_a_small_budget_fails_before_any_file_with_the_best_scheme_that_fits(tmp_path: Path) -> None:
    plan = make_plan(tiny_spec(tmp_path / "out", scheme="int8"))
    spec = tiny_spec(tmp_path / "out", scheme="float", budget_bytes=plan.total_bytes + 1)
    with pytest.raises(
        BudgetError, match=r"tiny as float for onnx, executorch takes about \d+ .*; --scheme int8 would fit"
    ):
        export(spec, Silent())
    assert not (tmp_path / "out").exists()


def test_a_budget_that_is_enough_passes_and_the_estimate_is_near(bundle: Bundle) -> None:
    plan = make_plan(tiny_spec(bundle.path))
    assert bundle.total_bytes < plan.total_bytes < 1.25 * bundle.total_bytes
    exported(tiny_spec(bundle.path, budget_bytes=plan.total_bytes))


def test_a_bundle_that_turns_out_larger_than_the_budget_is_an_error(copy: ExportSpec) -> None:
    """What travels beside the weights is only estimated before: here a licence of a megabyte."""
    assert copy.checkpoint is not None
    (Path(copy.checkpoint) / "LICENSE").write_bytes(b"x" * 1_000_000)
    budget = make_plan(copy).total_bytes
    with pytest.raises(
        BudgetError, match=rf"the bundle takes \d+ bytes, --budget is {budget}; the artifacts are sealed"
    ):
        export(small_spec(copy.out, Path(copy.checkpoint), budget_bytes=budget), Silent())


def test_a_base_checkpoint_without_a_chat_template_is_exported(
    fixture_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle, _ = exported(small_spec(tmp_path / "bundle", fixture_checkpoint("base_fp16")))
    manifest = bundle.artifacts["onnx"].manifest
    assert manifest.model == "custom"
    assert manifest.chat_template_file is None
    assert len(manifest.eos_token_ids) == 1
    assert "onnx/chat_template.jinja" not in bundle.files


def test_random_weights_are_marked_in_manifest_and_card(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path / "bundle", checkpoint="random", backends=("onnx",), context_length=64)
    bundle, _ = exported(spec)
    manifest = bundle.artifacts["onnx"].manifest
    assert (manifest.model, manifest.weights, manifest.source.kind) == ("tiny", "random", "random")
    assert manifest.source.sha256 == manifest.inputs.checkpoint_hash
    assert (
        "**The weights are random: this bundle is for measuring speed and memory only."
        in (bundle.path / "README.md").read_text()
    )


def test_both_backends_read_one_quantized_checkpoint(bundle: Bundle) -> None:
    plan = make_plan(tiny_spec(bundle.path))
    inputs = read_inputs(plan, Silent())
    first, second = (quantize(inputs, build, Silent()).path for build in plan.builds)
    assert first == second


def test_a_check_that_did_not_run_seals_nothing(bundle: Bundle) -> None:
    parity = bundle.artifacts["onnx"].manifest.measured.parity
    assert parity is not None
    build = make_plan(tiny_spec(bundle.path)).builds[0]

    def with_outcome(name: str, outcome: str, **figures: Any) -> dict[str, Any]:
        checks = [{**check, "outcome": outcome, "reason": "no kernel", "figures": figures} if check["name"] == name
                  else check for check in parity["checks"]]  # fmt: skip
        return {**parity, "checks": checks}

    check_report(with_outcome("stock_runner", "skipped"), bundle.path, build)
    check_report(with_outcome("decode", "skipped", too_slow=True), bundle.path, build)
    with pytest.raises(ParityError, match=r"could not be verified \(decode: no kernel\); nothing was sealed, make the"):
        check_report(with_outcome("decode", "skipped"), bundle.path, build)
    with pytest.raises(ParityError, match=r"disagrees .* in 1 of \d+ checks \(decode: no kernel\); nothing was sealed"):
        check_report(with_outcome("decode", "failed"), bundle.path, build)
    with pytest.raises(ParityError, match=r"could not be verified \(no check at all\)"):
        check_report({**parity, "checks": []}, bundle.path, build)

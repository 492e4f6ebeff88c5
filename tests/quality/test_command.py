"""`python -m export quality` from the command line to table, page, JSON and manifest, on real artifacts."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from export import cli
from export.calibration import Calibration, keep_tokens
from export.quality.metrics import Estimate
from export.quality.page import pareto
from export.quality.report import Row
from export.quality.subjects import Reference, stored_layout, unit_bytes, weight_bytes
from export.quality.texts import docstrings
from export.quantized import QuantizedCheckpoint
from export.schemes import FLOAT, INT8_ROW, Format, parse_format
from export.weights import units
from runtimes.artifact import read_manifest
from tests.quality.conftest import TINY

SHORT = ["--tokens", "512", "--prompts", "4"]


def report(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.main(["quality", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_an_artifact_is_measured_eagerly_and_in_its_runtime(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hash_before = read_manifest(artifact).artifact_hash()
    few = ["--tokens", "128", "--prompts", "2"]
    found = report(str(artifact), "--against", "tiny", *few, "--runtime", "--record", capsys=capsys)
    eager, real = found["rows"]
    assert eager["how"] == "eager, int8_group activations"
    assert real["how"].startswith("onnxruntime on ")
    assert real["figures"]["mean_kld"]["value"] == pytest.approx(eager["figures"]["mean_kld"]["value"], rel=0.05)
    assert found["coverage"][eager["name"]][0]["format"] == "int4_g32"
    manifest = read_manifest(artifact)
    assert manifest.artifact_hash() == hash_before
    assert manifest.measured.parity is not None
    assert manifest.measured.quality is not None
    assert [row["how"] for row in manifest.measured.quality["measured"]] == [eager["how"], real["how"]]


@pytest.mark.slow
def test_a_bundle_is_measured_eagerly_and_in_its_runtimes_and_both_agree(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "quality.html"
    hashes = {place: read_manifest(place).artifact_hash() for place in (bundle / "onnx", bundle / "executorch")}
    found = report(
        str(bundle), "--against", "tiny", *SHORT, "--runtime", "--sensitivity", "--html", str(page), "--record",
        capsys=capsys,
    )  # fmt: skip
    rows = {row["how"]: row for row in found["rows"]}
    for eager, runtime in (("int8_group", "onnxruntime"), ("int8_token", "executorch")):
        one = rows[f"eager, {eager} activations"]
        (other,) = (row for how, row in rows.items() if how.startswith(runtime))
        assert one["name"] == other["name"]
        for figure in ("mean_kld", "candidate_nll"):
            assert other["figures"][figure]["value"] == pytest.approx(one["figures"][figure]["value"], rel=0.05)
        assert other["free_text"]["ended_answers"]["value"] == one["free_text"]["ended_answers"]["value"]
        assert one["figures"]["mean_kld"]["value"] > 100 * found["noise_floor"][1]["figures"]["mean_kld"]["value"]
        assert len(one["sensitivity"]) == len(one["drift_by_layer"]) + 2
        assert sum(bin["tokens"] for bin in one["by_position"]) == found["text"]["tokens"]
    assert found["coverage"][rows["eager, int8_token activations"]["name"]][0]["format"] == "int4_g32"
    check_page(page, found)
    for place, before in hashes.items():
        manifest = read_manifest(place)
        assert manifest.artifact_hash() == before
        assert manifest.measured.quality is not None
        assert manifest.measured.quality["text"]["sha256"] == found["text"]["sha256"]
        assert len(manifest.measured.quality["measured"]) == 2


def test_the_page_stands_alone_and_shows_what_the_json_says(
    int4: QuantizedCheckpoint, int8: QuantizedCheckpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "quality.html"
    paths = [str(int4.path), str(int8.path)]
    few = ["--tokens", "128", "--prompts", "2"]
    found = report(*paths, "--against", "tiny", *few, "--sensitivity", "--html", str(page), capsys=capsys)
    check_page(page, found)


def check_page(page: Path, found: dict[str, Any]) -> None:
    """The page stands alone and shows what the JSON says."""
    text = page.read_text()
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)=["\']?http', text)
    assert text.count("Plotly.newPlot(") == 5
    assert f"{found['rows'][0]['figures']['mean_kld']['value']:.3g}±" in text
    assert "layers.3.mlp.down_proj" in text


def test_the_table_says_everything_in_eighty_columns(
    int4: QuantizedCheckpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["quality", str(int4.path), "--against", "tiny", *SHORT]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert re.search(r"^ *3 .*eager, weights only", shown, re.MULTILINE)
    assert "top-1" in shown
    assert "flips" in shown
    assert "intervals from fewer than 20 are rough" in shown


def test_text_that_was_calibrated_on_is_told(
    artifact: Path, reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out, other = TINY / "held_out.txt", tmp_path / "other.txt"
    other.write_text(docstrings(20_000))
    learned = Calibration(kind="file", tokens=torch.tensor([reference.text.encode(held_out.read_text())]))
    keep_tokens(learned)
    out = Path(shutil.copytree(artifact, tmp_path / "calibrated"))
    manifest = read_manifest(out)
    inputs = replace(manifest.inputs, calibration=learned.to_dict())
    (out / "manifest.json").write_text(replace(manifest, inputs=inputs).to_json())
    found = report(str(out), "--against", "tiny", "--tokens", "128", "--prompts", "0", capsys=capsys)
    assert list(found["calibration_overlap"].values()) == [1.0]
    assert any("its figures flatter it, give another --text" in warning for warning in found["warnings"])
    texts = ["--text", str(held_out), "--text", str(other)]
    found = report(str(out), "--against", "tiny", "--tokens", "4096", "--prompts", "0", *texts, capsys=capsys)
    assert 0 < next(iter(found["calibration_overlap"].values())) < 1
    (row,) = found["rows"]
    assert list(row["by_text"]) == ["held_out.txt", "other.txt"]
    counts = [figures["mean_kld"]["value"] for figures in row["by_text"].values()]
    assert min(counts) < row["figures"]["mean_kld"]["value"] < max(counts)
    unreadable = [warning for warning in found["warnings"] if "cannot read other.txt" in warning]
    assert len(unreadable) == 1


def test_a_checkpoint_against_itself_lost_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(str(TINY), "--against", str(TINY), "--tokens", "512", "--prompts", "0", capsys=capsys)
    (row,) = found["rows"]
    assert row["figures"]["mean_kld"]["value"] < 1e-12
    assert row["own_answers"] == {}
    assert found["reference_free_text"] == {}


def test_an_artifact_whose_codes_are_gone_says_so_and_still_runs(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.main(["quality", str(artifact), "--against", "tiny", *SHORT]) == 1
    assert "not in the cache any more; add --runtime" in capsys.readouterr().err
    few = ["--tokens", "128", "--prompts", "0"]
    found = report(str(artifact), "--against", "tiny", *few, "--runtime", capsys=capsys)
    assert [row["how"].split()[0] for row in found["rows"]] == ["onnxruntime"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--against", "tiny"], "nowhere: no such directory"),
        (["{tmp}", "--against", "tiny"], "holds no manifest.json"),
        ([str(TINY), "--against", "huge"], "--against huge: neither a checkpoint directory nor a model"),
        ([str(TINY), "--against", "tiny", "--tokens", "5"], "--tokens 5 is too few"),
        ([str(TINY), "--against", "tiny", "--prompts", "99"], "--prompts 99 is out of range"),
        ([str(TINY), "--against", "tiny", "--activations", "int3"], "--activations 'int3' is unknown"),
        ([str(TINY), "--against", "tiny", "--text", "gone.txt"], "--text gone.txt: no such file"),
        ([str(TINY), "--against", "tiny", "--html", "no/such/place.html"], "its directory does not exist"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["quality", *(one.replace("{tmp}", str(tmp_path)) for one in arguments)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("error: ") == 1
    assert "Traceback" not in error


def test_a_checkpoint_of_another_shape_is_refused(fixture_checkpoint: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quality", str(fixture_checkpoint("like_2b")), "--against", "tiny", *SHORT]) == 1
    assert "compare two checkpoints of one model" in capsys.readouterr().err


def test_formats_are_read_back_from_the_files(int4: QuantizedCheckpoint, int8: QuantizedCheckpoint) -> None:
    assert stored_layout(int4.path, int4.config) == int4.layout
    assert stored_layout(int8.path, int8.config) == int8.layout


@pytest.mark.parametrize("form", [FLOAT, INT8_ROW, Format(bits=4, group_size=32), Format(bits=8, group_size=128)])
def test_a_format_is_what_it_prints(form: Format) -> None:
    assert parse_format(str(form)) == form


def test_weights_of_a_token_are_all_matrices_once(reference: Reference, int4: QuantizedCheckpoint) -> None:
    matrices = sum(
        unit_bytes(unit.out_features, unit.in_features, int4.layout[unit.name]) for unit in units(reference.config)
    )
    rest = weight_bytes(int4.layout, reference.config) - matrices
    assert 0 < rest < matrices / 20  # norms, convolutions, decays


def test_the_front_is_what_nothing_beats() -> None:
    def row(name: str, size: int | None, kld: float) -> Row:
        return Row(name=name, path="", how="", bytes_per_token=size, figures={"mean_kld": Estimate(value=kld)})

    rows = [row("b", 20, 0.5), row("a", 10, 1.0), row("worse", 20, 0.9), row("c", 30, 0.1), row("no size", None, 0.0)]
    assert [one.name for one in pareto(rows)] == ["a", "b", "c"]

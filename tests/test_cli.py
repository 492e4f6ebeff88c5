"""The exporter's command line as a user meets it: help, names, plans, exit statuses, JSON, progress at a terminal."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from export import catalog
from export.cli import build_parser, main
from export.sources import model_names
from tests.exports import exported, small_spec

ROOT = Path(__file__).parent.parent
EXPORT = [sys.executable, "-m", "export"]
PLAN = ["--target", "android", "--model", "tiny", "--plan"]


@pytest.fixture(scope="module")
def finished(fixture_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a small export that is done already; the directory's name holds what rich takes for markup."""
    root = tmp_path_factory.mktemp("done")
    checkpoint, out = fixture_checkpoint("like_2b"), root / "a [bold]bundle[/bold]"
    exported(small_spec(out, checkpoint))
    where = ["--checkpoint", str(checkpoint), "--out", str(out)]
    how = ["--scheme", "int4", "--method", "rtn", "--context-length", "64"]
    return ["--target", "android", "--backend", "onnx", *how, *where]


def test_help_shows_examples_that_the_parser_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    examples = re.findall(r"python -m export (--target .*)", shown.partition("examples:")[2])
    assert len(examples) >= 5
    for example in examples:
        assert build_parser().parse_args(example.split()).target == "android"
    assert all(len(line) <= 100 for line in shown.splitlines())


def test_help_names_everything_that_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    kinds = ("targets", "schemes", "quantize", "backends")
    for name in [*model_names(), *(name for kind in kinds for name in catalog.names(kind))]:
        assert name in shown


def test_a_missing_target_is_wrong_usage_and_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--model", "tiny"])
    assert left.value.code == 2
    assert capsys.readouterr().err.endswith("error: --target is missing; known: android, ios\n")


@pytest.mark.parametrize(
    "arguments", [["--no-such-option"], ["--context-length", "long"], ["--group-size", "3.5"], ["--target"], ["stray"]]
)
def test_wrong_usage_is_status_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--target", "android", *arguments])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m export")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "windows"], "unknown target 'windows'; known: android"),
        (["--scheme", "int3"], f"unknown scheme 'int3'; known: {', '.join(catalog.names('schemes'))}"),
        (["--method", "magic"], f"unknown method 'magic'; known: {', '.join(catalog.names('quantize'))}"),
        (["--backend", "tflite"], f"unknown backend 'tflite'; known: {', '.join(catalog.names('backends'))}"),
        (["--model", "gpt-2"], "unknown model 'gpt-2'; known: qwen3.5-0.8b"),
        (["--source", "ftp"], "unknown source 'ftp'; known: huggingface, modelscope"),
        (["--budget", ""], "--budget '' is not a size"),
        (["--out", ""], "--out is empty; leave it out, or name a directory (an unset shell variable?)"),
        (["--checkpoint", ""], "--checkpoint is empty; leave it out"),
    ],
)
def test_a_named_error_is_one_line_on_stderr_and_status_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PLAN, *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {message}")
    assert shown.err.count("\n") == 1


def test_an_error_is_json_too_where_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--scheme", "int3", "--json"]) == 1
    known = ", ".join(catalog.names("schemes"))
    assert json.loads(capsys.readouterr().out) == {"error": f"unknown scheme 'int3'; known: {known}"}


def test_listing_names_everything_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert "\n  int4             4-bit weights in groups of 32" in shown
    assert "\n  tiny             trained, in the repository" in shown
    assert "Qwen/Qwen3.5-0.8B at 2fc06364715b967f1860aea9cf38778875588b17" in shown
    assert main(["--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == {"targets", "schemes", "quantize", "backends", "models", "sources"}
    assert all(listed[kind][name] for kind in ("targets", "schemes", "backends") for name in listed[kind])


def test_a_plan_says_what_would_be_made_and_how_large(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--scheme", "int8"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("tiny for android: scheme int8, method rtn, 4096 tokens\n")
    assert re.search(r"\n  onnx: [\d,]+ bytes of weights, matrices: 26 x int8_row, 6 x float\n", shown)
    assert re.search(r"\nabout [\d,]+ bytes in all, in build/tiny-android-int8\n$", shown)
    assert main([*PLAN, "--json", "--backend", "onnx"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [build["backend"] for build in planned["builds"]] == ["onnx"]
    assert planned["builds"][0]["formats"] == {"int8_g32": 1, "int4_g64": 25, "float": 6}
    assert planned["total_bytes"] > planned["builds"][0]["model_bytes"] > 1_000_000


@pytest.mark.parametrize("arguments", [PLAN, ["--list"], [*PLAN, "--checkpoint", "random"]])
def test_planning_and_listing_touch_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(arguments) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "qwen3.5-0.8b-android-mixed"),
        (["--model", "qwen3.5-4b", "--scheme", "int8"], "qwen3.5-4b-android-int8"),
        (["--model", "Qwen/Qwen3.5-2B"], "qwen3.5-2b-android-mixed"),
        (["--model", "qwen3.5-4b", "--checkpoint", "random"], "qwen3.5-4b-random-android-mixed"),
        (["--checkpoint", "random"], "qwen3.5-0.8b-random-android-mixed"),
        (["--checkpoint", "HERE/my-finetune/"], "my-finetune-android-mixed"),
    ],
)
def test_the_default_directory_says_what_is_in_it(
    arguments: list[str],
    name: str,
    fixture_checkpoint: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(fixture_checkpoint("like_2b"), tmp_path / "my-finetune")
    placed = [argument.replace("HERE", str(tmp_path)) for argument in arguments]
    assert main(["--target", "android", "--plan", "--json", *placed]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == f"build/{name}"


def test_a_finished_export_says_so_and_what_is_there(finished: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(finished) == 0
    shown = capsys.readouterr()
    assert "onnx: up to date in " in shown.err
    assert "onnx/model.onnx.data" in shown.out
    assert re.search(
        r"\nonnx: \d+ checks passed, skipped: stock_runner \(.*\)\n  hear it: python -m runtimes chat", shown.out
    )
    assert "a [bold]bundle[/bold]" in shown.err, "a path was taken for markup"
    assert "a [bold]bundle[/bold]: " in shown.out
    assert "a [bold]bundle[/bold]/onnx'\n" in shown.out, "a command to paste quotes its path"


def test_json_is_all_that_stdout_holds(finished: list[str]) -> None:
    done = subprocess.run([*EXPORT, *finished, "--json"], capture_output=True, text=True, cwd=ROOT, check=True)
    (line,) = done.stdout.splitlines()
    bundle = json.loads(line)
    assert bundle["total_bytes"] == sum(bundle["files"].values())
    assert set(bundle["artifacts"]) == {"onnx"}
    assert "up to date" in done.stderr


def test_a_reader_that_leaves_early_causes_no_traceback(finished: list[str]) -> None:
    command = [*EXPORT, *finished]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


BARS = """
import time
from export.cli import Bars
with Bars(quiet=False) as bars:
    bars.stage("onnx: quantize (int4, rtn)", 3_000_000)
    for layer in range(3):
        time.sleep(1.0)
        bars.step(f"layers.{layer}", 1_000_000)
    time.sleep(0.5)
    bars.stage("onnx: record reference", 8, "layer")
    bars.step("layer 1 of 4", 1)
    time.sleep(0.5)
"""


def test_a_terminal_shows_layer_bytes_and_time_left() -> None:
    shown = _at_a_terminal([sys.executable, "-c", BARS])
    assert re.search(r"layers\.1 · onnx: quantize \(in.* 2\.0 MB of 3\.0 MB +0:00:0\d left", shown)
    assert re.search(r"layer 1 of 4 .* 1 layer of 8 ", shown)
    assert re.search(r"onnx: quantize \(int4, rtn\): 3\.\d s", shown)


def _at_a_terminal(command: list[str]) -> str:
    """What a command shows on a terminal of 80 columns, control sequences left out."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(command, stdout=follower, stderr=follower, cwd=ROOT, env=environment):
        os.close(follower)
        pieces, until = [], time.monotonic() + 120
        while time.monotonic() < until:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            pieces.append(piece)
    os.close(leader)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(pieces).decode(errors="replace"))


def test_a_first_word_that_is_a_command_runs_it_with_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    for name in catalog.names("commands"):
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: python -m export {name}")
        assert catalog.load("commands", name).SUMMARY in shown
        with pytest.raises(SystemExit) as left:
            main([name, "--no-such-option"])
        assert left.value.code == 2
        assert capsys.readouterr().err.startswith(f"usage: python -m export {name}")

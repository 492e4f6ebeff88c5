"""`optimum-cli export mobile` is found by stock optimum and is the exporter itself."""

import subprocess
import sys
from pathlib import Path

import pytest
from optimum.commands.register.register_mobile import OPTIONS, modality_of, to_argv

from export.cli import build_parser

OPTIMUM = [sys.executable, "-m", "optimum.commands.optimum_cli", "export"]


def optimum(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run optimum's own command from a directory that is not the project's: only the installation can be found."""
    return subprocess.run([*OPTIMUM, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


def test_stock_optimum_lists_the_subcommand(tmp_path: Path) -> None:
    listed = optimum("--help", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "mobile" in listed.stdout


def test_its_help_names_every_option_of_the_exporter(tmp_path: Path) -> None:
    shown = optimum("mobile", "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert all(flag in shown.stdout for flag in OPTIONS)


def test_its_options_are_those_of_the_exporter() -> None:
    ours = {flag for action in build_parser()._actions for flag in action.option_strings} - {"-h", "--help"}
    assert set(OPTIONS) == ours


def test_an_unknown_model_is_the_exporters_named_error(tmp_path: Path) -> None:
    failed = optimum("mobile", "--target", "android", "-m", "Qwen/Qwen2-7B", "--plan", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: unknown model 'Qwen/Qwen2-7B'; known: qwen3.5-0.8b, ")
    assert "Traceback" not in failed.stderr


def test_it_plans_by_hub_id_what_the_exporter_plans_by_name(tmp_path: Path) -> None:
    common = ["--target", "android", "--checkpoint", "random", "--plan", "--json", "--out", "bundle"]
    theirs = optimum("mobile", "-m", "tiny", "--task", "causal-lm", *common, cwd=tmp_path)
    ours = subprocess.run(
        [sys.executable, "-m", "export", "--model", "tiny", "--modality", "text", *common],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert theirs.returncode == ours.returncode == 0, theirs.stderr + ours.stderr
    assert theirs.stdout == ours.stdout != ""


def test_options_are_passed_on_as_they_were_given() -> None:
    given = {"target": "android", "backend": ["onnx", "executorch"], "plan": True, "group_size": "32", "func": print}
    assert to_argv(given) == ["--target", "android", "--group-size", "32", "--backend", "onnx", "--backend",
                              "executorch", "--plan"]  # fmt: skip


def test_tasks_go_by_optimums_synonyms() -> None:
    assert modality_of("causal-lm") == modality_of("text-generation-with-past") == "text"


def test_a_task_that_is_not_built_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        modality_of("token-classification")
    assert (
        "error: task 'token-classification' cannot be exported for phones; known: text-gen" in capsys.readouterr().err
    )

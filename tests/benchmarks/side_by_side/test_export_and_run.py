"""The command line and the choice of subjects."""

from pathlib import Path

import pytest

from benchmarks.errors import MissingPeerError
from benchmarks.side_by_side.export_and_run import chosen_subjects, main, parse_options
from benchmarks.side_by_side.goals import GOALS
from benchmarks.side_by_side.peers import export_llm, genai_builder, llama_cpp, ours
from benchmarks.side_by_side.subjects import Context, Peer

TEXT_CONFIG = {"vocab_size": 1000, "hidden_size": 64}
CONTEXT = Context(
    model="qwen3.5-0.8b",
    checkpoint=Path("checkpoint"),
    text_config=TEXT_CONFIG,
    threads=2,
    context_length=4096,
    llama_python=Path("llama/bin/python"),
)


def all_peers() -> list[Peer]:
    own = [ours.peer(CONTEXT, name, arguments) for name, arguments in ours.DEFAULT_EXPORTS.items()]
    return [*own, *(module.peer(CONTEXT) for module in (genai_builder, export_llm, llama_cpp))]


def test_every_goal_names_subjects_that_exist() -> None:
    known = {subject.name for peer in all_peers() for subject in peer.subjects}
    assert {name for goal in GOALS for name in (goal.ours, goal.peer)} <= known


def test_every_subject_runs_a_build_of_its_peer() -> None:
    for peer in all_peers():
        assert {subject.build for subject in peer.subjects} <= {build.name for build in peer.builds}


def test_subjects_keep_their_order_whatever_the_order_asked_for() -> None:
    options = parse_options(["--subjects", "llama-cpp", "ours-onnx"])
    assert [subject.name for subject in chosen_subjects(options, all_peers())] == ["ours-onnx", "llama-cpp"]


def test_an_unknown_subject_lists_the_known_ones() -> None:
    options = parse_options(["--subjects", "mlx"])
    with pytest.raises(MissingPeerError, match=r"peer 'mlx' can't run: this run has ours-onnx, .*llama-cpp"):
        chosen_subjects(options, all_peers())


def test_an_added_export_of_ours_is_two_more_subjects() -> None:
    peer = ours.peer(CONTEXT, "ours-g128", "--backend onnx --scheme int4 --group-size 128")
    assert [subject.name for subject in peer.subjects] == ["ours-g128", "ours-g128-stock"]
    assert "--group-size" in peer.builds[0].commands[0]


def test_the_embedding_of_export_llm_is_counted_with_its_scales() -> None:
    documented, best = export_llm.peer(CONTEXT).builds
    assert documented.weight_bytes[-1] == str(1000 * 64 // 2 + 1000 * 2 * 4)
    assert best.weight_bytes[-1] == str(1000 * 64 + 1000 * 4)


def test_a_directory_without_a_config_is_a_named_error_and_exit_status_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--checkpoint", str(tmp_path), "--work-dir", str(tmp_path / "work")])
    assert status == 1
    assert "no config.json in it; give the directory of a checkpoint" in capsys.readouterr().err


def test_a_pair_without_an_equals_sign_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_options(["--artifact", "ours-onnx"])
    assert stopped.value.code == 2
    assert "'ours-onnx' is not NAME=VALUE" in capsys.readouterr().err

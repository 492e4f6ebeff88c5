"""Decode in turn: the figures, and the real runner and GenAI on the tiny model."""

import json
from pathlib import Path

import pytest

from benchmarks.side_by_side.decode_in_turn import figures, main
from benchmarks.side_by_side.tiny_quality import TINY
from tests.exports import exported, small_spec


def test_the_speed_is_the_median_of_the_ratios_of_neighbours() -> None:
    # the machine halves its speed after the first turn; the ratio does not notice
    base, other = figures({"base": [10.0, 20.0, 20.0], "other": [8.0, 16.0, 16.0]}, "base")
    assert (base.speed, other.speed) == (1.0, 1.25)
    assert (other.median_ms, other.fastest_ms) == (16.0, 8.0)


def test_our_runner_and_genai_take_turns_on_the_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(small_spec(tmp_path / "bundle", TINY))
    subject = str(tmp_path / "bundle" / "onnx")
    words = ["--base", f"genai={subject}", "--other", f"ours={subject}", "--rounds", "3", "--steps", "2"]
    assert main([*words, "--prompt-tokens", "16", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [len(row["times_ms"]) for row in rows] == [3, 3]
    assert rows[0]["speed"] == 1.0


def test_an_unknown_engine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--base", "llama=x", "--other", "ours=y"])
    assert "ENGINE one of genai, ours" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--base", "genai={empty}", "--other", "ours={empty}"], "genai_config.json: no such file; give the directory"),
        (["--base", "ours={empty}", "--other", "ours={empty}"], "manifest.json: no such file"),
        (["--rounds", "0"], "'0' is not a count; give 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([word.format(empty=tmp_path) for word in words])
    assert said in capsys.readouterr().err

"""The command line prints results on stdout, everything else on stderr, and exits as it should."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtimes.cli import main


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr("sys.stdin", text)
    return text


def generate(directory: Path, *more: str) -> int:
    return main(["generate", str(directory), "--threads", "1", "--max-tokens", "8", *more])


def test_generate_prints_the_text(onnx_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(onnx_artifact, "--prompt", "hello", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert generate(onnx_artifact, "--prompt", "hello") == 0
    assert capsys.readouterr().out == answer["text"] + "\n"
    assert (len(answer["tokens"]), answer["stop"]) == (8, "max_tokens")


def test_raw_leaves_the_prompt_as_it_is(onnx_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for more in ([], ["--raw"], ["--system", "the cat"]):
        assert generate(onnx_artifact, "--prompt", "hello", "--json", *more) == 0
        counts.append(json.loads(capsys.readouterr().out)["prompt_tokens"])
    assert counts[1] < counts[0] < counts[2]


def test_a_prompt_may_come_from_standard_input(
    onnx_artifact: Path, capsys: pytest.CaptureFixture[str], stdin: io.StringIO
) -> None:
    stdin.write("hello")
    stdin.seek(0)
    assert generate(onnx_artifact) == 0
    piped = capsys.readouterr().out
    assert generate(onnx_artifact, "--prompt", "hello") == 0
    assert capsys.readouterr().out == piped


def test_events_are_written_to_a_file(onnx_artifact: Path, tmp_path: Path) -> None:
    place = tmp_path / "events.jsonl"
    assert generate(onnx_artifact, "--prompt", "hello", "--events", str(place)) == 0
    names = [json.loads(line)["event"] for line in place.read_text().splitlines()]
    assert names[:3] == ["load_start", "load_end", "prefill_start"]
    assert names[-1] == "stop"
    assert names.count("token") == 8


def test_chat_answers_each_line_and_knows_its_commands(
    onnx_artifact: Path, capsys: pytest.CaptureFixture[str], stdin: io.StringIO
) -> None:
    stdin.write("hello\n/regen\n/reset\nhello\n/edit hello\n/nonsense\n\n/quit\nnever read\n")
    stdin.seek(0)
    assert main(["chat", str(onnx_artifact), "--threads", "1", "--max-tokens", "5"]) == 0
    captured = capsys.readouterr()
    answers = captured.out.splitlines()
    assert len(set(answers)) == 1
    assert len(answers) == 4
    assert "/regen" in captured.err


def test_regen_with_a_seed_draws_another_answer(
    onnx_artifact: Path, capsys: pytest.CaptureFixture[str], stdin: io.StringIO
) -> None:
    stdin.write("hello\n/regen\n")
    stdin.seek(0)
    command = ["chat", str(onnx_artifact), "--threads", "1", "--max-tokens", "5", "--temperature", "2", "--seed", "3"]
    assert main(command) == 0
    first = capsys.readouterr().out
    stdin.seek(0)
    assert main(command) == 0
    assert capsys.readouterr().out == first
    answers = first.splitlines()
    assert answers[0] != answers[1]


def test_an_error_in_piped_chat_ends_it_with_status_one(
    onnx_artifact: Path, capsys: pytest.CaptureFixture[str], stdin: io.StringIO
) -> None:
    stdin.write("/regen\nhello\n")
    stdin.seek(0)
    assert main(["chat", str(onnx_artifact)]) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: nothing to regenerate: no message was sent yet\n"
    assert captured.out == ""


def test_verify_shows_every_check_and_the_verdict(onnx_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(onnx_artifact), "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert "verified on onnxruntime: 11 passed (float, tolerance 0.0001, 1 threads)" in lines[-1]


def test_verify_as_json_ends_with_the_report(onnx_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(onnx_artifact), "--json", "--no-stock", "--no-hashes", "--threads", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["check"] for line in lines[:-1]] == [check["name"] for check in lines[-1]["report"]["checks"]]
    assert lines[-1]["report"]["passed"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "{}/nowhere", "--prompt", "a"], "no such directory"),
        (["generate", "{}", "--prompt", "a", "--temperature", "-1"], "temperature is -1.0; it must be 0 or more"),
        (["generate", "{}", "--prompt", "a" * 3000], "the prompt has"),
        (["generate", "{}", "--prompt", "a", "--runtime", "executorch"], "runs on 'onnxruntime', not on 'executorch'"),
        (["generate", "{}", "--prompt", "a", "--events", "{}/no/where"], "cannot write events"),
        (["generate", "{}", "--prompt", "a\udcff"], "not valid UTF-8 at character 1"),
        (["generate", "{}", "--prompt", "", "--raw"], "no token to run"),
    ],
)
def test_errors_are_one_line_and_status_one(
    onnx_artifact: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([argument.replace("{}", str(onnx_artifact)) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["generate"], ["chat", "x", "--top-q", "1"], ["verify", "x", "--threads", "0"], ["frobnicate"]]
)
def test_wrong_usage_is_status_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "python -m runtimes verify" in capsys.readouterr().out


def test_a_reader_that_leaves_early_causes_no_traceback(onnx_artifact: Path) -> None:
    command = [sys.executable, "-m", "runtimes", "generate", str(onnx_artifact), "--prompt", "hello"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert error == b""

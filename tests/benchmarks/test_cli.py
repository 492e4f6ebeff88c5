"""The word before the options."""

import pytest

from benchmarks.cli import commands, main


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in commands())


@pytest.mark.parametrize("words", [[], ["no-such-command"]])
def test_an_unknown_command_lists_the_known_ones(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert f"the commands are {', '.join(commands())}" in capsys.readouterr().err


def test_a_command_gets_the_words_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export-and-run", "--help"])
    assert stopped.value.code == 0
    assert "--llama-python" in capsys.readouterr().out

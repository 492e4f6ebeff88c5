"""`python -m benchmarks report` over a real store."""

from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.store import open_store
from tests.benchmarks.report.synthetic import records


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/results.sqlite"
    with open_store(url) as opened:
        for record in records(60):
            opened.append(record)
    return url


def test_the_page_is_written_where_it_is_said(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "new" / "lab.html"
    assert main(["report", "--store", store, "--out", str(place), "--bandwidth", "Galaxy S24=76.8"]) == 0
    assert capsys.readouterr().out == f"{place}\n"
    page = place.read_text()
    assert "Galaxy S24" in page
    assert "bandwidth_share" in page
    assert page.count("<html") == 1


def test_markdown_goes_to_stdout(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--store", store, "--markdown"]) == 0
    assert "| device | format |" in capsys.readouterr().out


def test_a_session_and_a_day_narrow_it(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--store", store, "--markdown", "--session", "none-such"]) == 0
    assert "0 runs" in capsys.readouterr().out
    assert main(["report", "--store", store, "--markdown", "--since", "2099-01-01"]) == 0
    assert "0 runs" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--bandwidth", "Pixel 8"], ["--bandwidth", "Pixel 8=0"], ["--since", "yesterday"]])
def test_a_malformed_option_is_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", *words])
    assert stopped.value.code == 2
    assert "such as" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_a_named_error(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["report", "--store", store, "--out", str(tmp_path / "file" / "lab.html")]) == 1
    assert "error: --out" in capsys.readouterr().err

"""The short report: figures as the records have them, and nothing in a record that GitHub would act on."""

import random

from benchmarks.record import Metric, RunRecord, Validity
from benchmarks.report.content import collect
from benchmarks.report.markdown import escape, markdown
from tests.benchmarks.report.synthetic import END, MACHINES, record, records

HOSTILE = (
    "@octo/team [x](http://e.example) ![i](http://e.example/p.png) | <img src=x onerror=alert(1)> `#12` "
    "https://e.example www.e.example"
)


def run(value: float, *, valid: bool = True, seed: int = 3) -> RunRecord:
    made = record(MACHINES[2], ("onnx", "int4"), END, random.Random(seed), night=0, traced=False)
    case = made.cases[1].model_copy(update={"metrics": {"decode_tok_s": Metric(value=value)}})
    validity = Validity(valid=valid, violations=() if valid else (HOSTILE,))
    return made.model_copy(update={"cases": (case,), "validity": validity})


def test_a_figure_is_the_median_of_the_last_five_valid_runs() -> None:
    values = [100.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    text = markdown(collect([*(run(value) for value in values), run(77.0, valid=False)]))
    row = next(line for line in text.splitlines() if line.startswith("| Galaxy"))
    assert "| 3 |" in row
    assert "77" not in row
    assert row.endswith("| 6 of 7 |")


def table_of(text: str, case: str) -> list[str]:
    return [line for line in text.partition(f"### {case}\n")[2].partition("###")[0].splitlines() if "|" in line]


def test_each_figure_is_quoted_from_the_pass_that_measured_it() -> None:
    made = record(MACHINES[2], ("onnx", "int4"), END, random.Random(3), night=0, traced=False)
    assert all(case.metrics["decode_tok_s"].value is not None for case in made.cases), "so that leaving out is seen"
    text = markdown(collect([made]))
    speeds, memory, loads = table_of(text, "warm-512"), table_of(text, "memory-512"), table_of(text, "cold-512")
    assert "decode, tokens/s" in speeds[0]
    assert "PSS" not in speeds[0]
    assert "peak PSS, MB" in memory[0]
    assert not [word for word in ("tokens/s", "ms", "mJ") if word in memory[0]]
    assert "load cold, ms" in loads[0]
    assert not [word for word in ("tokens/s", "first token", "MB", "mJ") if word in loads[0]]


def test_what_is_predicted_stands_apart_and_says_so() -> None:
    made = record(MACHINES[0], ("onnx", "int4"), END, random.Random(3), night=0, traced=False)
    assert not any(case.energy for case in made.cases)
    text = markdown(collect([made]))
    assert table_of(text, "Predicted energy, not measured")[2:] == [
        "| qwen3.5-0.8b onnx int4 | sustained-512 | 43 | 475 | 1000 |",
        "| qwen3.5-0.8b onnx int4 | warm-512 | 43 | 475 | 1000 |",
    ]
    assert "mJ" not in text.partition("### Predicted")[0]


def test_nothing_in_a_record_is_markup() -> None:
    text = markdown(collect([run(1.0, valid=False)]))
    told = next(line for line in text.splitlines() if "octo" in line)
    # a character reference renders as the character and means nothing else
    for active in ("@", "[", "](", "![", "<", "`", "https:", "www.", " | "):
        assert active not in told, active
    assert "octo" in told


def test_escaped_text_has_one_line() -> None:
    assert escape("a\nb\t c") == "a b c"


def test_the_report_of_many_runs_fits_a_comment() -> None:
    text = markdown(collect(records(2000)))
    assert "These records were generated" in text
    assert "Ran on another backend than asked for" in text
    assert "Did not run to its end" in text
    assert "virtual phone" not in text.partition("### Did not run")[0]
    assert len(text) < 65_536  # GitHub's limit
    heads = [line for line in text.splitlines() if line.startswith("| device")]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert heads
    assert all(
        row.count(" | ") == heads[0].count(" | ")
        for row in rows
        if "Galaxy" in row and row.count("|") == heads[0].count("|")
    )


def test_an_empty_store_says_so() -> None:
    assert "0 runs on 0 devices" in markdown(collect([]))

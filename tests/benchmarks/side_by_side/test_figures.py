"""From samples to figures, goals and reports."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from benchmarks.roofline import bandwidth_share, state_bytes_read
from benchmarks.side_by_side.figures import SubjectFigures, check_goal, export_figures, run_figures
from benchmarks.side_by_side.goals import GOALS, Goal, is_met
from benchmarks.side_by_side.plot import bars_svg
from benchmarks.side_by_side.report import Report, as_json, as_markdown
from benchmarks.statistics import spread

SAMPLE = {
    "imports_rss_bytes": 100,
    "load_s": 2.0,
    "prefill_s": {"128": 0.5, "512": 4.0},
    "decode_s": 2.0,
    "decode_steps": 64,
    "peak_rss_bytes": 900,
    "rss_anon_bytes": 400,
    "rss_file_bytes": 300,
}
LIKE_08B = {
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 6,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_key_value_heads": 2,
    "head_dim": 256,
}


def subject(name: str, **values: list[float]) -> SubjectFigures:
    return SubjectFigures(name=name, label=f"<{name}>", values=values)


def report_of(*subjects: SubjectFigures) -> Report:
    found = {one.name: one for one in subjects}
    goals = [check_goal(goal, found) for goal in GOALS]
    return Report(
        machine={"cores": 2},
        settings={"model": "tiny"},
        bandwidth=spread([19e9]),
        subjects=subjects,
        goals=tuple(goal for goal in goals if goal is not None),
        left_out={"llama_cpp": "no llama_cpp"},
    )


def test_rates_are_tokens_over_the_time_of_their_own_phase() -> None:
    figures = run_figures([SAMPLE], bytes_per_token=10.0, bandwidths=[1000.0])
    assert figures["prefill_128_tokens_per_s"] == [256.0]
    assert figures["prefill_512_tokens_per_s"] == [128.0]
    assert figures["decode_tokens_per_s"] == [32.0]
    assert figures["bandwidth_share"] == [0.32]
    assert figures["net_peak_rss_bytes"] == [800]


def test_verification_is_timed_apart_from_the_export() -> None:
    record = {"wall_s": 50.0, "verification_s": 20.0, "cpu_s": 60.0, "peak_rss_bytes": 7, "file_bytes": 5}
    figures = export_figures([record])
    assert figures["export_wall_s"] == [30.0]
    assert figures["verification_s"] == [20.0]


def test_an_artifact_that_was_given_has_a_size_but_no_export_cost() -> None:
    figures = export_figures([{"wall_s": None, "verification_s": None, "file_bytes": 5}])
    assert figures == {"file_bytes": [5]}


def test_the_state_of_08b_is_19_megabytes_before_any_key_or_value() -> None:
    assert state_bytes_read(LIKE_08B, 0) == 18 * (16 * 128 * 128 + 6144 * 3) * 4
    assert state_bytes_read(LIKE_08B, 100) - state_bytes_read(LIKE_08B, 0) == 100 * 6 * 2 * 2 * 256 * 4


def test_a_token_that_reads_half_the_bandwidth_uses_half_of_it() -> None:
    assert bandwidth_share(500e6, 19.0, 19e9) == 0.5


def test_a_goal_counts_in_its_own_direction() -> None:
    faster = Goal(ours="a", peer="b", metric="decode_tokens_per_s", at_least=1.05)
    smaller = replace(faster, metric="file_bytes", at_least=None, at_most=0.88)
    assert is_met(faster, 1.05)
    assert not is_met(faster, 1.04)
    assert is_met(smaller, 0.88)
    assert not is_met(smaller, 0.89)


def test_a_goal_with_one_side_unmeasured_is_not_judged() -> None:
    goal = Goal(ours="ours-onnx", peer="genai-best", metric="file_bytes", at_most=0.88)
    ours = subject("ours-onnx", file_bytes=[80.0])
    assert check_goal(goal, {"ours-onnx": ours}) is None
    assert check_goal(goal, {"ours-onnx": ours, "genai-best": subject("genai-best")}) is None
    met = check_goal(goal, {"ours-onnx": ours, "genai-best": subject("genai-best", file_bytes=[100.0])})
    assert met is not None
    assert met.met


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.ours}/{goal.peer}/{goal.metric}")
def test_each_goal_has_exactly_one_bound(goal: Goal) -> None:
    assert (goal.at_least is None) != (goal.at_most is None)


def test_the_table_shows_medians_spreads_gaps_goals_and_what_was_left_out() -> None:
    ours = subject("ours-onnx", decode_tokens_per_s=[30.0, 32.0, 31.0], file_bytes=[80e6])
    peer = subject("genai-best", decode_tokens_per_s=[30.0, 30.0, 30.0], file_bytes=[100e6])
    text = as_markdown(report_of(ours, peer))
    assert "31.0 (30.0..32.0)" in text
    assert "| ours-onnx / genai-best | decode_tokens_per_s | ≥ 1.05 | 1.03 (1.00..1.07) | **no** |" in text
    assert "| ours-onnx / genai-best | file_bytes | ≤ 0.88 | 0.80 | yes |" in text
    assert "–" in text
    assert "Not run: llama_cpp (no llama_cpp)." in text


def test_the_json_holds_every_round() -> None:
    data = json.loads(json.dumps(as_json(report_of(subject("ours-onnx", load_s=[1.0, 3.0])))))
    assert data["subjects"][0]["values"]["load_s"] == [1.0, 3.0]


def test_the_plot_is_well_formed_and_its_longest_bar_is_the_largest_median() -> None:
    svg = bars_svg([subject("ours", decode_tokens_per_s=[40.0]), subject("peer", decode_tokens_per_s=[20.0])])
    root = ElementTree.fromstring(svg)
    bars = [float(bar.get("width", 0)) for bar in root.iter("{http://www.w3.org/2000/svg}rect") if bar.get("x")]
    assert bars == [380.0, 190.0]
    assert "<ours>" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]

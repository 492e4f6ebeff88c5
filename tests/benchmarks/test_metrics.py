"""Each metric on streams made by hand, whose figures were worked out on paper."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.errors import StreamClockError, TruncatedStreamError
from benchmarks.metrics import METRICS, case_metrics, percentile, token_ids
from benchmarks.stream import parse_stream, salvage_stream
from benchmarks.stream_events import event_adapter
from benchmarks.timeline import Case, read_timeline
from tests.benchmarks.streams import Line, at, case, generation, heat, load, memory, sealed, unsealed

EVICTED = memory(1, resident_bytes=40, file_bytes=1000)
KINDS = {"Pss_kb": 1, "VmRSS_kb": 2, "RssAnon_kb": 3, "RssFile_kb": 4, "VmHWM_kb": 5, "phys_footprint_bytes": 6}


def all_memory(ms: float, scale: int) -> Line:
    return memory(ms, **{name: number * scale for name, number in KINDS.items()})


# 20 tokens of prompt in two chunks; steps of 40, 60, 40 and 100 ms
PLAIN = case(
    "cold",
    EVICTED,
    *load(10, 260),
    all_memory(100, 7),
    *generation(300, [(310, 350, 16), (352, 360, 4)], [400, 440, 500, 540, 640]),
    all_memory(450, 3),
    all_memory(470, 5),
    heat(500, zone0_temp_millicelsius=41_500, zone1_temp_millicelsius=38_000),
    all_memory(9000, 4),
)
# three generations; the median of each figure is the second's
THREE = case(
    "warm",
    *load(10, 60),
    all_memory(10, 9),
    *generation(100, [(100, 110, 10)], [120, 130, 140]),
    *generation(200, [(200, 220, 10)], [230, 250, 270]),
    *load(300, 330),
    *generation(400, [(400, 500, 10)], [600, 650, 700]),
    all_memory(650, 2),
    heat(660, zone0_temp_millicelsius=-5000, zone0_trip=99_000_000),
)
EMPTY = case("cold", EVICTED)
ONE_TOKEN = case("cold", EVICTED, *load(2, 4), *generation(10, [(11, 13, 8)], [15]), all_memory(15, 1))
# nothing but the clock moves wrongly: everything that begins ends before it began
BACKWARDS = case(
    "cold",
    EVICTED,
    *load(20, 10),
    *generation(300, [(290, 280, 10)], [270, 260, 250]),
    end_ms=1,
)


def sustained(seconds: int, *, slow_from_s: int = 10**9) -> list[Line]:
    """Generations of 30 s without a pause, a token every 100 ms, every 200 ms from some second on."""
    lines = []
    for start in range(0, seconds, 30):
        step = 200 if start >= slow_from_s else 100
        begin = 10 + 1000 * start
        lines += generation(begin, [(begin, begin, 1)], [begin + offset for offset in range(0, 30_000, step)])
    return case("sustained", *load(0, 5), *lines)


SUSTAINED = sustained(660, slow_from_s=300)
TOO_SHORT = sustained(570)
BEYOND = sustained(900, slow_from_s=630)


def value(lines: list[Line], name: str) -> float:
    metric = case_metrics(parse_stream(sealed(lines)).timeline.cases[0])[name]
    assert metric.value is not None, metric.reason
    return metric.value


def reason(found: Case, name: str) -> str:
    metric = case_metrics(found)[name]
    assert metric.value is None
    return metric.reason or ""


def parsed(lines: list[Line]) -> Case:
    return parse_stream(sealed(lines)).timeline.cases[0]


def with_any_clock(lines: list[Line]) -> Case:
    """The case of a stream that the parser refuses: its times are put in after the order was checked."""
    still = [event_adapter.validate_python({**line, "at_ns": 0}) for line in lines]
    found = read_timeline(still).cases[0]  # type: ignore[arg-type]
    stamps = iter(line["at_ns"] for line in lines if line["event"] in {"load_start", "load_end"})
    start, end = next(stamps), next(stamps)
    one = found.generations[0]
    times = {(line["event"], line.get("index")): line["at_ns"] for line in lines}
    moved = one.__class__(
        submit=one.submit.model_copy(update={"at_ns": times["submit", None]}),
        prefill=tuple(
            (
                first.model_copy(update={"at_ns": times["prefill_start", None]}),
                last.model_copy(update={"at_ns": times["prefill_end", None]}),
            )
            for first, last in one.prefill
        ),
        tokens=tuple(token.model_copy(update={"at_ns": times["token", token.index]}) for token in one.tokens),
        stop=one.stop,
    )
    load_moved = found.loads[0].__class__(start_ns=start, end_ns=end)
    return Case(**{**vars(found), "loads": (load_moved,), "generations": (moved,)})


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        ("load_cold_ms", PLAIN, 250),
        ("load_cold_ms", ONE_TOKEN, 2),
        ("load_warm_ms", THREE, 40),  # 50 and 30
        ("load_warm_ms", SUSTAINED, 5),
        ("ttft_ms", PLAIN, 100),
        ("ttft_ms", ONE_TOKEN, 5),
        ("ttft_ms", THREE, 30),  # 20, 30, 200
        ("prefill_tok_s", PLAIN, 400),  # 20 tokens in 50 ms, the pause between chunks in
        ("prefill_tok_s", ONE_TOKEN, 4000),
        ("prefill_tok_s", THREE, 500),  # 1000, 500, 100
        ("tpot_ms", PLAIN, 60),  # 240 ms, 4 steps
        ("tpot_ms", THREE, 20),
        ("tpot_ms", SUSTAINED, 200),  # 12 generations of 22 are slow
        ("decode_tok_s", PLAIN, 1000 / 60),
        ("decode_tok_s", THREE, 50),
        ("tpot_p50_ms", PLAIN, 50),  # 40, 40, 60, 100
        ("tpot_p50_ms", THREE, 20),
        ("decode_p50_tok_s", PLAIN, 20),
        ("decode_p50_tok_s", THREE, 50),
        ("tpot_p90_ms", SUSTAINED, 200),
        ("tpot_p99_ms", SUSTAINED, 200),
        ("tpot_p90_ms", TOO_SHORT, 100),
        ("decode_p90_tok_s", SUSTAINED, 5),
        ("decode_p99_tok_s", TOO_SHORT, 10),
        # the first 300 s are 10 generations of 299 fast steps (29.9 s), then 10 of 149 slow ones (29.8 s); the token
        # at 600.0 s is the first of a generation and so the end of no step
        ("sustained_tok_s", SUSTAINED, (10 * 299 + 10 * 149) / (10 * 29.9 + 10 * 29.8)),
        ("sustained_tok_s", BEYOND, 10),
        ("sustained_last_minute_tok_s", SUSTAINED, 5),
        ("sustained_last_minute_tok_s", BEYOND, 10),
        ("sustained_ratio", SUSTAINED, 0.5),
        ("sustained_ratio", BEYOND, 1),
        ("peak_pss_bytes", PLAIN, 7 * 1024),
        ("peak_rss_bytes", PLAIN, 14 * 1024),
        ("peak_rss_anon_bytes", THREE, 27 * 1024),
        ("peak_rss_file_bytes", THREE, 36 * 1024),
        ("peak_vm_hwm_bytes", PLAIN, 35 * 1024),
        ("peak_vm_hwm_bytes", ONE_TOKEN, 5 * 1024),
        ("peak_phys_footprint_bytes", PLAIN, 42),
        ("load_peak_pss_bytes", PLAIN, 7 * 1024),
        ("load_peak_rss_anon_bytes", THREE, 27 * 1024),
        ("steady_pss_bytes", PLAIN, 4 * 1024),  # 3 and 5 lie between tokens, 7 and 4 don't
        ("steady_rss_bytes", ONE_TOKEN, 2 * 1024),
        ("steady_rss_file_bytes", THREE, 8 * 1024),
        ("steady_phys_footprint_bytes", PLAIN, 24),
        ("peak_temperature_c", PLAIN, 41.5),
        ("peak_temperature_c", THREE, -5),
    ],
)
def test_a_figure_is_what_paper_says(name: str, lines: list[Line], expected: float) -> None:
    assert value(lines, name) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        ("load_cold_ms", THREE, "kind 'warm' has no cold load"),
        ("load_cold_ms", EMPTY, "nothing was loaded"),
        ("load_cold_ms", case("cold", *load(1, 2)), "no sample says how much of the files was in the page cache"),
        ("load_cold_ms", case("cold", memory(1, resident_bytes=500, file_bytes=1000), *load(2, 3)), "50% of the files"),
        ("load_cold_ms", case("cold", *load(2, 3), memory(4, resident_bytes=0, file_bytes=9)), "no sample says"),
        ("load_warm_ms", PLAIN, "kind 'cold' has no warm load"),
        ("load_warm_ms", case("warm"), "nothing was loaded"),
        ("load_warm_ms", case("warm", *load(5, 5)), "did not advance"),
        ("ttft_ms", EMPTY, "no token was generated"),
        ("ttft_ms", case("warm", *generation(1, [(2, 3, 4)], [])), "no token was generated"),
        ("ttft_ms", case("warm", *generation(5, [(5, 5, 4)], [5])), "did not advance"),
        ("prefill_tok_s", EMPTY, "no prompt went in"),
        ("prefill_tok_s", case("warm", *generation(1, [], [2, 3])), "no prompt went in"),
        ("prefill_tok_s", case("warm", *generation(1, [(2, 2, 4)], [3])), "did not advance"),
        ("tpot_ms", EMPTY, "no generation has two tokens"),
        ("tpot_ms", ONE_TOKEN, "no generation has two tokens"),
        ("tpot_ms", case("warm", *generation(1, [(1, 2, 1)], [3, 3])), "did not advance"),
        ("decode_tok_s", EMPTY, "no generation has two tokens"),
        ("decode_tok_s", ONE_TOKEN, "no generation has two tokens"),
        ("tpot_p50_ms", EMPTY, "0 steps"),
        ("tpot_p50_ms", ONE_TOKEN, "0 steps"),
        ("decode_p50_tok_s", ONE_TOKEN, "0 steps"),
        ("decode_p50_tok_s", case("warm", *generation(1, [(1, 2, 1)], [3, 3, 3])), "did not advance"),
        ("tpot_p90_ms", PLAIN, "4 steps between tokens; a p90 needs 10"),
        ("tpot_p90_ms", ONE_TOKEN, "0 steps"),
        ("tpot_p99_ms", PLAIN, "a p99 needs 100"),
        ("tpot_p99_ms", EMPTY, "0 steps"),
        ("decode_p90_tok_s", PLAIN, "a p90 needs 10"),
        ("decode_p99_tok_s", THREE, "a p99 needs 100"),
        ("sustained_tok_s", PLAIN, "is not sustained"),
        ("sustained_tok_s", case("sustained"), "no token was generated"),
        ("sustained_tok_s", TOO_SHORT, "tokens came for 570 s"),
        ("sustained_last_minute_tok_s", TOO_SHORT, "needs 600"),
        ("sustained_ratio", TOO_SHORT, "needs 600"),
        ("sustained_ratio", ONE_TOKEN, "is not sustained"),
        (
            "sustained_last_minute_tok_s",
            case("sustained", *generation(0, [(0, 1, 1)], [2, 3]), *generation(4, [(4, 5, 1)], [700_000])),
            "a minute passed without a step",
        ),
        ("peak_pss_bytes", EMPTY, "no sample of memory has Pss_kb"),
        ("steady_pss_bytes", case("warm", all_memory(1, 1)), "while tokens were generated"),
        ("load_peak_pss_bytes", ONE_TOKEN, "no sample was taken during a load"),
        ("peak_temperature_c", EMPTY, "no sample of temperature"),
    ],
)
def test_what_was_not_measured_is_null_with_the_reason(name: str, lines: list[Line], expected: str) -> None:
    assert expected in reason(parsed(lines), name)


# every figure of two streams; whatever is not in the list is null
OF_PLAIN = {
    "load_cold_ms": 250.0,
    "ttft_ms": 100.0,
    "prefill_tok_s": 400.0,
    "tpot_ms": 60.0,
    "tpot_p50_ms": 50.0,
    "decode_tok_s": 1000 / 60,
    "decode_p50_tok_s": 20.0,
    "peak_pss_bytes": 7 * 1024,
    "peak_rss_bytes": 14 * 1024,
    "peak_rss_anon_bytes": 21 * 1024,
    "peak_rss_file_bytes": 28 * 1024,
    "peak_vm_hwm_bytes": 35 * 1024,
    "peak_phys_footprint_bytes": 42,
    "load_peak_pss_bytes": 7 * 1024,
    "load_peak_rss_bytes": 14 * 1024,
    "load_peak_rss_anon_bytes": 21 * 1024,
    "load_peak_rss_file_bytes": 28 * 1024,
    "load_peak_phys_footprint_bytes": 42,
    "steady_pss_bytes": 4 * 1024,
    "steady_rss_bytes": 8 * 1024,
    "steady_rss_anon_bytes": 12 * 1024,
    "steady_rss_file_bytes": 16 * 1024,
    "steady_phys_footprint_bytes": 24,
    "peak_temperature_c": 41.5,
}
OF_ONE_TOKEN = {
    "load_cold_ms": 2.0,
    "ttft_ms": 5.0,
    "prefill_tok_s": 4000.0,
    "peak_pss_bytes": 1024,
    "peak_rss_bytes": 2 * 1024,
    "peak_rss_anon_bytes": 3 * 1024,
    "peak_rss_file_bytes": 4 * 1024,
    "peak_vm_hwm_bytes": 5 * 1024,
    "peak_phys_footprint_bytes": 6,
    "steady_pss_bytes": 1024,
    "steady_rss_bytes": 2 * 1024,
    "steady_rss_anon_bytes": 3 * 1024,
    "steady_rss_file_bytes": 4 * 1024,
    "steady_phys_footprint_bytes": 6,
}


@pytest.mark.parametrize(("lines", "figures"), [(PLAIN, OF_PLAIN), (ONE_TOKEN, OF_ONE_TOKEN)], ids=["plain", "one"])
@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_a_plain_stream_and_of_one_token_is_what_paper_says(
    name: str, lines: list[Line], figures: dict[str, float]
) -> None:
    found = case_metrics(parsed(lines))[name]
    if name in figures:
        assert found.value == pytest.approx(figures[name], rel=1e-9), found.reason
    else:
        assert found.reason, found.value


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_an_empty_case_is_null(name: str) -> None:
    assert reason(parsed(EMPTY), name)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_a_truncated_stream_is_null(name: str) -> None:
    cut = unsealed(PLAIN[:-4])
    with pytest.raises(TruncatedStreamError, match="not 'end'"):
        parse_stream(cut)
    found = salvage_stream(cut + b'{"event":"tok')
    assert found is not None
    assert reason(found.timeline.cases[0], name) == "the case was broken off"


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_a_case_with_an_error_is_null(name: str) -> None:
    lines = case(
        "cold", EVICTED, *load(2, 4), *generation(10, [(11, 13, 8)], [15, 18]), at(20, "error", what="no heap")
    )
    assert "no heap" in reason(parsed(lines), name)


TIMED = [name for name in METRICS if name.startswith(("load_cold", "ttft", "prefill", "tpot_ms", "decode_tok"))]


def test_a_stream_whose_clock_runs_backwards_is_refused() -> None:
    with pytest.raises(StreamClockError, match="line 5: load_end is stamped 10000000 ns, 10000000 ns before"):
        parse_stream(sealed(BACKWARDS))


@pytest.mark.parametrize("name", [*TIMED, "tpot_p50_ms", "decode_p50_tok_s"])
def test_no_figure_comes_of_a_clock_that_runs_backwards(name: str) -> None:
    assert "ran backwards" in reason(with_any_clock(BACKWARDS), name)


@pytest.mark.parametrize("name", METRICS)
def test_no_metric_of_any_order_of_times_is_negative_or_raises(name: str) -> None:
    metric = case_metrics(with_any_clock(BACKWARDS))[name]
    assert metric.value is None
    assert metric.reason


def test_token_ids_are_those_of_each_generation() -> None:
    assert token_ids(parsed(THREE)) == [[100, 101, 102]] * 3


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=50), st.floats(0, 100))
def test_a_percentile_lies_within_the_values_and_never_falls(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert min(values) <= found * (1 + 1e-9) + 1e-9
    assert found <= max(values) * (1 + 1e-9) + 1e-9
    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)


@pytest.mark.parametrize("name", METRICS)
def test_the_documentation_defines_every_metric(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "device_lab.md").read_text(encoding="utf-8")
    assert f"| `{name}` | {METRICS[name].better} | {METRICS[name].meaning} |" in page

"""The dashboard in a real browser: it loads fast, asks for nothing, fits a phone, and shows records as text."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.record import RunRecord
from benchmarks.report.content import collect
from benchmarks.report.page import html
from tests.benchmarks.browser import REMEDY, Page, browsing, find_chromium
from tests.benchmarks.report.synthetic import END, MACHINES, record, records, repeated

CHROMIUM = find_chromium()
in_browser = pytest.mark.skipif(CHROMIUM is None, reason=REMEDY)
MOST_LOAD_S = 3.0
HOSTILE = (
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror='window.hacked=2'>",
    "<!--<script>",
    "javascript:window.hacked=3",
    "{{library}}",
    "\\u003cscript\\u003ewindow.hacked=4",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert CHROMIUM is not None
    with browsing(CHROMIUM, tmp_path_factory.mktemp("profile")) as page:
        yield page


def written(folder: Path, content: dict[str, Any]) -> str:
    place = folder / "report.html"
    place.write_text(html(content), encoding="utf-8")
    return place.as_uri()


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("some"), collect(records(1000), {"Galaxy S24": 77e9}))


def hostile_record(text: str) -> RunRecord:
    made = record(MACHINES[2], ("onnx", "int4"), END, random.Random(5), night=0, traced=False)
    failed = made.cases[0].model_copy(update={"status": "failed", "reason": text, "case_id": "first", "events": ()})
    odd = made.cases[1].model_copy(update={"requested_backend": text, "effective_backend": text + "!"})
    return made.model_copy(
        update={
            "artifact": made.artifact.model_copy(
                update={"model": text, "scheme": text, "backend": text, "runtime": text}
            ),
            "device": made.device.model_copy(update={"model": text}),
            "cases": (failed, odd),
            "validity": made.validity.model_copy(update={"valid": False, "violations": (text,)}),
        }
    )


@in_browser
def test_ten_thousand_runs_load_in_three_seconds_without_a_request(browser: Page, tmp_path: Path) -> None:
    url = written(tmp_path, collect(repeated(10_000)))
    browser.window(1400, 900)
    # the best of three: the machine may be busy with other tests
    fastest = min(browser.open(url) for _ in range(3))
    assert browser.evaluate("document.documentElement.dataset.drawn") == "yes"
    assert browser.evaluate("data.runs.id.length") > 7000
    assert fastest < MOST_LOAD_S
    assert [asked for asked in browser.requests() if not asked.startswith("data:")] == [url]
    assert browser.complaints() == []


@in_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1400])
def test_the_page_is_never_wider_than_its_window(browser: Page, some: str, width: int, dark: bool) -> None:
    browser.window(width, 844, phone=width < 500, dark=dark)
    browser.open(some)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    clipped = """[...document.querySelectorAll("canvas, select, h1, h2, p")].filter((each) => each.offsetParent
      && each.getBoundingClientRect().right > innerWidth).map((each) => each.outerHTML.slice(0, 80))"""
    assert browser.evaluate(clipped) == []
    assert (
        browser.evaluate(
            "Math.min(...[...document.querySelectorAll('p,td,li')].map(e=>parseFloat(getComputedStyle(e).fontSize)))"
        )
        >= 12
    )
    assert browser.complaints() == []


@in_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_curves_stand_out_from_the_ground(browser: Page, some: str, dark: bool) -> None:
    """WCAG 2: 4.5 to 1 for text, 3 to 1 for what a chart draws."""
    browser.window(1400, 900, dark=dark)
    browser.open(some)
    names = ["ink", "soft", *(f"c{index}" for index in range(8))]
    colours = browser.evaluate(
        f"Object.fromEntries({json.dumps([*names, 'card'])}.map((name) => [name, css('--' + name)]))"
    )
    ratios = {name: contrast(colours[name], colours["card"]) for name in names}
    assert min(ratios["ink"], ratios["soft"]) >= 4.5
    assert min(ratios.values()) >= 3, ratios
    assert len(set(browser.evaluate("[...Array(8).keys()].map((index) => JSON.stringify(mark(index)))"))) == 8


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@in_browser
def test_every_chart_is_drawn_and_says_what_it_shows(browser: Page, some: str) -> None:
    browser.window(1400, 900)
    browser.open(some)
    told = browser.evaluate("[...document.querySelectorAll('canvas')].map((each) => each.getAttribute('aria-label'))")
    assert len(told) == 6
    assert all(label and "onnx int4" in label for label in told)
    # something other than the ground was painted on each
    painted = """[...document.querySelectorAll("canvas")].map((each) => new Set(
      new Uint32Array(each.getContext("2d").getImageData(0, 0, each.width, each.height).data.buffer)).size)"""
    assert min(browser.evaluate(painted)) > 20


@in_browser
def test_choosing_another_device_case_or_figure_shows_its_values(browser: Page, some: str) -> None:
    browser.window(1400, 900)
    browser.open(some)

    def choose(box: str, value: str) -> None:
        changed = "dispatchEvent(new Event('change', {bubbles: true}))"
        browser.evaluate(f"select.{box}.value = {json.dumps(value)}; select.{box}.{changed}")

    def drawn() -> list[float]:
        found: list[float] = browser.evaluate(
            "drawn.get(document.querySelector('#trend canvas')).data.datasets[0].data.map((each) => each.y)"
        )
        return found

    before = drawn()
    choose("kind", "sustained-512")
    assert drawn() != before
    assert "sustained" in browser.evaluate("document.querySelector('#latest').textContent")
    choose("kind", "cold-512")
    choose("metric", "load_cold_ms")
    assert all(1000 < value < 4000 for value in drawn())
    choose("kind", "memory-512")
    assert browser.evaluate("select.metric.value").endswith("_bytes")
    choose("kind", "warm-512")
    choose("device", next(value for value in places(browser) if value.startswith("Moto")))
    assert "charging" in browser.evaluate("document.querySelector('#latest .reasons').textContent")
    count = len(drawn())
    browser.evaluate("by('invalid').click()")
    assert len(drawn()) >= count
    assert browser.complaints() == []


def places(browser: Page) -> list[str]:
    found: list[str] = browser.evaluate("[...select.device.options].map((each) => each.value)")
    return found


@in_browser
def test_no_virtual_machine_or_emulator_can_be_chosen(browser: Page, some: str) -> None:
    browser.open(some)
    offered = places(browser)
    assert len(offered) == 6
    assert not [place for place in offered if "virtual" in place or "emulator" in place]
    assert "virtual phone" in browser.evaluate("document.querySelector('#virtual').textContent")


@in_browser
@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_record_is_text(browser: Page, tmp_path: Path, text: str) -> None:
    browser.open(written(tmp_path, collect([hostile_record(text)])))
    assert browser.evaluate("window.hacked") is None
    assert browser.evaluate("document.documentElement.dataset.drawn") == "yes"
    shown = browser.evaluate(
        "document.querySelector('#failures').textContent + document.querySelector('#violations').textContent"
    )
    assert shown.count(text) >= 4
    assert browser.evaluate("document.querySelectorAll('img, iframe, a').length") == 0
    assert browser.complaints() == []


@in_browser
def test_an_empty_store_is_a_page_that_says_so(browser: Page, tmp_path: Path) -> None:
    browser.open(written(tmp_path, collect([])))
    assert "No run of a real device" in browser.evaluate("document.body.textContent")
    assert browser.complaints() == []


@in_browser
def test_what_a_script_would_ask_of_a_network_is_refused(browser: Page, some: str) -> None:
    """The policy, not our restraint, keeps the page off the network."""
    browser.open(some)
    assert browser.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


def test_the_page_names_no_address() -> None:
    page = html(collect(records(50)))
    elsewhere = re.findall(r'(?:src|href)="(?!data:)[^"]*"', page.partition("<script")[0])
    assert elsewhere == []
    assert "sourceMappingURL" not in page


def test_the_data_block_cannot_be_left_by_anything_in_it() -> None:
    page = html(collect([hostile_record(text) for text in HOSTILE]))
    block = page.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(block)
    assert json.loads(block)["failures"][0]["reason"] in HOSTILE

"""The playground as a person uses it: the real service, the packaged zoo, a browser."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.browser import Visit, open_browser
from tests.e2e.conftest import Process

SIZES = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1440, "height": 900}}
SERVED = ["generate", "translate", "classify", "questions", "fill-mask", "embeddings", "rerank"]
WATCH_SHIFTS = """() => {
  window.shift = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
  }).observe({type: "layout-shift", buffered: true});
}"""


@pytest.fixture(scope="module")
def zoo() -> Iterator[Process]:
    process = Process()
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="module")
def browser(zoo: Process) -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def visit(browser: Any, zoo: Process) -> Iterator[Callable[..., Visit]]:
    """Opens pages; none may have complained at the end."""
    visits: list[Visit] = []

    def open_one(**options: Any) -> Visit:
        visits.append(Visit(browser, str(zoo.client.base_url), **options))
        return visits[-1]

    yield open_one
    for one in visits:
        one.close()
        assert one.complaints == []


def test_generation_comes_token_by_token(visit: Callable[..., Visit]) -> None:
    one = visit()
    panel = one.open()
    told = one.ask(panel)
    assert told.startswith("Once upon a time there was a little ")
    tokens = panel.locator(".token")
    assert tokens.count() >= 60
    assert told.rstrip().endswith("".join(tokens.all_text_contents()[-3:]).strip())
    assert "60 generated" in panel.locator(".status").inner_text()
    tokens.nth(3).hover()
    rows = panel.locator(".inspector li").all_inner_texts()
    assert 4 <= len(rows) <= 5
    assert tokens.nth(3).inner_text().strip() in rows[0]


def test_translation_with_other_versions(visit: Callable[..., Visit]) -> None:
    one = visit()
    panel = one.open("translate")
    assert "Tee" in one.ask(panel)
    panel.get_by_label("To").select_option("French")
    assert "thé" in one.ask(panel)
    panel.get_by_label("Number of translations").fill("3")
    one.ask(panel)
    assert panel.locator(".others li").count() == 2
    assert panel.get_by_label("To").locator("option").all_inner_texts() == ["German", "French", "Chinese"]


def test_classification_by_the_models_labels_and_by_one_s_own(visit: Callable[..., Visit]) -> None:
    one = visit()
    panel = one.open("classify")
    one.ask(panel)
    assert "card declined" in panel.locator(".bars li").first.inner_text()
    panel.get_by_label("Model").select_option("banking")
    one.ask(panel)
    assert "declined card payment" in panel.locator(".bars li").first.inner_text()
    panel.get_by_label("Labels", exact=True).select_option("own")
    assert panel.get_by_label("Model").input_value() == "minilm"
    one.ask(panel)
    assert "banking" in panel.locator(".bars li").first.inner_text()


def test_an_answer_is_marked_where_it_stands(visit: Callable[..., Visit]) -> None:
    one = visit()
    panel = one.open("questions")
    one.ask(panel)
    assert panel.locator("mark:not(.other)").all_inner_texts() == ["Ada Lovelace"]


def test_sentences_alike_are_near(visit: Callable[..., Visit]) -> None:
    one = visit()
    panel = one.open("embeddings")
    one.ask(panel)
    first = [
        float(cell.replace("−", "-"))
        for cell in panel.locator(".matrix tbody tr").first.locator("td").all_inner_texts()
    ]
    assert first[0] == 1
    assert first[1] > max(first[2:]) + 0.2


def test_words_are_filled_in_and_documents_ranked(visit: Callable[..., Visit]) -> None:
    one = visit()
    panel = one.open("fill-mask")
    one.ask(panel)
    assert panel.locator(".bars li").count() == 5
    panel = one.choose("rerank")
    one.ask(panel)
    assert "Settings" in panel.locator(".bars li").first.inner_text()


def test_the_engine_is_seen_at_work(visit: Callable[..., Visit]) -> None:
    one = visit()
    panel = one.open("engine")
    rows = panel.locator("tbody tr")
    rows.nth(7).wait_for()
    writer = rows.filter(has_text="writer").locator("td").last
    before = int(writer.inner_text().replace(",", ""))
    one.ask(one.choose("generate"))
    one.choose("engine")
    writer.filter(has_text=f"{before + 1:,}").wait_for()
    one.page.locator("#strip-cache", has_text="%").wait_for()


@pytest.mark.parametrize("tab", SERVED)
def test_the_code_of_each_tab_runs(visit: Callable[..., Visit], tab: str) -> None:
    one = visit()
    code = one.open(tab).locator("pre").inner_text()
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stdout
    if tab != "generate":
        assert json.loads(done.stdout)["model"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_everybody_can_use_it_and_nothing_shifts(visit: Callable[..., Visit], size: str, scheme: str) -> None:
    """axe-core finds nothing serious in any tab, with answers and without; no tab is wider than the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    one = visit(viewport=SIZES[size], color_scheme=scheme)
    one.page.add_init_script(f"({WATCH_SHIFTS})()")
    one.open()
    tabs = [tab.get_attribute("id").removeprefix("tab-") for tab in one.page.get_by_role("tab").all()]
    assert set(SERVED) < set(tabs)
    for tab in tabs:
        panel = one.choose(tab)
        if tab in SERVED:
            one.ask(panel)
        found = axe.run(one.page).response["violations"]
        serious = [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found]
        assert serious == [], tab
        assert one.page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"], tab
    assert one.page.evaluate("window.shift") < 0.02


def test_it_asks_this_server_alone(visit: Callable[..., Visit]) -> None:
    one = visit()
    one.open()
    hosts = "performance.getEntriesByType('resource').map((entry) => new URL(entry.name).host)"
    assert set(one.page.evaluate(hosts)) == {one.page.evaluate("location.host")}

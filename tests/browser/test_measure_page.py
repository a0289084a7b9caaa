"""The page of `measure all --html`, opened from its file in a real browser at the widths of a phone and a desktop."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from engine.analysis.measure.all_reports import measure_all
from engine.analysis.measure.sources import EventSource
from engine.analysis.render.measure_page import measure_html
from loadtests.year_shop import simulate_shop, write_shop
from tests.analysis.measure.test_refreshes import KPIS, STEPS
from tests.catalog.folder import plan

REPORTS = 12


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder / "log", simulate_shop(3, 300, 30, 6000), 30)
    found = measure_all(EventSource(log_dir=folder / "log"), plan(metrics=KPIS), steps=STEPS)
    (folder / "all.html").write_text(measure_html(*found.values()))
    return folder / "all.html"


@pytest.fixture(params=[390, 1280])
def page(request: pytest.FixtureRequest, require_tools: Callable[..., None]) -> Iterator[Page]:
    require_tools("/usr/bin/chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": request.param, "height": 860})
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.set_default_timeout(60_000)
        yield page
        browser.close()
        assert faults == []


def test_each_report_is_drawn_and_fits_the_screen(page: Page, file: Path) -> None:
    page.goto(file.as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('[id^=chart]')].every(one => one.querySelector('svg, canvas'))"
    )
    sections = page.locator("section[id]")
    assert sections.count() == REPORTS
    for section in sections.all():
        assert section.get_by_text("What this is not").count() == 1
    assert page.locator("section[id] table").count() >= REPORTS
    assert page.locator("[id^=chart]").count() >= REPORTS // 2
    width, screen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width <= screen

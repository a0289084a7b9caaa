"""The check of pages finds what one element alone has, in one theme or width alone."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.browser.accessibility import find_violations
from tests.browser.storefront.conftest import CHROMIUM

STYLE = """
:root {color-scheme: light dark}
body {background: #fff; color: #111}
a {color: #00c; text-decoration: underline}
@media (prefers-color-scheme: dark) {body {background: #111; color: #eee} a {color: #9cf}}
"""


@pytest.fixture
def page(require_tools: Callable[..., None]) -> Iterator[Page]:
    require_tools(CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def table(css: str = "", more: str = "") -> str:
    rows = "".join(f"<tr><td>row {n}</td><td><b>{n}</b> <a href='#{n}'>link {n}</a></td></tr>" for n in range(40))
    head = f"<head><title>Rows</title><style>{STYLE}{css}</style></head>"
    body = f"<h1>Rows</h1><table><tr><th>x</th><th>y</th></tr>{rows}</table>{more}"
    return f"<!doctype html><html lang='en'>{head}<body><main>{body}</main></body></html>"


def test_one_pale_element_in_one_theme_or_width_is_found(page: Page) -> None:
    page.set_content(table())
    assert find_violations(page) == []
    always, dark = "tr:nth-child(20) b {color: #777; background: #888}", "tr:nth-child(30) a {color: #333}"
    narrow = "tr:nth-child(35) td {color: #999; background: #aaa}"
    dark, narrow = f"@media (prefers-color-scheme: dark) {{{dark}}}", f"@media (max-width: 500px) {{{narrow}}}"
    page.set_content(table(always + dark + narrow, "<img src='x'>"))
    found = find_violations(page)
    places = [("light", 360), ("light", 1440), ("dark", 360), ("dark", 1440)]
    seen = {place: " ".join(one for one in found if f" {place[0]} {place[1]}:" in one) for place in places}
    for place, faults in seen.items():
        assert "<b>18</b>" in faults
        assert ("link 28" in faults) is (place[0] == "dark")
        assert ("row 33" in faults) is (place[1] == 360)
        assert ("image-alt" in faults) is (place[0] == "light")

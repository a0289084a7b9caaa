"""Debian's Chromium on a decision server, as it is deployed."""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route, sync_playwright

CHROMIUM = "/usr/bin/chromium"
"""Installed by apt; `.ci/run` does so, and requires it."""
POLICY = "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'"
"""A strict content security policy: no inline script or style, no other host."""

_path = Path(__file__).resolve().parents[2] / "service" / "conftest.py"
_spec = importlib.util.spec_from_file_location("browser_service_fixtures", _path)
assert _spec
assert _spec.loader
_service = importlib.util.module_from_spec(_spec)
sys.modules["browser_service_fixtures"] = _service
_spec.loader.exec_module(_service)
serve, shop, server = _service.serve, _service.shop, _service.server


@pytest.fixture(scope="module")
def browser(require_tools: Callable[..., None]) -> Iterator[Browser]:
    """Of one file: while it is open the thread has a running event loop, in which no other test could run its own."""
    require_tools(CHROMIUM)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1000, "height": 800})
    yield made
    made.close()


@dataclass
class Tab:
    """A page of the shop, with what its console printed and what it requested."""

    page: Page
    base: str
    printed: list[str] = field(default_factory=list)
    requested: list[tuple[str, Any]] = field(default_factory=list)

    def bodies(self, path: str) -> list[Any]:
        return [body for address, body in self.requested if address.endswith(path)]

    def run(self, script: str, argument: Any = None) -> Any:
        """The result of an async function body with `cp`, the module, and `shop`, the client if the page has one."""
        code = f"async (argument) => {{ const cp = await import('/client.js'); const shop = window.shop; {script} }}"
        return self.page.evaluate(code, argument)

    def stop_clock(self) -> None:
        self.page.clock.pause_at(self.page.evaluate("Date.now()") + 1000)


def await_records(server: Any, wanted: Any, count: int = 1) -> list[Any]:
    """The records that `wanted` chooses, once there are as many."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = [one for one in server.records() if wanted(one)]
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{len(found)} of {count} records")


def serve_page(route: Route, body: str, css: str = "") -> None:
    """Answer addresses that end in `.css` and `.jpg` with the style and a picture, all others with the page."""
    if route.request.url.endswith(".css"):
        route.fulfill(body=css, content_type="text/css")
    elif route.request.url.endswith(".jpg"):
        route.fulfill(body='<svg xmlns="http://www.w3.org/2000/svg"/>', content_type="image/svg+xml")
    else:
        head = '<meta charset="utf-8"><link rel="stylesheet" href="/page.css">'
        html = f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>"
        route.fulfill(body=html, headers={"content-security-policy": POLICY, "content-type": "text/html"})


@pytest.fixture
def open_tab(context: BrowserContext, server: Any) -> Any:
    """`open_tab(body, css, options)`: a page on the server's own origin; with options a client is connected to it."""

    def opened(body: str = "", css: str = "", options: Any = None, *, clock: bool = False, base: str = "") -> Tab:
        page = context.new_page()
        tab = Tab(page, base or server.base)

        def note(request: Request) -> None:
            if request.method == "POST":
                tab.requested.append((request.url, request.post_data_json))

        def print_message(message: ConsoleMessage) -> None:
            tab.printed.append(f"{message.type}: {message.text}")

        page.on("request", note)
        page.on("console", print_message)
        page.on("pageerror", lambda error: tab.printed.append(f"error: {error}"))
        page.route(f"{tab.base}/page**", lambda route: serve_page(route, body, css))
        if clock:
            page.clock.install()
        page.goto(f"{tab.base}/page")
        if options is not None:
            tab.run("window.shop = cp.connect(argument)", options)
        return tab

    return opened

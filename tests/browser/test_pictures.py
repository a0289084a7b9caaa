"""The README's pictures: `make pictures` takes them of a demo; a test run takes them of a smaller one and keeps none.

They are of what `make demo` opens: the shop with one customer half way, the overview, and one experiment's report.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
FOLDER = os.environ.get("PICTURES")
CUSTOMERS = 2500 if FOLDER else 200
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, require_tools: Callable[..., None]) -> Iterator[str]:
    """The address of a demo that has printed its reports and keeps serving."""
    require_tools("/usr/bin/chromium")
    data = tmp_path_factory.mktemp("demo") / "data"
    words = ["demo", "--customers", str(CUSTOMERS), "--port", "0", "--data", str(data)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERPOINT_")}
    kept["COUNTERPOINT_STORE_TIMEOUT"] = "5"  # degraded answers on a busy machine make no picture
    with subprocess.Popen(
        [sys.executable, "-m", "engine", *words],
        cwd=ROOT,
        env=kept,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"Open the shop at (http://[\d.:]+)/shop and the dashboard at", line):
                yield found[1]
                break
        else:
            pytest.fail("".join(lines))
        process.terminate()
        process.stderr.read()


@pytest.fixture
def page(demo: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(base_url=demo, viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.set_default_timeout(60_000)
        yield page
        browser.close()
        assert faults == []


def take(page: Page, name: str, folder: Path) -> None:
    """Take a picture of what is on the screen, into the folder that is asked for."""
    path = (ROOT / FOLDER if FOLDER else folder) / f"{name}.png"
    page.screenshot(path=path)
    assert path.read_bytes().startswith(PNG)


def test_the_demo_s_pages_are_worth_a_picture(page: Page, tmp_path: Path) -> None:
    expect.set_options(timeout=60_000)
    page.goto("/shop")
    expect(page.locator("#web .hero")).to_have_attribute("data-state", "offer")
    page.locator("#goods button").nth(0).click()
    page.locator("#goods button").nth(1).click()
    expect(page.locator("#cart")).to_contain_text("2 items")
    page.locator("#login").click()
    expect(page.locator("#resume")).to_be_visible()
    expect(page.locator("#app .hero")).to_have_attribute("data-state", "offer")
    page.locator("#scan").click()
    expect(page.locator("#till-code")).not_to_have_text("")
    expect(page.locator("#report a")).to_be_visible()
    page.wait_for_timeout(500)
    take(page, "shop", tmp_path)
    page.goto("/")
    expect(page.get_by_role("link", name="checkout_layout").first).to_be_visible()
    take(page, "overview", tmp_path)
    page.goto("/experiments/hero_policy")
    expect(page.locator("main svg").first).to_be_visible()
    take(page, "experiment", tmp_path)

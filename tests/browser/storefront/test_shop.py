"""The demo shop at `/shop`, used as its visitors do: every step on a decision server as it is deployed."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.accessibility import find_violations

HOSTILE = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
SHOP = Path(__file__).resolve().parents[3] / "experiments"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, serve: Any, valkey: Any) -> Iterator[Any]:
    """The shipped shop, one headline of which is a script."""
    place = tmp_path_factory.mktemp("shop")
    folder = shutil.copytree(SHOP, place / "experiments")
    offer = folder / "offers/free_delivery.yaml"
    offer.write_text(offer.read_text().replace("We bring it for nothing", f"'{HOSTILE}'"))
    with serve(place, valkey.url, folder, {"COUNTERPOINT_STORE_TIMEOUT": "5"}) as server:
        yield server


@pytest.fixture
def page(browser: Browser, engine: Any) -> Iterator[Page]:
    """The shop's page; it fails on a console error or a request to another host."""
    context = browser.new_context(base_url=engine.base, viewport={"width": 1440, "height": 1000})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on(
        "request",
        lambda request: faults.append(request.url) if urlsplit(request.url).netloc not in engine.base else None,
    )
    opened.goto("/shop")
    expect(opened.locator("#web .hero")).to_have_attribute("data-state", "offer")
    yield opened
    hacked = opened.evaluate("() => window.hacked")
    context.close()
    assert faults == []
    assert hacked is None


def test_one_customer_shops_on_four_channels(page: Page, engine: Any) -> None:
    variant = page.locator("#checkout").get_attribute("data-variant")
    page.locator("#goods button").nth(0).click()
    page.locator("#goods button").nth(1).click()
    expect(page.locator("#cart")).to_have_text("2 items, € 18.30")
    expect(page.locator("#feed")).to_contain_text("seen: checkout_layout")  # what nobody saw may change
    page.locator("#login").click()
    expect(page.locator("#resume")).to_have_text("Your cart from the web is here: 2 items.")
    expect(page.locator("#app .hero")).to_have_attribute("data-state", "offer")
    expect(page.locator("#facts")).to_contain_text("2 waiting")
    assert page.locator("#checkout").get_attribute("data-variant") == variant
    page.locator("#scan").click()
    expect(page.locator("#till-code")).not_to_have_text("")
    page.locator("#till-take").click()
    expect(page.locator("#till-note")).to_have_text("Taken: the policy learns from it.")
    page.locator("#pay").click()
    expect(page.locator("#points")).to_have_text("62")
    expect(page.locator("#tier")).to_have_text("tier 1")
    expect(page.locator("#resume")).to_be_hidden()
    page.locator("label:has(#cancel)").click()
    expect(page.locator("#call-say")).to_have_text("Offer three months at half the price")
    page.locator("#call-refuse").click()
    expect(page.locator("#call-why")).to_have_text("Declined: it is not pressed again.")
    user = str(page.locator("#known").text_content()).split()[2]
    profile = engine.get(f"/v1/profiles/{user}").json()
    assert sorted(profile["channels"]) == ["app", "call_centre", "store", "web"]
    assert profile["attributes"]["orders"] == {"count": 1, "revenue": 12.4} | profile["attributes"]["orders"]


def test_the_readme_s_one_change_and_the_kill_switch_are_seen_in_the_shop(page: Page, engine: Any) -> None:
    readme = (SHOP.parent / "README.md").read_text()
    (command,) = re.findall(r"```sh\n(sed .*experiments/.*)\n```", readme)
    file = engine.experiments / "home_hero.yaml"
    before = file.read_text()
    try:
        subprocess.run(["/bin/sh", "-c", command], cwd=engine.experiments.parent, check=True)
        assert file.read_text() != before
        for _ in range(5):  # whoever comes
            expect(page.locator("#web .headline")).to_have_text("Six beans in small bags")
            page.locator("#next").click()
            expect(page.locator("#known")).to_have_text("an unknown visitor so far")
        file.write_text(before.replace("policy:", "polcy:"))
        expect(page.locator("#plan")).to_contain_text("problems")
        expect(page.locator("#web .headline")).to_have_text("Six beans in small bags")
    finally:
        file.write_text(before)
    page.get_by_role("button", name="Pause checkout_layout").click()
    expect(page.get_by_role("button", name="Resume checkout_layout")).to_be_visible()
    page.get_by_role("button", name="Resume checkout_layout").click()
    expect(page.get_by_role("button", name="Pause checkout_layout")).to_be_visible()


def test_a_crowd_shops_and_can_be_stopped(page: Page) -> None:
    page.locator("label:has(#crowd)").click()
    expect(page.locator("#crowd-offers tr").first).to_be_visible()
    page.locator("label:has(#crowd)").click()
    expect(page.locator("#crowd-note")).to_contain_text("customers shopped in")
    expect(page.locator("#crowd")).not_to_be_checked()


def test_the_shop_is_accessible_in_both_themes_and_widths(page: Page) -> None:
    page.locator("#login").click()
    expect(page.locator("#app .hero")).to_have_attribute("data-state", "offer")
    assert find_violations(page) == []


def test_the_guide_is_accessible_in_both_themes_and_widths(page: Page) -> None:
    found = []
    for path in ("/docs/guide", "/docs/guide/tutorial/first-experiment", "/docs/guide/schema", "/docs"):
        page.goto(path)
        found += find_violations(page)
    assert found == []


def test_an_engine_with_keys_says_so_in_the_shop(
    browser: Browser, serve: Any, valkey: Any, tmp_path: Path, shop: Path
) -> None:
    (tmp_path / "keys.yaml").write_text("keys: [{name: backend, role: server, key: sk-of-a-test}]")
    with serve(tmp_path, valkey.url, shop, {"COUNTERPOINT_API_KEYS": str(tmp_path / "keys.yaml")}) as server:
        page = browser.new_page()
        page.goto(f"{server.base}/shop")
        expect(page.locator("#flash")).to_contain_text("asks for keys")
        page.close()


def test_the_shop_is_used_by_keyboard(page: Page) -> None:
    page.locator("#login").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#app-in")).to_be_visible()
    page.locator("#marketing").focus()
    page.keyboard.press("Space")
    expect(page.locator("#marketing")).to_be_checked()
    page.locator("body").press("Tab")
    page.goto("/shop")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()

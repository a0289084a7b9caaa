"""The dashboard in Debian's Chromium: every page, with every role, in light and dark, narrow and wide."""

import re
import time
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, StorageState, expect

from engine.dashboard.board.measure_names import MEASURES
from tests.browser.accessibility import find_violations
from tests.browser.dashboard.conftest import ADMIN, CUSTOMERS, SCRIPT, VIEWER, Engine, log_in

PAGES = [
    "/",
    "/experiments",
    "/experiments/checkout_layout",
    "/experiments/hostile",
    "/experiments/a_draft",
    "/experiments/hostile.flag",
    "/experiments/hostile.flag%23de",
    "/bandits",
    "/bandits/home_hero",
    "/offers",
    "/offers/home_hero",
    "/moments",
    "/customers",
    "/customers/u-1",
    "/timeline?id=u-1",
    "/measure",
    "/measure/channels",
    "/measure/kpis",
    "/power",
    "/live",
    "/audit",
    "/editor?key=hostile",
]
MOST_BYTES = 200_000


@pytest.fixture(scope="module")
def logged_in(ready: Engine, chromium: Browser) -> StorageState:
    """The cookies of somebody who logged in as an admin, with the form."""
    with chromium.new_context(base_url=ready.base) as context:
        form = context.new_page()
        form.goto("/")
        form.get_by_label("Your key").fill(ADMIN)
        form.get_by_role("button", name="Log in").click()
        expect(form.get_by_role("heading", level=1)).to_be_visible()
        return context.storage_state()


@pytest.fixture
def page(ready: Engine, chromium: Browser, logged_in: StorageState) -> Iterator[Page]:
    """A page of the admin who is logged in; it fails on a console error or a request to another host."""
    context = chromium.new_context(
        base_url=ready.base, viewport={"width": 1440, "height": 900}, storage_state=logged_in
    )
    opened = context.new_page()
    faults: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            faults.append(message.text)

    def on_request(request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(ready.base).netloc and not request.url.startswith("data:"):
            faults.append(f"request to {request.url}")

    opened.on("console", on_console)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", on_request)
    yield opened
    context.close()
    assert not faults


def test_every_page_is_accessible_in_both_themes_and_widths(page: Page) -> None:
    found = []
    for path in PAGES:
        page.goto(path)
        found += find_violations(page)
    assert not found, "\n".join(found)


def test_a_script_in_any_field_stays_text(page: Page) -> None:
    someone = quote(SCRIPT, safe="")
    more = [f"/customers/{someone}", f"/timeline?id={someone}", f"/experiments?q={someone}", "/bandits/monday_letter"]
    more += [f"/measure/{name}" for name in MEASURES]
    for path in (*PAGES, *more, f"/editor?file={someone}", "/editor?key=hostile.flag"):
        page.goto(path)
        page.wait_for_timeout(50)
        assert page.title() != "owned", path
        assert page.evaluate("document.querySelectorAll('main script, main img').length") == 0, path


def test_every_page_is_light_and_its_tables_download(ready: Engine) -> None:
    with httpx.Client(base_url=ready.base, follow_redirects=True, timeout=60) as client:
        log_in(client)
        for path in PAGES:
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert len(answer.content) < MOST_BYTES, path
            assert "script-src 'self'" in answer.headers["content-security-policy"]
            for link in set(re.findall(r'href="([^"]+format=(?:csv|json))"', answer.text)):
                table = client.get(httpx.URL(ready.base + path).join(link.replace("&amp;", "&")))
                assert table.status_code == 200, link
                assert table.headers["content-disposition"].startswith("attachment"), link
                if link.endswith("json"):
                    assert isinstance(table.json(), list)


def test_the_figures_are_those_of_the_command_line(ready: Engine) -> None:
    with httpx.Client(base_url=ready.base, follow_redirects=True, timeout=60) as client:
        log_in(client)
        rows = client.get("/experiments/checkout_layout?table=metrics&format=json").json()
        listed = {row["experiment"]: row for row in client.get("/experiments?format=json").json()}
    assert {row["metric"] for row in rows} == {"conversion", "revenue_per_customer"}
    assert listed["checkout_layout"]["units"] == CUSTOMERS
    assert listed["checkout_layout"]["verdict"] == "keep running"
    assert listed["a_draft"]["state"] == "draft"


def test_a_login_is_needed_and_a_publishable_key_has_none(ready: Engine) -> None:
    with httpx.Client(base_url=ready.base, timeout=60) as client:
        answer = client.get("/experiments?q=x")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/login?next=%2Fexperiments%3Fq%3Dx"
        assert log_in(client, "pk-browser-tests").status_code == 403
        assert log_in(client, "wrong").status_code == 401
        assert client.get("/").status_code == 303
        done = log_in(client)
        assert done.status_code == 303
        cookie = done.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert client.get("/").status_code == 200


def test_a_person_logs_in_at_the_provider(ready: Engine, chromium: Browser) -> None:
    context = chromium.new_context(base_url=ready.base)
    page = context.new_page()
    printed: list[str] = []
    page.on("console", lambda message: printed.append(message.text) if message.type == "error" else None)
    page.goto("/experiments/checkout_layout")
    assert "owned" not in page.title()
    page.get_by_role("link", name="Log in with a staff account").click()
    page.get_by_label("Account").fill("olga")
    page.get_by_role("button", name="Allow").click()
    page.wait_for_url("**/experiments/checkout_layout")
    expect(page.get_by_role("button", name="Pause on all servers")).to_be_visible()
    expect(page.get_by_text("olga@example.org").first).to_be_attached()
    page.goto("/editor?key=checkout_layout")
    expect(page.get_by_role("button", name="Write to the experiments folder")).to_have_count(0)
    context.close()
    assert printed == []


def test_a_viewer_may_look_and_not_switch(ready: Engine) -> None:
    with httpx.Client(base_url=ready.base, timeout=60) as client:
        log_in(client, VIEWER)
        text = client.get("/experiments/checkout_layout").text
        assert "Pause on all servers" not in text
        token = text.partition('data-token="')[2].partition('"')[0]
        body = {"token": token, "key": "checkout_layout", "do": "pause"}
        assert client.post("/switch", data=body).status_code == 403


def test_another_sites_form_is_refused(ready: Engine) -> None:
    with httpx.Client(base_url=ready.base, timeout=60) as client:
        log_in(client)
        token = client.get("/").text.partition('data-token="')[2].partition('"')[0]
        body = {"token": token, "key": "checkout_layout", "do": "pause"}
        for headers, form in (
            ({}, body | {"token": "x"}),
            ({"origin": "https://elsewhere.example"}, body),
            ({"sec-fetch-site": "cross-site"}, body),
        ):
            assert client.post("/switch", data=form, headers=headers).status_code == 403
        assert (
            client.post("/login", data={"token": token, "key": ADMIN, "next": "//evil.example"}).headers["location"]
            == "/"
        )


def test_the_kill_switch_stops_an_experiment_at_the_servers(page: Page, ready: Engine) -> None:
    body = {"customer": {"user_id": "u-1"}, "channel": "web", "experiments": ["checkout_layout"]}

    def reason() -> str:
        answer = ready.api("POST", "/v1/decide", body).json()
        return str(answer["experiments"]["checkout_layout"]["reason"])

    page.goto("/experiments/checkout_layout")
    page.get_by_label("Reason, for the audit log").fill("a test")
    page.get_by_role("button", name="Pause on all servers").click()
    expect(page.get_by_role("button", name="Resume on all servers")).to_be_visible()
    page.wait_for_timeout(1000)
    assert reason() == "paused"
    page.get_by_role("button", name="Resume on all servers").click()
    expect(page.get_by_role("button", name="Pause on all servers")).to_be_visible()
    page.wait_for_timeout(1000)
    assert reason() in {"assigned", "sticky"}


def test_the_keyboard_reaches_the_content(page: Page) -> None:
    page.goto("/experiments")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Search")).to_be_focused()


def test_a_draft_is_checked_rehearsed_written_and_run(page: Page, ready: Engine) -> None:
    page.goto("/editor?key=checkout_layout")
    text = page.get_by_role("textbox", name="YAML").input_value()
    page.get_by_role("textbox", name="YAML").fill(text.replace("primary: conversion", "primary: conversoin"))
    expect(page.get_by_text("did you mean 'conversion'?")).to_be_visible()
    expect(page.get_by_role("button", name="Write to the experiments folder")).to_be_disabled()
    page.get_by_role("textbox", name="YAML").fill(text.replace("{layout: one_page}", "{layout: written_here}"))
    expect(page.get_by_text("No problem.")).to_be_visible()
    beside = page.locator("#beside")
    expect(beside.get_by_role("cell", name="variants")).to_be_visible()
    expect(beside.get_by_text("customers of the newest decisions")).to_be_visible()
    expect(beside.get_by_text("written_here").first).to_be_visible()
    page.get_by_label("I accept unsafe changes").check()
    page.get_by_role("button", name="Write to the experiments folder").click()
    expect(page.get_by_text("Written.")).to_be_visible()
    body = {"customer": {"user_id": "u-1"}, "channel": "web", "experiments": ["checkout_layout"]}
    payloads = []
    for _ in range(100):
        answers = [
            ready.api("POST", "/v1/decide", body | {"customer": {"user_id": f"u-{number}"}}).json()
            for number in range(8)
        ]
        payloads = [answer["experiments"]["checkout_layout"]["payload"] for answer in answers]
        if {"layout": "written_here"} in payloads:
            break
        page.wait_for_timeout(200)
    assert {"layout": "written_here"} in payloads
    page.goto("/experiments/checkout_layout")
    expect(page.get_by_role("cell", name="variants").first).to_be_visible()


def test_a_file_that_somebody_else_changed_is_not_overwritten(ready: Engine) -> None:
    path = ready.settings.experiments / "push_message.yaml"
    with httpx.Client(base_url=ready.base, timeout=60) as client:
        log_in(client)
        opened = client.get("/editor?file=push_message.yaml").text
        token, seen = (opened.partition(f'name="{name}" value="')[2].partition('"')[0] for name in ("token", "seen"))
        draft = {"token": token, "seen": seen, "name": "push_message.yaml", "text": path.read_text() + "# mine\n"}
        path.write_text(path.read_text() + "# theirs\n")
        refused = client.post("/editor/write", data=draft)
        assert refused.status_code == 409
        assert "it was changed while you wrote" in refused.text, re.findall('role="alert">([^<]*)', refused.text)
        assert path.read_text().endswith("# theirs\n")
        for name in ("../secret.yaml", "/etc/x.yaml", "offers/../../x.yaml", "x.txt", ".hidden.yaml"):
            assert client.post("/editor/write", data=draft | {"name": name}).status_code == 409, name


def test_a_customer_is_found_explained_exported_and_erased(page: Page) -> None:
    page.goto("/customers")
    page.get_by_label("Any id of a customer").fill("u-7")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("heading", name="u-7")).to_be_visible()
    expect(page.locator(".timeline li").first).to_be_visible()
    expect(page.get_by_text("chosen in", exact=False).first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export everything, as JSON").click()
    assert "u-7" in download.value.path().read_text()
    page.get_by_label("It cannot be undone").check()
    page.get_by_role("button", name="Erase this customer").click()
    expect(page.get_by_role("heading", name="The customer is erased")).to_be_visible()
    gone = page.request.get("/customers/u-7")
    assert gone.status == 404


def test_the_planner_answers_while_its_slider_moves(page: Page) -> None:
    page.goto("/power?baseline=proportion:0.1&method=fixed&mde=5")
    first = page.locator("#answer .amount").inner_text()
    assert first.startswith("115,520 customers")
    page.get_by_label("Smallest effect that matters").fill("10")
    expect(page.locator("#answer .amount")).not_to_have_text(first)
    assert "mde=10" in page.url


def test_live_figures_arrive_by_themselves(page: Page, ready: Engine) -> None:
    page.goto("/live")
    expect(page.get_by_role("status")).to_have_text("Live")
    for number in range(20):
        body = {"customer": {"user_id": f"live-{number}"}, "channel": "web", "placements": ["home_hero"]}
        ready.api("POST", "/v1/decide", body)
    expect(page.locator('[data-figure="decisions"]')).not_to_have_text("0 /s")


def test_what_people_did_is_in_the_audit_log(ready: Engine) -> None:
    with httpx.Client(base_url=ready.base, follow_redirects=True, timeout=60) as client:
        log_in(client)
        for _ in range(100):
            rows = client.get("/audit?table=actions&format=json").json()
            if {"customer erased", "experiments written", "experiment paused", "dashboard login"} <= {
                row["what"] for row in rows
            }:
                break
            time.sleep(0.5)
        assert {row["who"] for row in rows} <= {"anna", "vera", "olga@example.org"}
        assert "experiment paused" in {row["what"] for row in rows}
        assert not any("u-7" in str(row) for row in rows)

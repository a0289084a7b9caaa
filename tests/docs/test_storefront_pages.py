"""The copy-and-paste pages: each is built as its page says and talks to an engine.

`.ci/run` installs what they need beside Python, and requires it: Chromium, PHP, a JDK, React with esbuild from Debian.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
DEBIAN_MODULES = "/usr/share/nodejs"


@pytest.fixture
def chromium_page(require_tools: Any) -> Iterator[Page]:
    require_tools("/usr/bin/chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield page
        browser.close()
        assert faults == []


def logged(reader: Any, table: str, where: str = "true") -> list[tuple[Any, ...]]:
    """Rows that the reader's shop wrote into the log, after everything answered was collected."""
    files = reader.log / f"{table}/*/*.parquet"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            rows = duckdb.sql(
                f"SELECT decision_id FROM read_parquet('{files}', union_by_name=true) "
                f"WHERE time >= TIMESTAMPTZ '{reader.began.isoformat()}' AND {where}"
            ).fetchall()
        except duckdb.IOException:
            rows = []
        if rows:
            return rows
        time.sleep(0.2)
    raise AssertionError(f"no row in {table} where {where}")


def test_a_plain_html_page(reader: Any, chromium_page: Page) -> None:
    shutil.copytree(ROOT / "experiments", reader.folder / "experiments")
    patient = (reader.folder / "page.js", "url:", "timeout: 20000, url:")
    follow_in_part(reader, "how-to/storefront/html.md", patient)
    page = chromium_page
    page.goto(f"http://localhost:{reader.ports['8000']}/")
    expect(page.locator(".hero")).to_have_attribute("data-state", re.compile("offer|fallback"))
    page.reload()
    expect(page.locator(".checkout")).to_have_attribute("data-state", "variant")
    page.get_by_role("button").click()
    assert logged(reader, "events", "event = 'checkout_sent'")
    assert logged(reader, "exposures", "key = 'checkout_layout'")
    assert page.evaluate("() => document.querySelectorAll('[data-when]:not([hidden])').length") == 1


def follow_in_part(reader: Any, page: str, change: tuple[Path, str, str]) -> None:
    """Follow a page whose client then has the patience for a busy test machine."""
    reader.follow(page)
    path, old, new = change
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def esbuild(folder: Path, source: str, target: str, *more: str) -> None:
    command = ["esbuild", source, "--bundle", f"--outfile={target}", "--jsx=automatic", *more]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"NODE_PATH": DEBIAN_MODULES}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_react(require_tools: Any, chromium_page: Page, shop: Any) -> None:
    require_tools("esbuild", f"{DEBIAN_MODULES}/react-dom")
    shop.follow("how-to/storefront/react.md")
    source = shop.folder / "page.jsx"
    source.write_text(source.read_text().replace("timeout: 180", "timeout: 20000"))
    esbuild(shop.folder, "page.jsx", "bundle.js", "--format=esm", '--define:process.env.NODE_ENV="production"')
    page = chromium_page
    body = "<!doctype html><html lang=en><div id=root></div><script type=module src=/page/bundle.js></script></html>"
    policy = "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self'"
    page.route(
        "**/page",
        lambda route: route.fulfill(body=body, content_type="text/html", headers={"content-security-policy": policy}),
    )
    page.route("**/page/bundle.js", lambda route: route.fulfill(path=shop.folder / "bundle.js"))
    page.goto(f"{shop.base}/page")
    expect(page.locator("h1")).to_be_visible()
    expect(page.locator(".checkout")).to_have_text(re.compile("One page|Three steps"))
    page.locator("h1").click()
    assert logged(shop, "exposures", "key = 'home_hero'")
    assert logged(shop, "exposures", "key = 'checkout_layout'")
    assert logged(shop, "events", "event = 'click'")


RENDER = """
import { renderToStaticMarkup } from "react-dom/server";
import Page from "./app/page.jsx";
import { POST } from "./app/api/seen/route.js";
const html = renderToStaticMarkup(await Page());
const [decision] = SEEN;
const answer = await POST({ text: async () => JSON.stringify({ decision, placement: "home_hero" }) });
console.log(JSON.stringify({ html, status: answer.status }));
"""


def test_next(require_tools: Any, shop: Any) -> None:
    require_tools("esbuild", "node", f"{DEBIAN_MODULES}/react-dom")
    shop.follow("how-to/storefront/next.md", **{", 250)": ", 20000)"})
    shop.write("next_headers.js", "export const cookies = async () => ({ get: () => ({ value: 'visitor-1' }) });")
    # The page renders the decision's id into no attribute, so the test's own decision is reported as seen.
    body = {"customer": {"anonymous_id": "visitor-2"}, "channel": "web", "placements": ["home_hero"], "expose": False}
    decision = httpx.post(f"{shop.base}/v1/decide", json=body).json()["decision_id"]
    shop.write("render.jsx", RENDER.replace("SEEN", json.dumps([decision])))
    more = ("--format=esm", "--platform=node", "--alias:next/headers=./next_headers.js")
    banner = "--banner:js=import { createRequire } from 'module'; const require = createRequire(import.meta.url);"
    esbuild(shop.folder, "render.jsx", "render.mjs", *more, banner)
    environment = os.environ | {"SHOP_ENGINE_URL": shop.base}
    done = subprocess.run(
        [str(shutil.which("node")), "render.mjs"],
        cwd=shop.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert re.search(r"<main data-layout=\"(control|one_page)\"><div><h1>[^<]+</h1>", found["html"])
    assert found["status"] == 204
    assert logged(shop, "exposures", f"decision_id = '{decision}'")
    assert logged(shop, "decisions", "customer = 'visitor-1'")


def test_php(require_tools: Any, shop: Any) -> None:
    require_tools("php")
    os.environ["SHOP_ENGINE_URL"] = shop.base.replace("localhost", "127.0.0.1")
    try:
        shop.follow("how-to/storefront/php.md", **{", 0.25)": ", 20.0)"})
    finally:
        del os.environ["SHOP_ENGINE_URL"]
    with httpx.Client(base_url=f"http://localhost:{shop.ports['8000']}", timeout=20) as visitor:
        page = visitor.get("/").text
        assert re.search(r"<h1>[^<]+</h1>", page)
        assert re.search(r'class="(control|one_page)"', page)
        assert visitor.post("/", data={"order": "1"}).status_code == 200
        who = visitor.cookies["visitor"]
    assert logged(shop, "events", f"event = 'purchase' AND revenue = 12.5 AND customer = '{who}'")


DJANGO = """
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="of-a-test", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.sessions"], SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)
django.setup()
from django.test import Client
from django.urls import path

import views

views.shop.timeout = 20
urlpatterns = [path("", views.home), path("login/<str:user_id>", views.login)]
visitor = Client()
page = visitor.get("/").content.decode()
assert "<h1>" in page and ("control" in page or "one_page" in page), page
assert visitor.post("/").status_code == 200
assert visitor.get("/login/anna").status_code == 204
assert visitor.get("/").status_code == 200
print(visitor.cookies["visitor"].value)
"""


def test_django(shop: Any) -> None:
    shop.follow("how-to/storefront/django.md")
    shop.write("shopfront.py", DJANGO)
    environment = shop.environment() | {"SHOP_ENGINE_URL": shop.base.replace("localhost", "127.0.0.1")}
    command = [sys.executable, "shopfront.py"]
    done = subprocess.run(
        command, cwd=shop.folder, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert logged(shop, "events", "event = 'purchase' AND revenue = 12.5")
    profile = httpx.get(f"{shop.base}/v1/profiles/anna").json()
    assert profile["identifiers"]["anonymous_id"] == [done.stdout.strip()]


def test_a_till_in_java(require_tools: Any, shop: Any) -> None:
    require_tools("javac")
    printed = shop.follow("how-to/storefront/java.md", **{"ofMillis(500)": "ofMillis(20000)"})
    assert "Paid: true\nSent again: true" in printed
    assert len(logged(shop, "events", "event = 'purchase' AND channel = 'store'")) == 1
    till = "java Till.java http://localhost:9"
    assert "Say: Thank you\nPaid: false" in shop.run(till)

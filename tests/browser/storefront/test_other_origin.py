"""`/client.js` on a page of the shop's own server, which is another origin than the engine's."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext

from engine.customer import CustomerIds, prove
from engine.journal.records import EventRecord
from tests.browser.storefront.conftest import await_records

KEYS = """
keys:
  - {name: page, role: client, key: pk-page-1, secret: kept-by-the-backend, origins: [ORIGIN]}
"""


class ShopPage(http.server.BaseHTTPRequestHandler):
    """An empty page of the shop's own server, whose policy lets scripts and requests reach the engine alone."""

    engine = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        policy = f"default-src 'none'; script-src {self.engine}; connect-src {self.engine}; img-src 'self'"
        self.send_header("content-security-policy", policy)
        self.end_headers()
        self.wfile.write(b"<!doctype html>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is the library's)
        pass


@pytest.fixture
def elsewhere() -> Iterator[Callable[[str], str]]:
    """`elsewhere(engine)`: the origin of a server of the shop, whose pages may reach that engine."""

    def origin(engine: str) -> str:
        ShopPage.engine = engine or ShopPage.engine
        return f"http://localhost:{server.server_port}"

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ShopPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield origin
        server.shutdown()


def test_a_page_of_another_origin_reports_with_its_key_also_when_it_goes(
    context: BrowserContext, elsewhere: Any, serve: Any, shop: Path, valkey: Any, tmp_path: Path
) -> None:
    (tmp_path / "keys.yaml").write_text(KEYS.replace("ORIGIN", elsewhere("")))
    environment = {"COUNTERPOINT_API_KEYS": str(tmp_path / "keys.yaml"), "COUNTERPOINT_STORE_TIMEOUT": "5"}
    with serve(tmp_path, valkey.url, shop, environment) as engine:
        page = context.new_page()
        printed: list[str] = []
        page.on("console", lambda message: printed.append(message.text))
        page.expose_function("sign", lambda ids: prove(b"kept-by-the-backend", CustomerIds(**ids)))
        page.goto(elsewhere(engine.base))
        ids = page.evaluate(
            """async (base) => {
              const { connect } = await import(`${base}/client.js`);
              const shop = connect({ url: base, key: 'pk-page-1', proof: (ids) => window.sign(ids), timeout: 20000 });
              const decision = await shop.decide({ placements: ['home_hero'] });
              if (decision.degraded) throw new Error('degraded');
              shop.login('ada'); await shop.flush();
              shop.track('view', { category: 'tea' }); shop.click(decision, 'home_hero');
              return shop.ids;
            }""",
            engine.base,
        )
        assert ids["user_id"] == "ada"
        page.goto(f"{page.url}/next")
        found = await_records(engine, lambda one: isinstance(one, EventRecord) and one.event in ("view", "click"), 2)
        assert {one.event for one in found} == {"view", "click"}
        assert printed == []

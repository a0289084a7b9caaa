"""The documentation as pages of a server: every page is rendered, and every link leads to a page and a heading."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.service.guide.pages import address_of, page_names, read_menu, read_page

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMES = page_names(DOCS)


def test_every_page_is_served_and_its_links_lead_somewhere(server: Any) -> None:
    pages = {address_of(name): server.get(address_of(name)) for name in NAMES}
    assert {page.status_code for page in pages.values()} == {200}
    anchors = {address: set(re.findall(r' id="([^"]+)"', page.text)) for address, page in pages.items()}
    for address, page in pages.items():
        assert "script" not in page.headers["content-security-policy"]
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.text):
            path, _, anchor = unescape(link).partition("#")
            path = path or address
            if path.startswith("/docs/guide/pictures/") or path == "/docs/guide.css":
                assert server.get(path).status_code == 200, link
            elif path.startswith("/docs/guide"):
                assert path in pages, f"{address}: {link}"
                assert not anchor or anchor in anchors[path], f"{address}: {link}"
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        assert httpx.request(method, f"{server.base}/docs/guide/no/such-page").status_code == 404, method
    options = httpx.options(server.base + address_of(NAMES[-1]))
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert server.get("/docs/guide/..%2f..%2fpyproject.toml").status_code == 404


def test_the_menu_leads_to_the_pages_of_the_index() -> None:
    menu = read_menu(DOCS)
    assert 'href="/docs/guide/tutorial/first-experiment"' in menu
    assert "<h2>Learn</h2>" in menu


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("# A\n<script>x</script>", "&lt;script&gt;"),
        ("# A\n[a](javascript:x)", "[a](javascript:x)"),
        ("# A\n[a](../outside.md)", "<p>a</p>"),
        ("# A\n[a](page.md#b-c)\n\n## B, c", 'href="/docs/guide/page#b-c"'),
        ("# A\n```python\nimport x\n```", '<span class="kn">import</span>'),
        ("# A\n```nonsense\n<b>\n```", "&lt;b&gt;"),
    ],
)
def test_a_page_shows_text_as_text_and_links_within_the_guide(tmp_path: Path, markdown: str, shown: str) -> None:
    (tmp_path / "page.md").write_text(markdown)
    page = read_page(tmp_path, "page.md")
    assert page.title == "A"
    assert shown in page.content

"""`/docs/guide`: renders a page on its first request, in a thread, so that no decision waits for it."""

import asyncio
import html
from pathlib import Path
from string import Template

from engine.service.auth import RequestGuard
from engine.service.endpoints.files import KINDS, file_route
from engine.service.guide.pages import ADDRESS, address_of, guide_folder, page_names, read_menu, read_page
from engine.service.http import Call, Reply, ReplyHeaders, Route, endpoint
from engine.service.problems import Refusal

_HERE = Path(__file__).parent
_POLICY = b"default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
_HEADERS: ReplyHeaders = (
    (b"content-type", KINDS[".html"]),
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"public, max-age=60"),
)


class Guide:
    """The pages of a folder, each rendered once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = {address_of(name): name for name in page_names(folder)}
        self._rendered: dict[str, bytes] = {}

    def read(self, address: str) -> bytes:
        """The page at an address.

        Raises:
            Refusal: 404 if there is none.
        """
        if address not in self._names:
            raise Refusal(404, f"the guide has no page {address!r}; begin at {ADDRESS}")
        if address not in self._rendered:
            page = read_page(self._folder, self._names[address])
            here, current = f'href="{address}"', f'href="{address}" aria-current="page"'
            menu = read_menu(self._folder).replace(f"{here}>", f"{current}>")
            template = Template((_HERE / "guide.html").read_text(encoding="utf-8"))
            shown = template.substitute(title=html.escape(page.title), menu=menu, content=page.content)
            self._rendered[address] = shown.encode()
        return self._rendered[address]


def guide_routes(guard: RequestGuard) -> list[Route]:
    """The routes of the guide's pages, style and pictures; none if the documentation is not installed."""
    folder = guide_folder()
    if not folder.is_dir():
        return []
    guide = Guide(folder)

    async def answer(call: Call) -> Reply:
        path = str(call.path.get("page", "")).strip("/")
        body = await asyncio.to_thread(guide.read, f"{ADDRESS}/{path}".rstrip("/"))
        return Reply(body, headers=_HEADERS)

    pictures = sorted((folder / "pictures").glob("*.png"))
    return [
        endpoint(ADDRESS, {"GET": answer}, limit=0, guard=guard),
        endpoint(f"{ADDRESS}/{{page:path}}", {"GET": answer}, limit=0, guard=guard, names_pages=True),
        file_route("/docs/guide.css", _HERE / "guide.css", guard),
        *(file_route(f"{ADDRESS}/pictures/{path.name}", path, guard) for path in pictures),
    ]

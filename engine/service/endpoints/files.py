"""Serves files for browsers: the storefront's script with its types, and the demo shop. They are read at start."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from engine.service.auth import RequestGuard
from engine.service.http import Call, Reply, ReplyHeaders, Route, endpoint

PACKAGE = Path(__file__).resolve().parents[2]
SCRIPT_FOLDER = PACKAGE / "storefront"
KINDS: Mapping[str, bytes] = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".png": b"image/png",
    ".svg": b"image/svg+xml",
    ".ts": b"text/plain; charset=utf-8",
}
"""The content types of the files that are served, by ending."""
ANY_PAGE: ReplyHeaders = (
    (b"access-control-allow-origin", b"*"),
    (b"cross-origin-resource-policy", b"cross-origin"),
)
"""Pages of every origin may load a module script only with these."""
SECONDS = 300
SHOP_FOLDER = PACKAGE / "shop"
SHOP_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SHOP_HEADERS: ReplyHeaders = ((b"content-security-policy", SHOP_POLICY), (b"referrer-policy", b"same-origin"))


def shop_routes(guard: RequestGuard) -> list[Route]:
    """The routes of `/shop`, the demo shop, which uses the public API, and of its files."""
    files = sorted(path for path in SHOP_FOLDER.rglob("*") if path.suffix in KINDS)
    names = {path: path.relative_to(SHOP_FOLDER).as_posix() for path in files}
    addresses = {path: "/shop" if name == "index.html" else f"/shop/{name}" for path, name in names.items()}
    return [file_route(address, path, guard, SHOP_HEADERS) for path, address in addresses.items()]


def script_routes(guard: RequestGuard) -> list[Route]:
    """The routes of `/client.js` with its types, and of `/exposure-hook.js`."""
    names = ("client.js", "client.d.ts", "exposure-hook.js")
    return [file_route(f"/{name}", SCRIPT_FOLDER / name, guard, ANY_PAGE) for name in names]


def file_route(address: str, path: Path, guard: RequestGuard, headers: ReplyHeaders = ()) -> Route:
    """A route that answers with a file and an ETag, so that a browser fetches it again only when it changed."""
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    sent = (
        (b"content-type", KINDS[path.suffix]),
        (b"cache-control", b"public, max-age=%d" % SECONDS),
        (b"etag", tag.encode()),
        (b"x-content-type-options", b"nosniff"),
        *headers,
    )

    async def answer(call: Call) -> Reply:
        if tag in call.header(b"if-none-match"):
            return Reply(b"", 304, sent)
        return Reply(body, headers=sent)

    return endpoint(address, {"GET": answer}, limit=0, guard=guard)

"""Cross-origin requests: which pages in a browser may read the answers (Fetch standard, CORS).

The origins of a publishable key are in the file of keys. A preflight carries no key, so it is answered for the origins
of all keys; the request that follows is refused if its own key does not list its origin. Keys travel in headers of
their own and never in cookies, so credentials are not allowed.
"""

from collections.abc import Collection, Iterable, Sequence

from engine.service.problems import Refusal

HeaderPairs = tuple[tuple[bytes, bytes], ...]

_REQUEST_HEADERS = (
    b"authorization, content-type, idempotency-key, if-none-match, x-api-key, x-counterpoint-preview, "
    b"x-customer-proof, x-request-id"
)
_ANSWER_HEADERS = b"ETag, Retry-After, X-Request-Id"
_PREFLIGHT_SECONDS = b"600"
_VARY = (b"vary", b"origin")


def origin_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The origin of the page that sends a request; empty if no browser names one."""
    return next((value.decode("latin-1") for name, value in headers if name == b"origin"), "")


def cors_headers(headers: Iterable[tuple[bytes, bytes]], origins: Collection[str]) -> HeaderPairs:
    """The headers by which a browser lets a page of one of `origins` read the answer."""
    if not origins:
        return ()
    origin = origin_of(headers)
    if origin not in origins:
        return (_VARY,)
    return (
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _ANSWER_HEADERS),
        _VARY,
    )


def options_headers(
    headers: Sequence[tuple[bytes, bytes]], methods: Iterable[str], origins: Collection[str]
) -> HeaderPairs:
    """The headers of an answer to OPTIONS: the methods, and for a preflight the permission to send the request.

    Raises:
        Refusal: 403 to the preflight of an origin that no key lists.
    """
    allowed = ", ".join((*methods, "OPTIONS")).encode()
    is_preflight = any(name == b"access-control-request-method" for name, _ in headers)
    if not is_preflight:
        return ((b"allow", allowed),)
    origin = origin_of(headers)
    if origin not in origins:
        detail = f"no client key lists the origin {origin!r}; add it to the origins of the page's key"
        raise Refusal(403, detail, "origin")
    return (
        (b"allow", allowed),
        (b"access-control-allow-methods", allowed),
        (b"access-control-allow-headers", _REQUEST_HEADERS),
        (b"access-control-max-age", _PREFLIGHT_SECONDS),
    )

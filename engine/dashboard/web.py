"""The layer between Litestar and the views: sessions, roles, forms, pages, downloads, and errors as pages.

A view takes a `PageVisit` and returns a `Page`, a `Redirect` or a `Download`. Every answer has headers that forbid
other hosts' scripts, styles, frames and forms, so a `<script>` that somebody typed into a field stays text.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

import structlog
from litestar import Request, Response
from litestar.datastructures import State
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler, route
from litestar.response import Stream as StreamingResponse

from engine.dashboard.board.desk import Desk
from engine.dashboard.openid import LOGIN_SECONDS
from engine.dashboard.rendering import render_page
from engine.dashboard.sessions import COOKIE, PENDING_COOKIE, SESSION_SECONDS, Session, has_role
from engine.dashboard.tables import DataTable, table_csv, table_json
from engine.errors import CounterpointError, StoreUnavailable
from engine.service.access.hosts import is_loopback
from engine.service.access.openid_settings import DashboardRole
from engine.service.problems import Refusal

WebRequest = Request[Any, Any, State]

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
THEMES = ("light", "dark")
_NOT_IN_FILE_NAME = re.compile(r"[^\w.-]+")
_NOT_IN_ASCII_NAME = re.compile(r"[^\w.-]+", re.ASCII)
MOST_NAME = 100
"""Characters of a file's name before its ending."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class PageVisit:
    """One request of a person: identity, page, parameters, and the submitted form."""

    desk: Desk
    session: Session
    path: Mapping[str, str]
    url: str
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    cookies: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""
    is_secure: bool = False

    @property
    def theme(self) -> str:
        """The theme that the person chose; empty to follow the system."""
        theme = self.cookies.get("theme", "")
        return theme if theme in THEMES else ""

    @property
    def own_address(self) -> str:
        """The address by which the browser reached us, as `https://host`, trusting the `Host` header."""
        host = dict(self.headers).get(b"host", b"").decode("latin-1")
        return f"{'https' if self.is_secure else 'http'}://{host}"

    def may(self, role: DashboardRole) -> bool:
        """Whether the person has at least this role."""
        return has_role(self.session, role)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page: its template with the values for it, and the tables that can be downloaded from its address."""

    template: str
    title: str
    context: Mapping[str, object] = field(default_factory=dict)
    tables: tuple[DataTable, ...] = ()
    status: int = 200


@dataclass(frozen=True, kw_only=True)
class Redirect:
    """A redirection to another page; a new session replaces the cookie.

    `pending` is the cookie of a login that is under way; an empty one removes it.
    """

    to: str
    session: Session | None = None
    pending: str | None = None
    cookies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Download:
    """Bytes that are not a page; `file` is the name to save them under, empty for none."""

    body: bytes
    media_type: str
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Parts of a body, sent as they come until the client leaves."""

    parts: AsyncIterator[bytes]
    media_type: str


PageAnswer = Page | Redirect | Download | Stream
PageView = Callable[[PageVisit], Awaitable[PageAnswer]]


def page_route(
    path: str,
    get: PageView | None = None,
    post: PageView | None = None,
    *,
    role: DashboardRole | None = "view",
    is_rest: bool = False,
    desk: Desk,
) -> HTTPRouteHandler:
    """The route of a page.

    Args:
        path: may have parameters, as `/experiments/{key:path}`.
        get: shows it.
        post: takes its form, after the form's token was checked; HEAD is answered by `get`.
        role: the least role that may see it; None for those who have not logged in.
        is_rest: the route takes every method, since no page has the addresses that come to it.
        desk: what the views read.
    """
    offered = [*([HttpMethod.GET, HttpMethod.HEAD] if get else []), *([HttpMethod.POST] if post else [])]
    methods = list(HttpMethod) if is_rest else [*offered, HttpMethod.OPTIONS]
    has_parameters = "{" in path

    async def handle(request: WebRequest) -> Response[Any]:
        is_new, session = False, Session(id="")
        try:
            session, is_new = desk.sessions.read(request.scope["headers"], request.cookies.get(COOKIE))
            if request.method == "OPTIONS" and not has_parameters:
                return _options(offered)
            visit = await _visit(request, desk, session)
            answer = await _answer(visit, get, post if request.method == "POST" else None, role)
        except Exception as error:  # noqa: BLE001 # every error becomes a page that says what to do
            answer, visit = _error_page(error), _bare_visit(request, desk, session)
        if request.method == "OPTIONS" and not (isinstance(answer, Page) and answer.status == 404):
            return _options(offered)
        return _respond(visit, answer, fresh=session if is_new and session.id else None)

    return route(path, http_method=methods, opt={"role": role})(handle)


def _options(offered: Iterable[HttpMethod]) -> Response[Any]:
    """The answer to OPTIONS of a page that exists: its methods."""
    allowed = ", ".join([*(method.value for method in offered), "OPTIONS"])
    return Response(b"", status_code=204, headers={**SECURITY_HEADERS, "allow": allowed})


async def _answer(
    visit: PageVisit, get: PageView | None, post: PageView | None, role: DashboardRole | None
) -> PageAnswer:
    if role is not None and not visit.may(role):
        if visit.session.role is None:
            return Redirect(to=f"/login?{urlencode({'next': visit.url})}")
        raise Refusal(403, f"this needs the role {role}; {visit.session.name} has the role {visit.session.role}")
    if post is not None:
        token = visit.form.get("token") or dict(visit.headers).get(b"x-token", b"").decode("latin-1")
        visit.desk.sessions.require_own_form(visit.session, token, visit.headers)
        return await post(visit)
    if get is None:
        raise Refusal(405, "this address takes forms only; go back to the page that has it")
    return await get(visit)


async def _visit(request: WebRequest, desk: Desk, session: Session) -> PageVisit:
    form: dict[str, str] = {}
    if request.method == "POST":
        form = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    return replace(_bare_visit(request, desk, session), form=form)


def _bare_visit(request: WebRequest, desk: Desk, session: Session) -> PageVisit:
    """The visit without its form, which an error page does not need."""
    query = {name: value for name, value in request.query_params.items() if isinstance(value, str)}
    peer = request.client.host if request.client else ""
    if is_loopback(peer):  # only the decision server may name another peer
        peer = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip() or peer
    return PageVisit(
        desk=desk,
        session=session,
        path={name: str(value).removeprefix("/") for name, value in request.path_params.items()},
        url=quote(request.scope["path"], safe="/:@!$&'()*+,;=~")
        + (f"?{request.url.query}" if request.url.query else ""),
        query=query,
        headers=tuple(request.scope["headers"]),
        cookies=request.cookies,
        peer=peer,
        is_secure=desk.sessions.is_encrypted
        or request.url.scheme == "https"
        or request.headers.get("x-forwarded-proto") == "https",
    )


def _respond(visit: PageVisit, answer: PageAnswer, *, fresh: Session | None) -> Response[Any]:
    """The response of an answer, with the cookies that it sets."""
    response, is_secure = _response(visit, answer), visit.is_secure
    session = answer.session if isinstance(answer, Redirect) and answer.session else fresh
    if session is not None:
        response.set_cookie(
            COOKIE,
            visit.desk.sessions.encode(session),
            max_age=int(SESSION_SECONDS),
            path="/",
            httponly=True,
            samesite="lax",
            secure=is_secure,
        )
    if isinstance(answer, Redirect) and answer.pending is not None:
        response.set_cookie(
            PENDING_COOKIE,
            answer.pending,
            max_age=int(LOGIN_SECONDS) if answer.pending else 0,
            path="/login",
            httponly=True,
            samesite="lax",  # strict would keep it from the way back, which begins on the provider's page
            secure=is_secure,
        )
    for name, value in answer.cookies.items() if isinstance(answer, Redirect) else ():
        response.set_cookie(name, value, max_age=31_536_000, path="/", samesite="lax", secure=is_secure, httponly=True)
    return response


def _response(visit: PageVisit, answer: PageAnswer) -> Response[Any]:
    match answer:
        case Redirect():
            return Response(b"", status_code=303, headers={"location": answer.to, **SECURITY_HEADERS})
        case Download():
            named = {"content-disposition": _disposition(answer.file)} if answer.file else {}
            return Response(answer.body, media_type=answer.media_type, headers={**SECURITY_HEADERS, **named})
        case Stream():
            return StreamingResponse(answer.parts, media_type=answer.media_type, headers=SECURITY_HEADERS)
        case Page():
            if "format" in visit.query and answer.status == 200:
                return _response(visit, table_download(answer, visit.query))
            html = render_page(visit, answer)
            return Response(html, status_code=answer.status, media_type="text/html", headers=SECURITY_HEADERS)


def table_download(page: Page, query: Mapping[str, str]) -> PageAnswer:
    """The tables of a page, or the one that `table` names, as CSV or JSON."""
    form, name = query.get("format", ""), query.get("table", "")
    chosen = [table for table in page.tables if not name or table.name == name]
    known = ", ".join(table.name for table in page.tables) or "none"
    if form not in {"csv", "json"} or not chosen:
        return _error_page(Refusal(404, f"format={form}, table={name}: give csv or json, and one of {known}"))
    file = f"{page.title} {chosen[0].name if len(chosen) == 1 else ''}".strip().lower()
    if form == "json":
        return Download(body=table_json(chosen), media_type="application/json", file=f"{file}.json")
    if len(chosen) > 1:
        return _error_page(Refusal(404, f"format=csv: is of one table; add table= and one of {known}"))
    return Download(body=table_csv(chosen[0]), media_type="text/csv", file=f"{file}.csv")


def _disposition(file: str) -> str:
    """The header that saves a download under a name, encoded by RFC 6266, since headers are ASCII."""
    stem, _, ending = file.rpartition(".")
    clean = _NOT_IN_FILE_NAME.sub("-", stem).strip("-.")[:MOST_NAME] or "counterpoint"
    plain = _NOT_IN_ASCII_NAME.sub("-", stem).strip("-.")[:MOST_NAME] or "counterpoint"
    ending = _NOT_IN_ASCII_NAME.sub("-", ending)[:MOST_NAME]
    return f"attachment; filename=\"{plain}.{ending}\"; filename*=UTF-8''{quote(f'{clean}.{ending}', safe='')}"


def _error_page(error: Exception) -> Page:
    """The page of an error: its cause and the remedy."""
    match error:
        case Refusal():
            status, detail = error.status, error.detail
        case HTTPException():
            status = error.status_code
            detail = "no page has this address; use the menu" if status == 404 else error.detail
        case StoreUnavailable():
            status, detail = 503, f"the store does not answer: {error}; load the page again in a moment"
        case CounterpointError():
            status, detail = 400, str(error)
        case _:
            log.error("a page failed", exc_info=error)
            status, detail = 500, "the engine failed on this page; the dashboard's log has the error"
    title = {401: "Not logged in", 403: "Not allowed", 404: "Not found"}.get(status, "This did not work")
    return Page(template="error.html", title=title, context={"detail": detail, "status": status}, status=status)


def link_to(*parts: str, **query: str) -> str:
    """An address of the dashboard from the parts of its path, with a query."""
    path = "/" + "/".join(quote(part, safe="") for part in parts if part)
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path

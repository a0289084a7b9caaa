"""Login and logout, the theme, and the page for unknown addresses."""

import time
from urllib.parse import urlsplit

from engine.dashboard.sessions import PENDING_COOKIE
from engine.dashboard.web import THEMES, Download, Page, PageAnswer, PageVisit, Redirect, link_to
from engine.service.endpoints.admin import record_audit
from engine.service.problems import Refusal
from engine.vocabulary import DASHBOARD_LOGIN


async def login_page(visit: PageVisit) -> PageAnswer:
    """The form that takes a key; a person who is logged in is redirected."""
    target = own_address(visit.query.get("next", "/"))
    if visit.session.role is not None:
        return Redirect(to=target)
    return _login_form(visit, target)


async def log_in(visit: PageVisit) -> PageAnswer:
    """Log in with a key."""
    target = own_address(visit.form.get("next", "/"))
    try:
        session = visit.desk.sessions.log_in(visit.form.get("key", ""), visit.peer)
    except Refusal as refusal:
        reason = {401: "No key like this is configured. Ask who runs Counterpoint for one."}.get(
            refusal.status, _sentence(refusal)
        )
        return _login_form(visit, target, reason, refusal.status)
    record_audit(visit.desk.worker, DASHBOARD_LOGIN, {"by": session.name, "role": session.role}, time.time())
    return Redirect(to=target, session=session)


async def begin_openid(visit: PageVisit) -> PageAnswer:
    """Send the browser to the provider of OpenID Connect.

    It is a link, not a form: the policy of pages forbids a form to lead to another host.
    """
    target, openid = own_address(visit.query.get("next", "/")), visit.desk.sessions.openid
    if openid is None:
        raise Refusal(404, "no login by OpenID Connect is configured; log in with a key")
    try:
        address, pending = await openid.begin(target, visit.own_address)
    except Refusal as refusal:
        return _login_form(visit, target, _sentence(refusal), refusal.status)
    return Redirect(to=address, pending=visit.desk.sessions.seal(pending))


async def finish_openid(visit: PageVisit) -> PageAnswer:
    """Log in the person who returns from the provider."""
    sessions = visit.desk.sessions
    if sessions.openid is None:
        raise Refusal(404, "no login by OpenID Connect is configured; log in with a key")
    pending = sessions.unseal(visit.cookies.get(PENDING_COOKIE, ""))
    target = pending.target if pending else "/"
    try:
        session = sessions.log_in_by_claims(await sessions.openid.finish(visit.query, pending))
    except Refusal as refusal:
        return _login_form(visit, target, _sentence(refusal), refusal.status)
    by = {"by": session.name, "role": session.role, "with": sessions.openid.spec.issuer}
    record_audit(visit.desk.worker, DASHBOARD_LOGIN, by, time.time())
    return Redirect(to=target, session=session, pending="")


async def log_out(visit: PageVisit) -> Redirect:
    """End the session."""
    return Redirect(to="/login", session=visit.desk.sessions.log_out())


async def set_theme(visit: PageVisit) -> Redirect:
    """Choose light or dark; anything else follows the system."""
    theme = visit.form.get("theme", "")
    return Redirect(to=own_address(visit.form.get("next", "/")), cookies={"theme": theme if theme in THEMES else ""})


async def healthy(visit: PageVisit) -> Download:
    """Answers a container's health check."""
    del visit
    return Download(body=b'{"status":"live"}', media_type="application/json")


async def no_page(visit: PageVisit) -> Page:
    """The answer to an unknown address."""
    raise Refusal(404, f"no page has the address {visit.url}; use the menu")


def _login_form(visit: PageVisit, target: str, refused: str = "", status: int = 200) -> Page:
    openid = visit.desk.sessions.openid
    context = {
        "next": target,
        "refused": refused,
        "provider": openid.spec.title if openid else "",
        "begin": link_to("login", "openid", next=target),
    }
    return Page(template="login.html", title="Log in", context=context, status=status)


def _sentence(refusal: Refusal) -> str:
    return f"{refusal.detail[:1].upper()}{refusal.detail[1:]}."


def own_address(target: str) -> str:
    """An address within this dashboard; any other becomes the first page."""
    parts = urlsplit(target)
    is_own = not parts.scheme and not parts.netloc and target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_own and target.isprintable() else "/"

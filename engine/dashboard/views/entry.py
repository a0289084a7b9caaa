"""Login and logout, the theme, and the page of an address that has none."""

import time
from urllib.parse import urlsplit

from engine.dashboard.web import THEMES, Download, Page, PageAnswer, PageVisit, Redirect
from engine.service.endpoints.admin import record_audit
from engine.service.problems import Refusal
from engine.vocabulary import DASHBOARD_LOGIN


async def login_page(visit: PageVisit) -> PageAnswer:
    """The form that takes a key; whoever is logged in goes on."""
    target = own_address(visit.query.get("next", "/"))
    if visit.session.role is not None:
        return Redirect(to=target)
    return Page(template="login.html", title="Log in", context={"next": target, "refused": ""})


async def log_in(visit: PageVisit) -> PageAnswer:
    """Log in with a key."""
    target = own_address(visit.form.get("next", "/"))
    try:
        session = visit.desk.sessions.log_in(visit.form.get("key", ""), visit.peer)
    except Refusal as refusal:
        reason = {401: "No key like this is configured. Ask who runs Counterpoint for one."}.get(
            refusal.status, f"{refusal.detail[:1].upper()}{refusal.detail[1:]}."
        )
        context = {"next": target, "refused": reason}
        return Page(template="login.html", title="Log in", context=context, status=refusal.status)
    record_audit(visit.desk.worker, DASHBOARD_LOGIN, {"by": session.name, "role": session.role}, time.time())
    return Redirect(to=target, session=session)


async def log_out(visit: PageVisit) -> Redirect:
    """End the session."""
    return Redirect(to="/login", session=visit.desk.sessions.log_out())


async def set_theme(visit: PageVisit) -> Redirect:
    """Choose light or dark; anything else follows the system."""
    theme = visit.form.get("theme", "")
    return Redirect(to=own_address(visit.form.get("next", "/")), cookies={"theme": theme if theme in THEMES else ""})


async def healthy(visit: PageVisit) -> Download:
    """For a container's health check: the process answers."""
    del visit
    return Download(body=b'{"status":"live"}', media_type="application/json")


async def no_page(visit: PageVisit) -> Page:
    """The answer to an address without a page."""
    raise Refusal(404, f"no page has the address {visit.url}; use the menu")


def own_address(target: str) -> str:
    """An address of this dashboard: another site's becomes the first page."""
    parts = urlsplit(target)
    is_own = not parts.scheme and not parts.netloc and target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_own and target.isprintable() else "/"

"""Renders the templates; every value is escaped, and only charts may contain markup."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from engine.dashboard import figures
from engine.dashboard.navigation import SECTIONS

if TYPE_CHECKING:
    from engine.dashboard.web import Page, PageVisit

STATIC = Path(__file__).parent / "static"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def render_page(visit: PageVisit, page: Page) -> bytes:
    """The HTML of a page."""
    template = _environment().get_template(page.template)
    html = template.render(
        page=page,
        visit=visit,
        session=visit.session,
        token=visit.desk.sessions.token(visit.session) if visit.session.id else "",
        sections=SECTIONS,
        tables={table.name: table for table in page.tables},
        **page.context,
    )
    return html.encode()


@cache
def static_files() -> dict[str, tuple[bytes, str]]:
    """The content and the kind of each file in `static/`, by name."""
    return {path.name: (path.read_bytes(), KINDS[path.suffix]) for path in STATIC.iterdir() if path.suffix in KINDS}


@cache
def static_mark() -> str:
    """A text that changes with the static files, so that browsers can cache them."""
    return sha256(b"".join(body for body, _ in static_files().values())).hexdigest()[:12]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("engine.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name.removeprefix("format_"): getattr(figures, name) for name in dir(figures) if name.startswith("format_")
    }
    environment.globals |= {"mark": static_mark(), "release": version("counterpoint")}
    return environment

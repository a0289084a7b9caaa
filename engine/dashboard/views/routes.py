"""The addresses of the dashboard, each with its view and the least role that may see it."""

from functools import partial

from litestar.handlers import HTTPRouteHandler

from engine.dashboard.board.desk import Desk
from engine.dashboard.openid import DONE
from engine.dashboard.views import entry
from engine.dashboard.views.audit import audit
from engine.dashboard.views.bandits import bandit, bandits, roll_back
from engine.dashboard.views.customers import customer, customers, erase, export, timeline
from engine.dashboard.views.editor import check, download, editor, write
from engine.dashboard.views.experiment import experiment, switch
from engine.dashboard.views.experiments import experiments
from engine.dashboard.views.live import live, live_events
from engine.dashboard.views.measure import measure, measures
from engine.dashboard.views.moments import moments
from engine.dashboard.views.offers import offers, placement_offers
from engine.dashboard.views.overview import overview
from engine.dashboard.views.power import power
from engine.dashboard.web import page_route


def page_routes(desk: Desk) -> list[HTTPRouteHandler]:
    """All pages."""
    page = partial(page_route, desk=desk)
    return [
        page("/", overview),
        page("/experiments", experiments),
        page("/experiments/{key:path}", experiment),
        page("/switch", post=switch, role="operate"),
        page("/bandits", bandits),
        page("/bandits/{placement:path}", bandit),
        page("/rollback", post=roll_back, role="operate"),
        page("/offers", offers),
        page("/offers/{placement:path}", placement_offers),
        page("/moments", moments),
        page("/measure", measures),
        page("/measure/{name:path}", measure),
        page("/power", power),
        page("/customers", customers),
        page("/customers/{id:path}", customer),
        page("/timeline", timeline),
        page("/export", post=export, role="operate"),
        page("/erase", post=erase, role="admin"),
        page("/live", live),
        page("/live/events", live_events),
        page("/audit", audit),
        page("/editor", editor),
        page("/editor/check", post=check),
        page("/editor/download", post=download),
        page("/editor/write", post=write, role="admin"),
        page("/healthz", entry.healthy, role=None),
        page("/login", entry.login_page, entry.log_in, role=None),
        page("/login/openid", entry.begin_openid, role=None),
        page(DONE, entry.finish_openid, role=None),
        page("/logout", post=entry.log_out, role=None),
        page("/theme", post=entry.set_theme, role=None),
        page("/{address:path}", entry.no_page, role=None, is_rest=True),
    ]

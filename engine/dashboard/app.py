"""The dashboard as a Litestar application in a separate process that serves no decisions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler, route

from engine.dashboard.board.desk import Desk
from engine.dashboard.board.live_figures import LiveFigures
from engine.dashboard.board.plan_history import PlanHistory
from engine.dashboard.board.refresh import Refresher
from engine.dashboard.board.results import Results
from engine.dashboard.rendering import static_files
from engine.dashboard.sessions import Sessions
from engine.dashboard.views.routes import page_routes
from engine.dashboard.web import SECURITY_HEADERS
from engine.service.access.keys_file import read_access_file
from engine.service.auth import load_keys_from_settings
from engine.service.decision_flow import DecisionFlow
from engine.service.worker import Worker
from engine.settings import Settings

MOST_FORM_BYTES = 2_000_000
STORE_SECONDS = 1.0


def create_dashboard(settings: Settings, stopping: asyncio.Event | None = None) -> Litestar:
    """The dashboard of the engine that runs on these settings; `stopping` ends its streams.

    Raises:
        CatalogError: if the experiments folder has problems and no earlier plan is archived.
        BadInput: if the keys are invalid, or there are none and other machines could connect.
    """
    keys = load_keys_from_settings(settings)
    openid = read_access_file(settings.api_keys).openid if settings.api_keys else None
    sessions = Sessions(keys, settings.data, openid)
    # A page may wait for the store longer than a decision.
    patient = msgspec.structs.replace(settings, store_timeout=max(settings.store_timeout, STORE_SECONDS))
    worker = Worker(patient, logs_changes=False)
    results = Results()
    desk = Desk(
        settings=settings,
        worker=worker,
        flow=DecisionFlow(worker),
        results=results,
        refresher=Refresher(settings, results, lambda: worker.watch.plan),
        sessions=sessions,
        history=PlanHistory(settings.data / "plans"),
        live=LiveFigures(worker, settings),
        stopping=stopping or asyncio.Event(),
    )

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with worker.running():
            desk.refresher.start()
            try:
                yield
            finally:
                desk.refresher.stop()
                if sessions.openid is not None:
                    await sessions.openid.close()

    return Litestar(
        route_handlers=[_static_route(), *page_routes(desk)],
        lifespan=[lifespan],
        exception_handlers={HTTPException: _no_page},
        request_max_body_size=MOST_FORM_BYTES,
        openapi_config=None,
        logging_config=None,
    )


def _static_route() -> HTTPRouteHandler:
    methods = [HttpMethod.GET, HttpMethod.HEAD, HttpMethod.OPTIONS]

    @route("/static/{mark:str}/{name:str}", http_method=methods, sync_to_thread=False)
    def static(request: Request[object, object, State], name: str) -> Response[bytes]:
        body, kind = static_files().get(name, (b"", ""))
        if not kind:
            return Response(b"", status_code=404, headers=SECURITY_HEADERS)
        if request.method == "OPTIONS":
            return Response(b"", status_code=204, headers={**SECURITY_HEADERS, "allow": ", ".join(methods)})
        headers = {**SECURITY_HEADERS, "cache-control": "public, max-age=31536000, immutable"}
        return Response(body, media_type=kind, headers=headers)

    return static


def _no_page(request: Request[object, object, State], error: HTTPException) -> Response[bytes]:
    """The answer to an unknown address or method: a plain line with a link back."""
    del request
    line = "This address does not take the method" if error.status_code == 405 else "Nothing has this address"
    text = (
        f'<!doctype html><html lang="en"><title>{error.status_code}</title>'
        f'<p>{line}. <a href="/">Overview</a></p></html>'
    )
    headers = {**SECURITY_HEADERS, **(error.headers or {})}  # a 405 says which methods are allowed
    return Response(text.encode(), status_code=error.status_code, media_type="text/html", headers=headers)

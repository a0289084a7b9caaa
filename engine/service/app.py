"""The HTTP face as a Litestar application."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import HTTPScope, LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send

from engine.service.access.pages import Pages
from engine.service.access.shared_rates import SharedRates
from engine.service.auth import load_keys_from_settings
from engine.service.decision_batches import DecisionBatches
from engine.service.decision_flow import DecisionFlow
from engine.service.endpoints.admin import admin_routes
from engine.service.endpoints.decide import decide_routes
from engine.service.endpoints.due import due_routes
from engine.service.endpoints.events import event_routes
from engine.service.endpoints.explain import explain_routes
from engine.service.endpoints.exposures import exposure_routes
from engine.service.endpoints.files import script_routes, shop_routes
from engine.service.endpoints.flag_stream import FlagChanges, flag_stream_routes
from engine.service.endpoints.health import health_routes
from engine.service.endpoints.ofrep import ofrep_routes
from engine.service.endpoints.openapi import docs_routes
from engine.service.endpoints.operations import OPERATIONS
from engine.service.endpoints.profiles import profile_routes
from engine.service.endpoints.stock import stock_routes
from engine.service.guide.routes import guide_routes
from engine.service.http import keep_encoded_slashes, request_id_of
from engine.service.problems import PROBLEM, Refusal
from engine.service.worker import Worker
from engine.settings import Settings

NO_ROUTE = {
    404: "no endpoint has this address; see /docs",
    405: "this address does not take the method; see /docs",
}


class _App(Litestar):
    pages: Pages | None = None
    """The handler of requests for pages; None where no dashboard is configured."""
    flag_changes: FlagChanges | None = None
    """The open streams of notices, which a server that stops has to end."""

    async def __call__(
        self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend
    ) -> None:
        """Route by the decoded path, but keep the encoded slashes of ids; pass requests for pages on."""
        if scope["type"] == ScopeType.HTTP:
            request = cast("HTTPScope", scope)
            if self.pages is not None and self.pages.takes(request):
                await self.pages.answer(request, cast("Receive", receive), cast("Send", send))
                return
            scope = keep_encoded_slashes(request)
        await super().__call__(scope, receive, send)


def create_app(settings: Settings, *, logs_changes: bool = True) -> Litestar:
    """One decision server on `settings`; `logs_changes` as in `PlanWatch`.

    Raises:
        CatalogError: if the experiments folder has problems.
        BadInput: if the keys are invalid, or there are none and other machines could connect.
    """
    keys = load_keys_from_settings(settings)
    client, server, admin = keys.guard_for("client"), keys.guard_for("server"), keys.guard_for("admin")
    public = keys.guard_for(None)
    worker = Worker(settings, logs_changes=logs_changes)
    flow = DecisionFlow(worker)
    batches = DecisionBatches(flow)
    changes = FlagChanges(lambda: worker.plan)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with worker.running():
            dividing = asyncio.create_task(SharedRates(worker.event_store.pipeline, keys.limited).run())
            yield
            dividing.cancel()
            await batches.drain()
            if app.pages is not None:
                await app.pages.close()

    limit = settings.body_limit
    app = _App(
        route_handlers=[
            *decide_routes(worker, flow, batches, client, limit),
            *exposure_routes(worker, client, limit),
            *event_routes(worker, client, limit),
            *ofrep_routes(worker, flow, client, limit),
            *flag_stream_routes(changes, public),
            *admin_routes(worker, admin, limit),
            *explain_routes(worker, flow, server, limit),
            *stock_routes(worker, server, limit),
            *due_routes(worker, server, limit),
            *profile_routes(worker, server, limit),
            *health_routes(worker, public),
            *script_routes(public),
            *shop_routes(public),
            *guide_routes(public),
            *docs_routes(worker, public, needs_keys=settings.api_keys is not None),
        ],
        lifespan=[lifespan],
        exception_handlers={HTTPException: _answer_without_route},
        openapi_config=None,
        logging_config=None,
    )
    app.flag_changes = changes
    if settings.dashboard is not None:
        app.pages = Pages(settings.dashboard, {route.path.split("/")[1] for route in app.routes})
    return app


def end_streams(app: Litestar) -> None:
    """End the application's open streams, since a stopping server waits for answers in progress."""
    if isinstance(app, _App) and app.flag_changes is not None:
        app.flag_changes.close()


def _answer_without_route(request: "Request[object, object, State]", error: HTTPException) -> Response[bytes]:
    """The problem for a request without an endpoint, which Litestar answers."""
    refusal = Refusal(error.status_code, NO_ROUTE.get(error.status_code, error.detail))
    request_id = request_id_of(request.scope["headers"]).decode()
    allowed = {"allow": _methods_of(request.url.path)} if refusal.status == 405 else {}
    return Response(
        refusal.body(request_id),
        status_code=error.status_code,
        media_type=PROBLEM.decode(),
        headers={"x-request-id": request_id} | allowed,
    )


def _methods_of(path: str) -> str:
    """The methods of an address, for the header `Allow`."""
    methods = (one.method for one in OPERATIONS if re.fullmatch(re.sub(r"{\w+}", "[^/]+", one.path), path))
    return ", ".join(sorted({method.upper() for method in methods}))

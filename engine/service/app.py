"""The HTTP face as a Litestar application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import HTTPScope, LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send

from engine.service.auth import load_keys_from_settings
from engine.service.endpoints.admin import admin_routes
from engine.service.endpoints.explain import explain_routes
from engine.service.endpoints.health import health_routes
from engine.service.endpoints.ofrep import ofrep_routes
from engine.service.endpoints.openapi import docs_routes
from engine.service.endpoints.profiles import profile_routes
from engine.service.endpoints.stock import stock_routes
from engine.service.http import PROBLEM, endpoint, keep_encoded_slashes, request_id_of
from engine.service.problems import Refusal
from engine.service.worker import Worker
from engine.settings import Settings


class _App(Litestar):
    async def __call__(
        self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend
    ) -> None:
        """Litestar looks for routes in the decoded path; an id may have a slash."""
        if scope["type"] == ScopeType.HTTP:
            scope = keep_encoded_slashes(cast("HTTPScope", scope))
        await super().__call__(scope, receive, send)


def create_app(settings: Settings, *, tells: bool = True) -> Litestar:
    """One decision server on `settings`; `tells` as in `PlanWatch`.

    Raises:
        CatalogError: if the experiments folder has problems.
        BadInput: if the keys cannot be used, or there are none and others than this machine could connect.
    """
    keys = load_keys_from_settings(settings)
    client, admin = keys.guard("client"), keys.guard("admin")
    worker = Worker(settings, tells=tells)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with worker.running():
            yield

    limit = settings.body_limit
    return _App(
        route_handlers=[
            endpoint("/v1/decide", {"POST": worker.decide}, limit=limit, guard=client),
            endpoint("/v1/exposures", {"POST": worker.expose}, limit=limit, guard=client),
            endpoint("/v1/events", {"POST": worker.events}, limit=limit, guard=client),
            *ofrep_routes(worker, client, limit),
            *admin_routes(worker, admin, limit),
            *explain_routes(worker, keys.guard("server"), limit),
            *stock_routes(worker, keys.guard("server"), limit),
            *profile_routes(worker, keys.guard("server"), limit),
            *health_routes(worker),
            *docs_routes(),
        ],
        lifespan=[lifespan],
        exception_handlers={HTTPException: _problem},
        openapi_config=None,
        logging_config=None,
    )


def _problem(request: "Request[object, object, State]", error: HTTPException) -> Response[bytes]:
    detail = {404: "there is nothing at this address; see /docs", 405: "the method is not offered here"}
    refusal = Refusal(error.status_code, detail.get(error.status_code, error.detail))
    request_id = request_id_of(request.scope["headers"]).decode()
    return Response(
        refusal.body(request_id),
        status_code=error.status_code,
        media_type=PROBLEM.decode(),
        headers={"x-request-id": request_id},
    )

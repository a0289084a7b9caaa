"""Which key may use which address: a matrix over all that is served, so that a new route without a row fails."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.customer import CustomerIds, prove
from engine.service.app import create_app
from engine.service.endpoints.operations import OPERATIONS, Operation
from engine.settings import Settings

LEAST = {
    "client": {
        "post /v1/decide",
        "post /v1/events",
        "post /v1/exposures",
        "post /ofrep/v1/evaluate/flags",
        "post /ofrep/v1/evaluate/flags/{key}",
    },
    "server": {
        "post /v1/explain",
        "post /v1/agent",
        "post /v1/stock",
        "post /v1/stock/{sku}",
        "get /v1/stock/{sku}",
        "get /v1/stock/{sku}/places",
        "post /v1/stock/{sku}/places/{place}",
        "get /v1/stock/{sku}/places/{place}",
        "get /v1/due",
        "post /v1/due/confirm",
        "get /v1/profiles/{id}",
        "delete /v1/profiles/{id}",
        "get /v1/profiles/{id}/export",
        "get /v1/profiles/{id}/offers",
    },
    "admin": {"post /v1/experiments/{key}/pause", "post /v1/experiments/{key}/resume"},
    "no key": {"get /", "get /healthz", "get /readyz", "get /readyz/degraded", "get /metrics", "get /ofrep/v1/stream"},
}
FILES = re.compile(r"/(shop|docs)(/|$)|/client\.(js|d\.ts)$|/exposure-hook\.js$")
"""Scripts, the demo shop and the guide: files that are the same for everyone."""
ROLES = ["client", "server", "admin"]
KEYS = {"client": "pk-matrix-1", "server": "sk-matrix-2", "admin": "ak-matrix-3"}
SECRET = "hidden-by-the-backend"  # noqa: S105 (of this test)


def row_of(one: Operation) -> str:
    return next(least for least, rows in LEAST.items() if f"{one.method} {one.path}" in rows)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, serve: Any, shop: Path, valkey: Any) -> Any:
    place = tmp_path_factory.mktemp("matrix")
    lines = [f"- {{name: {role}, role: {role}, key: {key}}}" for role, key in KEYS.items() if role != "client"]
    lines.append(f"- {{name: client, role: client, key: {KEYS['client']}, secret: {SECRET}}}")
    (place / "keys.yaml").write_text("keys:\n" + "\n".join(lines))
    environment = {"COUNTERPOINT_API_KEYS": str(place / "keys.yaml"), "COUNTERPOINT_STORE_TIMEOUT": "5"}
    with serve(place, valkey.url, shop, environment) as server:
        yield server


def test_every_route_that_is_served_has_a_row(tmp_path: Path, shop: Path) -> None:
    rows = set().union(*LEAST.values())
    assert {f"{one.method} {one.path}" for one in OPERATIONS} == rows
    routes = {re.sub(r":\w+}", "}", r.path) for r in create_app(Settings(data=tmp_path, experiments=shop)).routes}
    assert {path for path in routes if not FILES.match(path)} == {row.partition(" ")[2] for row in rows}


@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_a_key_is_refused_below_the_role_of_its_row_and_served_from_it_on(guarded: Any, one: Operation) -> None:
    least = row_of(one)
    assert (one.role or "no key") == least
    if one.path == "/ofrep/v1/stream":
        return  # it never ends; test_flag_stream opens it without a key
    path = re.sub(r"{\w+}", "nobody-here", one.path)
    body = {} if one.method != "post" else {"json": one.example or {}}
    proof = prove(SECRET.encode(), CustomerIds())
    for role in ["no key", *ROLES]:
        headers = {} if role == "no key" else {"x-api-key": KEYS[role], "x-customer-proof": proof}
        answer = httpx.request(one.method, guarded.base + path, headers=headers, timeout=60, **body)  # type: ignore[arg-type]
        if least != "no key" and role == "no key":
            assert answer.status_code == 401
        elif least == "no key" or ROLES.index(role) >= ROLES.index(least):
            # A publishable key passes the role, and is refused for the example's customer, whom it does not prove.
            assert answer.status_code not in {401, 405}
            assert answer.status_code != 403 or (role == "client" and "needs a key of role" not in answer.text)
        else:
            assert answer.status_code == 403
            assert f"needs a key of role {least}" in answer.text

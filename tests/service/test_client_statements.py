"""A publishable key cannot say what a customer is worth, nor speak about the decisions of others."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from engine.customer import CustomerIds, prove
from engine.service.access.client_statements import worth_in_context
from engine.vocabulary import PAGE_CONTEXT

KEYS = """
keys:
  - {name: web-shop, role: client, key: pk-web-1, secret: kept-by-the-backend}
  - name: tracker
    role: client
    key: pk-track-1
    secret: kept-by-the-backend
    client_may_say: [purchase, country, loyalty]
  - {name: backend, role: server, key: sk-backend-1}
"""
numbers = itertools.count()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, serve: Any, shop: Any, valkey: Any) -> Any:
    place = tmp_path_factory.mktemp("statements")
    (place / "keys.yaml").write_text(KEYS)
    environment = {"COUNTERPOINT_API_KEYS": str(place / "keys.yaml"), "COUNTERPOINT_STORE_TIMEOUT": "5"}
    with serve(place, valkey.url, shop, environment) as server:
        yield server


def proof_of(**ids: str) -> dict[str, str]:
    return {"x_customer_proof": prove(b"kept-by-the-backend", CustomerIds(**ids))}


def send(server: Any, key: str, user: str, **item: Any) -> dict[str, Any]:
    item = {"type": "track", "message_id": f"worth-{next(numbers)}", "user_id": user} | item
    answer = server.post("/v1/events", {"batch": [item]}, x_api_key=key, **proof_of(user_id=user))
    status: dict[str, Any] = answer.json()["statuses"][0]
    return status


WORTH: list[tuple[str, dict[str, Any]]] = [
    ("event", {"event": "purchase", "properties": {"revenue": 9e6}}),
    ("event", {"event": "order_completed"}),
    ("event", {"event": "refund", "properties": {"amount": 1}}),
    ("event", {"event": "points_redeemed", "properties": {"points": 1}}),
    ("event", {"event": "redemption", "properties": {"offer": "second_coffee"}}),
    ("event", {"event": "consent_given", "properties": {"purpose": "marketing"}}),
    ("event", {"event": "complaint_closed"}),
    ("properties.points", {"event": "view", "properties": {"points": 1e6}}),
    ("properties.revenue", {"event": "upgrade", "properties": {"revenue": 1e6}}),
    ("traits.loyalty.tier", {"type": "identify", "traits": {"loyalty": {"tier": 9}}}),
    ("traits.loyalty", {"type": "identify", "traits": {"loyalty": 9}}),
    ("traits.consent.marketing", {"type": "identify", "traits": {"consent.marketing": True}}),
    ("traits.orders.count", {"type": "identify", "traits": {"orders.count": 99}}),
    ("traits.country", {"type": "identify", "traits": {"country": "DE"}}),
    ("traits.timezone", {"type": "identify", "traits": {"timezone": "Asia/Tokyo"}}),
    ("traits.birthday", {"type": "identify", "traits": {"birthday": "1990-11-29"}}),
]


@pytest.mark.parametrize(("place", "item"), WORTH, ids=[place + str(n) for n, (place, _) in enumerate(WORTH)])
def test_what_a_customer_is_worth_is_not_for_a_page_to_say(guarded: Any, place: str, item: dict[str, Any]) -> None:
    status = send(guarded, "pk-web-1", "worth-1", **item)
    assert status["status"] == "rejected"
    assert status["reason"].startswith(f"{place}: ")
    assert "client_may_say" in status["reason"]
    assert send(guarded, "sk-backend-1", "worth-2", **item)["status"] == "accepted"


@pytest.mark.parametrize(
    "item",
    [
        {"event": "view", "properties": {"category": "coffee"}},
        {"event": "cart_updated", "properties": {"items": 2}},
        {"event": "nps", "properties": {"score": 9}},
        {"event": "complaint"},
        {"event": "consent_withdrawn", "properties": {"purpose": "marketing"}},
        {"type": "identify", "traits": {"consent.marketing": False, "nickname": "A"}},
    ],
)
def test_a_page_says_what_its_visitor_does_and_withdraws(guarded: Any, item: dict[str, Any]) -> None:
    assert send(guarded, "pk-web-1", "worth-3", **item)["status"] == "accepted"


def test_a_key_may_say_what_it_lists(guarded: Any) -> None:
    order = {"event": "purchase", "properties": {"revenue": 5.0, "order_id": "o-1"}}
    assert send(guarded, "pk-track-1", "worth-4", **order)["status"] == "accepted"
    traits = {"type": "identify", "traits": {"country": "DE", "loyalty": {"tier": 2}}}
    assert send(guarded, "pk-track-1", "worth-4", **traits)["status"] == "accepted"
    assert send(guarded, "pk-track-1", "worth-4", event="refund")["status"] == "rejected"
    assert send(guarded, "pk-track-1", "worth-4", type="identify", traits={"stage": "loyal"})["status"] == "rejected"


@pytest.mark.parametrize(
    "context",
    [
        {"loyalty.tier": 9},
        {"loyalty": {"tier": 9}},
        {"orders": {"count": 9}},
        {"stage": "loyal"},
        {"birthday": "1990-11-29"},
        {"timezone": "Asia/Tokyo"},
    ],
)
def test_a_decisions_context_does_not_say_it_either(guarded: Any, context: dict[str, Any]) -> None:
    body = {"customer": {"user_id": "worth-5"}, "channel": "web", "experiments": ["dark_mode"], "context": context}
    refused = guarded.post("/v1/decide", body, x_api_key="pk-web-1", **proof_of(user_id="worth-5"))
    assert refused.status_code == 403
    assert refused.json()["errors"][0]["field"].startswith("context.")
    assert guarded.post("/v1/decide", body, x_api_key="sk-backend-1").status_code == 200
    present = body | {"context": {"country": "DE", "intent": "cancel"}}
    assert guarded.post("/v1/decide", present, x_api_key="pk-web-1", **proof_of(user_id="worth-5")).status_code == 200


def test_the_documented_names_of_a_page_are_those_that_it_may_send() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "operate.md").read_text()
    listed = page.partition("lists and these:\n\n")[2].partition("\n\n")[0]
    assert set(listed.removeprefix("```text").removesuffix("```").split()) == PAGE_CONTEXT
    audience = {"vip", "country", "utm.source", "plan.name"}
    said = {"vip": True, "country": "DE", "utm": {"source": "x"}, "plan": {"name": "gold"}, "unread": 1}
    assert worth_in_context(said, audience, ()) == ["vip", "plan.name"]
    assert worth_in_context(said, audience, ("vip", "plan")) == []


def test_openfeature_leaves_it_out_with_a_warning(guarded: Any) -> None:
    context = {"targetingKey": "worth-6", "loyalty": {"tier": 9}, "country": "DE"}
    path, proof = "/ofrep/v1/evaluate/flags/beta_search", proof_of(user_id="worth-6")
    flag = guarded.post(path, {"context": context}, x_api_key="pk-web-1", **proof).json()
    assert flag["value"] is True
    assert "context.loyalty.tier" in flag["metadata"]["warning"]


def test_a_page_sends_no_events_about_the_decision_of_another_customer(guarded: Any) -> None:
    body = {"customer": {"user_id": "anna", "anonymous_id": "a-1"}, "channel": "web", "placements": ["home_hero"]}
    sent = proof_of(user_id="anna", anonymous_id="a-1")
    for key, expose, once in (
        ("sk-backend-1", True, {}),
        ("pk-web-1", False, {}),
        ("sk-backend-1", True, {"idempotency_key": "k"}),
    ):
        answer = guarded.post("/v1/decide", body | {"expose": expose}, x_api_key=key, **sent, **once).json()
        click = {"event": "click", "decision_id": answer["decision_id"]}
        other = send(guarded, "pk-web-1", "bert", **click)
        assert other["status"] == "rejected"
        assert other["reason"].startswith("decision_id: ")
        assert send(guarded, "pk-web-1", "anna", **click)["status"] == "accepted"
        assert send(guarded, "sk-backend-1", "bert", **click)["status"] == "accepted"

"""What of an event would be lost is said in its status, with what was probably meant."""

from typing import Any

import pytest

EVENT = {"type": "track", "user_id": "u-warned", "event": "view"}
NUMBER = iter(range(100_000))


def send(server: Any, **fields: Any) -> dict[str, Any]:
    event = {**EVENT, "message_id": f"warned-{next(NUMBER)}", **fields}
    [status] = server.post("/v1/events", {"batch": [event]}).json()["statuses"]
    assert status["status"] == "accepted", status
    found: dict[str, Any] = status
    return found


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"props": {"a": 1}}, "props: is not a field of an event and was left out; did you mean 'properties'?"),
        ({"userId": "u"}, "userId: is not a field of an event and was left out; did you mean 'user_id'?"),
        ({"anonymousId": "a"}, "did you mean 'anonymous_id'?"),
        ({"revenue": 12.5}, "did you mean 'properties.revenue'?"),
        ({"customer": {"user_id": "u"}}, "did you mean 'user_id'?"),
        ({"chanel": "web"}, "did you mean 'channel'?"),
        ({"wibble": 1}, "wibble: is not a field of an event and was left out; an event has type, message_id"),
        (
            {"channel": "wbe"},
            "so no cap or offer of one counts it; did you mean 'web'?",
        ),
        ({"channel": "warehouse"}, "channel: 'warehouse' is not a channel"),
        ({"decision_id": "d-1"}, "decision_id: 'd-1' is not the id of a decision"),
        ({"traits": {"a": 1}}, "traits: only an identify has traits"),
        ({"properties": {"points": "12"}}, "properties.points: '12' is not a number"),
        ({"properties": {"category": ["a"]}}, "properties.category: ['a'] is not text"),
        ({"properties": {"categories": ["a", 1]}}, "properties.categories: ['a', 1] is not a list of texts"),
        ({"properties": {"affinity": {"a": "high"}}}, "is not an object of numbers by name"),
        ({"event": "purchase", "properties": {"order_id": 1.5}}, "properties.order_id: 1.5 is not text"),
        ({"event": "purchase", "properties": {"Revenue": 12}}, "did you mean 'revenue'?"),
        ({"event": "Purchase"}, "event: 'Purchase' has no meaning of its own and no metric counts it; did you mean"),
        ({"event": " purchase "}, "did you mean 'purchase'?"),
        ({"event": "Order Completed"}, "did you mean 'order_completed'?"),
        ({"event": "orderRefunded"}, "did you mean 'order_refunded'?"),
        ({"event": "order-canceled"}, "did you mean 'order_canceled'?"),
        ({"event": "purchased"}, "did you mean 'purchase'?"),
        ({"event": "refunded"}, "did you mean 'refund'?"),
        ({"event": "clicked"}, "did you mean 'click'?"),
        ({"event": "consent_given"}, "properties.purpose: is missing"),
        ({"event": "consent_given", "properties": {"purpose": "email", "granted": "yes"}}, "is not true or false"),
        ({"event": "nps", "properties": {"score": "9"}}, "properties.score: '9' is not a number"),
        ({"event": "cart_updated", "properties": {"items": ["x" * 100] * 90}}, "over the 8,192"),
        ({"properties": {"cart": {"items": ["x" * 100] * 90}}}, "cart: 9,1"),
        ({"type": "identify", "traits": {"bio": "x" * 513}}, "traits.bio: its text has more than 512 characters"),
        ({"type": "identify", "traits": {"n" * 101: 1}}, "its name has more than 100 characters"),
        ({"type": "identify", "traits": {"tags": [{"a": 1}]}}, "traits.tags: 1 items are not texts"),
        ({"type": "identify", "traits": {"tags": [1] * 51}}, "traits.tags: 51 items are over the limit of 50"),
        (
            {"type": "identify", "traits": {"consent.email": "yes"}},
            "'yes' is not true or false, so it is not a consent",
        ),
    ],
)
def test_what_would_be_lost_is_a_warning_in_the_status(server: Any, fields: dict[str, Any], warning: str) -> None:
    warnings = send(server, **fields)["warnings"]
    assert any(warning in one for one in warnings), warnings


@pytest.mark.parametrize(
    "fields",
    [
        {"channel": "web", "properties": {"category": "coffee", "points": 3, "anything": {"a": [1]}}},
        {"event": "purchase", "properties": {"revenue": 12.5, "order_id": 7, "categories": ["a"]}},
        {"event": "consent_given", "properties": {"purpose": "email", "granted": True, "days": 30}},
        {"event": "nps", "properties": {"score": 9}},
        {"type": "identify", "traits": {"country": "DE", "loyalty": {"tier": 2}, "consent.email": False}},
        {"timestamp": "2026-01-01T00:00:00Z", "sent_at": "2026-01-01T00:00:01Z", "anonymous_id": "a-warned"},
    ],
)
def test_an_event_that_is_read_whole_has_no_warning(server: Any, fields: dict[str, Any]) -> None:
    assert "warnings" not in send(server, **fields)


def test_warnings_are_counted_by_field(server: Any) -> None:
    send(server, props={})
    send(server, channel="fax")
    text = server.get("/metrics").text
    assert 'counterpoint_event_warnings_total{field="unknown field"}' in text
    assert 'counterpoint_event_warnings_total{field="channel"}' in text


def test_a_trait_beyond_those_of_a_profile_is_a_warning(server: Any) -> None:
    ids = {"type": "identify", "user_id": "u-full"}
    assert "warnings" not in send(server, **ids, traits={f"t{n}": n for n in range(100)})
    [warning] = send(server, **ids, traits={"t1": 2, "one_more": 1})["warnings"]
    assert "one_more not stored" in warning
    [warning] = send(server, **ids, traits={f"consent.p{n}": True for n in range(101)})["warnings"]
    assert "p100 not stored" in warning


@pytest.mark.parametrize("expose", [True, False])
def test_a_decision_of_another_customer_is_a_warning_and_one_of_the_same_is_none(server: Any, *, expose: bool) -> None:
    visitor, member = f"visitor-{expose}", f"member-{expose}"
    ask = {"customer": {"anonymous_id": visitor}, "channel": "web", "placements": ["home_hero"], "expose": expose}
    decision_id = server.post("/v1/decide", ask).json()["decision_id"]
    send(server, user_id=None, anonymous_id=visitor)
    named = {"event": "purchase", "decision_id": decision_id, "properties": {"revenue": 5}}
    [warning] = send(server, user_id="somebody-else", **named)["warnings"]
    assert "was made for another customer" in warning
    [warning] = send(server, user_id="somebody-else", **named | {"decision_id": f" {decision_id}"})["warnings"]
    assert "is not the id of a decision" in warning
    assert "warnings" not in send(server, user_id=None, anonymous_id=visitor, **named)
    send(server, type="identify", user_id=member, anonymous_id=visitor)
    assert "warnings" not in send(server, user_id=member, **named)


@pytest.mark.parametrize(
    ("customer", "meant"),
    [
        ({"user_id": "u", "anonymousId": "a"}, "anonymous_id"),
        ({"userId": "u"}, "user_id"),
        ({"user_id": "u", "e_mail": "a@example.com"}, "email"),
    ],
)
def test_an_unknown_identifier_of_a_decision_is_refused_with_what_was_meant(
    server: Any, customer: dict[str, str], meant: str
) -> None:
    answer = server.post("/v1/decide", {"customer": customer, "channel": "web"})
    assert answer.status_code == 400
    assert f"did you mean '{meant}'?" in answer.json()["detail"]

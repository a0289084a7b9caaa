"""A batch as it comes in: what is refused says why, and a wrong clock is set right."""

from datetime import UTC, datetime

import msgspec
import pytest

from engine.customers.model.event_batch import decode_batch
from engine.customers.model.events import Event, EventStatus, customer_ids, event_time
from engine.errors import BadInput

RECEIVED = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def event(**fields: object) -> dict[str, object]:
    return {"type": "track", "message_id": "m1", "user_id": "u-42", "event": "view"} | fields


def items_of(body: bytes) -> list[Event | EventStatus]:
    return [item for item, _ in decode_batch(body)]


def one(**fields: object) -> Event | EventStatus:
    (found,) = items_of(msgspec.json.encode({"batch": [event(**fields)]}))
    return found


def test_an_item_that_breaks_a_rule_is_refused_and_the_others_are_not() -> None:
    body = msgspec.json.encode({"batch": [event(), event(message_id="m2", event=3), event(message_id="m3")]})
    first, second, third = items_of(body)
    assert isinstance(first, Event)
    assert isinstance(third, Event)
    why = "Expected `str | null`, got `int` - at `$.event`; see /docs for the fields of an item"
    assert second == EventStatus("rejected", "m2", why)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"type": "page"}, "Invalid enum value 'page'"),
        ({"message_id": ""}, "message_id: must have"),
        ({"message_id": None}, "Expected `str`, got `null`"),
        ({"user_id": None}, "no identifier"),
        ({"user_id": ""}, "no identifier"),
        ({"user_id": None, "email": " "}, "no identifier"),
        ({"user_id": None, "phone": "unknown"}, "no identifier"),
        ({"type": "alias", "email": " "}, "alias: needs two identifiers"),
        ({"user_id": "u" * 201}, "over 200 characters"),
        ({"event": None}, "event: a track needs its name"),
        ({"type": "alias"}, "alias: needs two identifiers"),
        ({"timestamp": "2026-11-22T12:00:00"}, "names no time zone"),
        ({"timestamp": "yesterday"}, "Invalid RFC3339"),
        ({"timestamp": 3.0}, "not a time of this century"),
        ({"timestamp": 1e300}, "not a time of this century"),
        ({"timestamp": "9999-12-31T23:59:59-12:00"}, "not a time of this century"),
        ({"sent_at": "0001-01-01T00:00:00+12:00"}, "not a time of this century"),
        ({"sent_at": "1969-01-01T00:00:00Z"}, "not a time of this century"),
        ({"properties": [1]}, "Expected `object`, got `array`"),
        ({"properties": {"revenue": "12"}}, "properties.revenue: '12' is not a number"),
        ({"properties": {"revenue": True}}, "properties.revenue: True is not a number"),
        ({"properties": {"revenue": [12]}}, "is not a number"),
        ({"properties": {"revenue": -1}}, "is below zero; send what was given back as an event 'refund'"),
        ({"properties": {"revenue": 1e12}}, "is beyond 1,000,000,000"),
        ({"event": "consent", "properties": {"expires": "some day"}}, "properties.expires: 'some day' is not a time"),
        ({"event": "consent", "properties": {"expires": "2027-01-01T00:00:00"}}, "is not a time; send RFC 3339 text"),
        ({"event": "consent", "properties": {"expires": 365}}, "properties.expires: 365 is not a time"),
        ({"event": "consent_given", "properties": {"expires": True}}, "properties.expires: True is not a time"),
        ({"event": "consent_given", "properties": {"days": "365"}}, "properties.days: '365' is not a number of days"),
        ({"event": "refund", "properties": {"amount": "all"}}, "properties.amount: 'all' is not a number"),
    ],
)
def test_a_refusal_names_the_field_and_the_rule(fields: dict[str, object], reason: str) -> None:
    found = one(**fields)
    assert isinstance(found, EventStatus)
    assert found.reason is not None
    assert reason in found.reason


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"batch": 1}', b"\xff", b'{"batch": [1', b"[" * 200_000])
def test_what_is_no_batch_is_bad_input(body: bytes) -> None:
    with pytest.raises(BadInput, match=r"^(body|batch): "):
        decode_batch(body)


def test_a_batch_has_a_limit() -> None:
    with pytest.raises(BadInput, match="3 items are over the limit of 2"):
        decode_batch(msgspec.json.encode({"batch": [event()] * 3}), limit=2)


@pytest.mark.parametrize("item", [b'{"message_id": "m", "event": "\xff"}', b"[" * 5000 + b"]" * 5000])
def test_an_item_of_bad_bytes_is_refused_alone(item: bytes) -> None:
    good = msgspec.json.encode(event())
    try:
        found = list(items_of(b'{"batch": [' + item + b"," + good + b"]}"))
    except BadInput:
        return
    assert isinstance(found[0], EventStatus)
    assert isinstance(found[1], Event)


@pytest.mark.parametrize(
    ("timestamp", "sent_at", "after"),
    [
        ("2026-11-22T11:59:00Z", None, -60),
        ("2026-11-22T10:59:00Z", "2026-11-22T11:00:00Z", -60),
        ("2026-11-22T14:59:00+02:00", "2026-11-22T15:00:00+02:00", -60),
        ("2026-11-22T13:00:00Z", None, 0),
        ("2026-11-22T13:00:00Z", "2026-11-22T12:00:00Z", 0),
        (RECEIVED - 5, RECEIVED - 2, -3),
        (1000 * RECEIVED - 5000, 1000 * RECEIVED - 2000, -3),
        (None, "2026-11-22T11:00:00Z", 0),
        ("2000-01-01T00:00:00Z", "2099-12-31T00:00:00Z", 946_684_800 - RECEIVED),  # before the shop was
    ],
)
def test_the_senders_lag_counts_not_the_senders_clock(timestamp: object, sent_at: object, after: float) -> None:
    found = one(timestamp=timestamp, sent_at=sent_at)
    assert isinstance(found, Event)
    assert event_time(found, RECEIVED) == RECEIVED + after


def test_a_number_no_store_holds_is_refused() -> None:
    item = b'{"type": "track", "message_id": "m", "user_id": "u", "event": "view", "properties": {"n": 1' + b"0" * 30
    (found,) = items_of(b'{"batch": [' + item + b"}}]}")
    assert isinstance(found, EventStatus)
    assert found.reason is not None
    assert "64 bits" in found.reason


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_what_is_no_finite_number_is_refused_alone(number: bytes) -> None:
    good = msgspec.json.encode(event())
    bad = msgspec.json.encode(event(properties={"revenue": 0})).replace(b"0}", number + b"}")
    try:
        found = list(items_of(b'{"batch": [' + bad + b"," + good + b"]}"))
    except BadInput:
        assert number != b"1e999"  # the others are no JSON at all
        return
    assert isinstance(found[0], EventStatus)
    assert isinstance(found[1], Event)


@pytest.mark.parametrize(
    "fields",
    [
        {"channel": "warehouse"},  # systems that are no channel of the plan tell of customers too
        {"properties": {"revenue": None}},
        {"properties": {"revenue": 0}},
        {"event": "refund", "properties": {"revenue": -12.5}},
        {"properties": {"amount": "two cups"}},
    ],
)
def test_what_a_shop_may_well_mean_is_accepted(fields: dict[str, object]) -> None:
    assert isinstance(one(**fields), Event)


def test_an_identify_identifies_by_what_it_tells() -> None:
    found = one(type="identify", traits={"email": "a@x.de", "phone": "", "loyalty_card": 7})
    assert isinstance(found, Event)
    assert customer_ids(found).email == "a@x.de"
    assert (customer_ids(found).phone, customer_ids(found).loyalty_card) == (None, None)

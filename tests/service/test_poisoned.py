"""One bad value costs its own item and nothing else, and what was accepted can always be read again."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

POISONS = {
    "half a surrogate pair": rb'{"note": "caf\ud83d"}',
    "the second half first": rb'{"note": "\ude00\ud83d"}',
    "a half as a name": rb'{"\ud83d": 1}',
    "978 deep": b'{"cart": ' + b"[" * 978 + b"]" * 978 + b"}",
    "972 deep": b'{"cart": ' + b"[" * 972 + b"]" * 972 + b"}",
    "33 deep": b'{"cart": ' + b'{"a":' * 33 + b"1" + b"}" * 33 + b"}",
    "100,000 deep": b'{"cart": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no JSON": b'{"revenue": NaN}',
    "no value": b'{"revenue": }',
    "a control character": b'{"note": "\x01"}',
    "not UTF-8": b'{"note": "\xff"}',
    "a float beyond 64 bits": b'{"revenue": 1e999}',
    "a whole number beyond 64 bits": b'{"n": 18446744073709551616}',
}


def item(message: str, user: str, properties: bytes) -> bytes:
    head = {"type": "track", "message_id": message, "user_id": user, "event": "view"}
    return json.dumps(head).encode()[:-1] + b', "properties": ' + properties + b"}"


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("lead", [b'{"batch": [', b'{"sent": {"batch": [1]}, "batch" : [ '], ids=["first", "behind"])
def test_a_poisoned_item_is_rejected_between_two_good_ones(server: Any, poison: str, lead: bytes) -> None:
    name = f"{poison}-{len(lead)}"
    good, after = item(f"{name}-1", "u-poison", b'{"a": "]}\\""}'), item(f"{name}-3", "u-poison", b"{}")
    answer = server.post(
        "/v1/events", lead + b" , ".join((good, item(name, "u-poison", POISONS[poison]), after)) + b"]}"
    )
    assert answer.status_code == 200, answer.text
    first, second, third = answer.json()["statuses"]
    assert (first["status"], second["status"], third["status"]) == ("accepted", "rejected", "accepted")
    assert ";" in second["reason"]
    assert second.get("message_id") in (name, None)


def test_a_whole_number_beyond_64_bits_in_a_context_is_the_callers_error(server: Any) -> None:
    body = b'{"customer": {"user_id": "u"}, "channel": "web", "context": {"n": 18446744073709551616}}'
    for path in ("/v1/decide", "/v1/explain", "/v1/agent"):
        answer = server.post(path, body)
        assert answer.status_code == 400
        assert answer.json()["detail"] == "a whole number has more than 64 bits; send it as text"


def test_the_status_of_a_cut_emoji_names_its_message_and_the_half(server: Any) -> None:
    body = b'{"batch": [' + item("m-emoji", "u-poison", POISONS["half a surrogate pair"]) + b"]}"
    [status] = server.post("/v1/events", body).json()["statuses"]
    assert status["message_id"] == "m-emoji"
    assert r"\ud83d is half of a surrogate pair" in status["reason"]


@pytest.mark.parametrize(
    "body", [b'{"batch": [{}, ]}', b'{"batch": [,{}]}', b'{"batch": [{}', b'{"batch": [{"a": [}]}']
)
def test_a_body_whose_items_cannot_be_separated_is_refused(server: Any, body: bytes) -> None:
    assert server.post("/v1/events", body).status_code == 400


ACCEPTED: dict[str, object] = {
    "cart": {"items": [{"a": {"b": {"c": {"d": [[[[[1]]]]]}}}}]},
    "largest": 2**64 - 1,
    "smallest": -(2**63),
    "tiny": 5e-324,
    "huge": 1.7e308,
    "timezone": "Mars/\u0000",
    "loyalty": "gold",
    "orders": [None, True, ""],
    "consent.email": True,
    "": "no name",
    "a..b": {"": {"": 1}},
    "birthday": "0001-01-01",
    "contract_end": "9999-12-31",
}


def test_whatever_was_accepted_can_be_read_decided_and_exported(server: Any) -> None:
    for name, value in ACCEPTED.items():
        user = f"u-accepted-{len(name)}{name[:3]}"
        ids = {"user_id": user}
        batch = [
            {"type": "identify", "message_id": f"{user}-i", "traits": {name: value}} | ids,
            {"type": "track", "message_id": f"{user}-t", "event": "cart_updated", "properties": {name: value}} | ids,
        ]
        statuses = server.post("/v1/events", {"batch": batch}).json()["statuses"]
        assert [status["status"] for status in statuses] == ["accepted"] * 2, statuses
        request = {"customer": ids, "channel": "web", "placements": ["home_hero"], "experiments": "*"}
        for path in ("/v1/decide", "/v1/explain", "/v1/agent"):
            answer = server.post(path, request | {"context": {name: value}})
            assert answer.status_code == 200, (name, path, answer.text)
            assert not answer.json().get("degraded")
        for path in (f"/v1/profiles/{user}", f"/v1/profiles/{user}/export"):
            assert server.get(path).status_code == 200, (name, path)


@pytest.fixture(scope="module")
def contracts(serve: Any, tmp_path_factory: pytest.TempPathFactory, valkey: Any, shop: Path) -> Iterator[Any]:
    """A server whose moments read dates that customers have as traits."""
    place = tmp_path_factory.mktemp("contracts")
    moments = yaml.safe_load((shop / "moments.yaml").read_text())
    for window in ("30d", "36500d"):
        moments["moments"] += [
            {
                "key": f"{kind}_{window}",
                "trigger": {"date": "contract_end", "yearly": kind == "every"},
                "window": window,
                "placements": ["home_hero"],
                "offers": ["birthday_drink"],
            }
            for kind in ("once", "every")
        ]
    folder = shutil.copytree(shop, place / "experiments")
    (folder / "moments.yaml").write_text(yaml.safe_dump(moments))
    with serve(place, valkey.url, folder, {"COUNTERPOINT_STORE_TIMEOUT": "5"}) as running:
        yield running


@pytest.mark.parametrize("date", ["9999-12-31", "0001-01-01", "0000-00-00", "9999-02-29", "12-31", "99999-12-31", "--"])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])
def test_a_date_at_the_end_of_the_calendar_matches_no_moment_and_fails_nothing(
    contracts: Any, date: str, zone: str
) -> None:
    traits = {"contract_end": date, "timezone": zone}
    event = {"type": "identify", "message_id": f"{date}{zone}", "user_id": f"u-{date}-{zone}", "traits": traits}
    assert contracts.post("/v1/events", {"batch": [event]}).json()["statuses"][0]["status"] == "accepted"
    request = {"customer": {"user_id": event["user_id"]}, "channel": "web", "placements": ["home_hero"]}
    for path in ("/v1/decide", "/v1/explain", "/v1/agent"):
        answer = contracts.post(path, request)
        assert answer.status_code == 200, (path, answer.text)
    assert "counterpoint_gate_failures_total{" not in contracts.get("/metrics").text


TOO_MUCH = {
    "65 KB": {"properties": {"note": "x" * 65_600}},
    "2,001 values": {"properties": {"list": [1] * 2001}},
    "90,000 categories": {"properties": {"categories": ["c"] * 101}},
    "affinities": {"properties": {"affinity": {f"c{n}": 1 for n in range(101)}}},
    "20,000 consents": {"type": "identify", "traits": {f"consent.p{n}": True for n in range(201)}},
    "nested traits": {"type": "identify", "traits": {"a": {f"p{n}": True for n in range(201)}}},
    "a long name": {"event": "e" * 101},
    "a long channel": {"channel": "c" * 101},
    "a long decision id": {"decision_id": "d" * 201},
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_an_event_that_holds_too_much_is_rejected_alone_with_the_limit(server: Any, case: str) -> None:
    event = {"type": "track", "event": "view", "message_id": case, "user_id": "u-much"}
    good = event | {"message_id": f"{case}, beside"}
    first, second = server.post("/v1/events", {"batch": [event | TOO_MUCH[case], good]}).json()["statuses"]
    assert (first["status"], second["status"]) == ("rejected", "accepted")
    assert ";" in first["reason"]
    assert first["message_id"] == case

"""One wrong item of a report does not fail the others: exposures, confirmations, and what they leave to be read."""

from typing import Any

import pytest


def decide(server: Any, **more: Any) -> dict[str, Any]:
    body = {"customer": {"user_id": "items-1"}, "channel": "web", "expose": False} | more
    answer = server.post("/v1/decide", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_exposure_of_an_unknown_name_counts_the_known_ones(server: Any) -> None:
    decision_id = decide(server, placements=["home_hero"], experiments=["dark_mode"])["decision_id"]
    report = {"decision_id": decision_id, "placements": ["home_hero", "nowhere"], "experiments": ["nothing"]}
    answer = server.post("/v1/exposures", report)
    assert (answer.status_code, answer.json()) == (202, {"status": "accepted", "unknown": ["nothing", "nowhere"]})
    seen = [one for one in server.records() if getattr(one, "keys", None) and one.decision_id == decision_id]
    assert ["home_hero" in one.keys and "nowhere" not in one.keys for one in seen] == [True]


def test_an_exposure_of_no_known_name_is_refused(server: Any) -> None:
    decision_id = decide(server, placements=["home_hero"])["decision_id"]
    answer = server.post("/v1/exposures", {"decision_id": decision_id, "placements": ["nowhere"]})
    assert answer.status_code == 404
    assert "'nowhere' is not in that decision; it has hero_policy, home_hero" in answer.json()["detail"]


def test_a_message_under_two_outcomes_is_contradictory_and_the_others_count(server: Any) -> None:
    answer = server.post("/v1/due/confirm", {"sent": ["a", "b"], "released": ["b", "c"]})
    assert answer.status_code == 200
    assert answer.json() == {"results": {"a": "unknown", "b": "contradictory", "c": "unknown"}}


@pytest.mark.parametrize("page", ["", "/export", "/offers"])
def test_a_customer_whose_decision_had_no_part_can_be_read(server: Any, page: str) -> None:
    ids = {"user_id": "items-2"}
    server.post("/v1/events", {"batch": [{"type": "identify", "message_id": "items-2", "traits": {"a": 1}, **ids}]})
    decide(server, customer=ids, expose=True)
    bare = decide(server, customer=ids)
    server.post("/v1/exposures", {"decision_id": bare["decision_id"]})
    assert server.get(f"/v1/profiles/items-2{page}").status_code == 200


def test_a_level_that_breaks_a_rule_is_rejected_and_the_others_are_set(server: Any) -> None:
    levels = [{"sku": "good", "level": 3}, {"sku": "bad", "level": "3"}, {"sku": "more", "level": 1, "x": {}}, 7]
    answer = server.post("/v1/stock", {"levels": levels})
    assert answer.status_code == 200, answer.text
    found = answer.json()["statuses"]
    assert [(one["sku"], one["status"]) for one in found] == [
        ("good", "set"),
        ("bad", "rejected"),
        ("more", "rejected"),
        ("", "rejected"),
    ]
    assert found[1]["reason"].startswith("level: ")
    assert server.get("/v1/stock/good").json()["left"] == 3


UNREADABLE = {
    "half a surrogate pair": (b'{"sku": "caf\\ud83d", "level": 1}', "surrogate"),
    "978 deep": (b'{"sku": "bad", "level": ' + b"[" * 978 + b"]" * 978 + b"}", "nested"),
    "no JSON": (b'{"sku": "bad", "level": NaN}', "not JSON"),
    "no comma": (b'{"sku": "bad" "level": 1}', "not JSON"),
    "not UTF-8": (b'{"sku": "\xff", "level": 1}', "UTF-8"),
    "a huge number": (b'{"sku": "bad", "level": ' + b"9" * 400 + b"}", "range"),
    "too long": (b'{"sku": "' + b"x" * 70_000 + b'", "level": 1}', "over the limit"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_level_that_cannot_be_read_is_rejected_and_the_others_are_set(server: Any, kind: str) -> None:
    bad, reason = UNREADABLE[kind]
    skus = [f"{kind} before", f"{kind} after"]
    levels = [b'{"sku": "%b", "level": 3}' % sku.encode() for sku in skus]
    answer = server.post("/v1/stock", b'{"levels": [' + b", ".join((levels[0], bad, levels[1])) + b"]}")
    assert answer.status_code == 200, answer.text
    statuses = answer.json()["statuses"]
    assert [one["status"] for one in statuses] == ["set", "rejected", "set"]
    assert reason in statuses[1]["reason"]
    assert [server.get(f"/v1/stock/{sku}").json()["left"] for sku in skus] == [3, 3]


def test_a_body_without_levels_is_refused_with_its_rule(server: Any) -> None:
    for body in (b"[]", b'{"levels": []}', b'{"levels": [{"sku": "a", "level": 1}', b'{"level": []}'):
        answer = server.post("/v1/stock", body)
        assert answer.status_code == 400, body
        assert '{"levels": […]}' in answer.json()["detail"]
    many = {"levels": [{"sku": f"s{n}", "level": 1} for n in range(1001)]}
    assert server.post("/v1/stock", many).status_code == 400


def test_a_batch_of_levels_past_its_limit_is_refused(server: Any) -> None:
    levels = [{"sku": f"many-{number}", "level": 1} for number in range(1001)]
    refused = server.post("/v1/stock", {"levels": levels})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "levels")
    assert server.post("/v1/stock", {"levels": levels[:1000]}).json()["statuses"][999]["status"] == "set"


def test_the_names_of_a_campaign_are_stored_up_to_their_limit(server: Any) -> None:
    properties = {"utm_source": "s" * 150, "ad": "a" * 100}
    event = {"type": "track", "event": "view", "message_id": "long-ad", "user_id": "items-ad", "properties": properties}
    assert server.post("/v1/events", {"batch": [event]}).json()["statuses"][0]["status"] == "accepted"
    profile = server.get("/v1/profiles/items-ad").text
    assert f'"{"s" * 100}"' in profile
    assert f'"{"a" * 100}"' in profile

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
    assert answer.status_code == 400
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

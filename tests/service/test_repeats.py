import asyncio
from typing import Any

import msgspec

from engine import embedded
from engine.journal.records import DecisionRecord, encode
from engine.profiles.wire import Wire, connect
from engine.service.repeats import Kept, claim

BODY = b'{"customer": {"user_id": "again-1"}, "channel": "web", "placements": ["home_hero"]}'


def logged(server: Any, customer: str) -> list[str]:
    return [r.decision_id for r in server.records() if type(r).__name__ == "DecisionRecord" and r.customer == customer]


def test_the_same_request_with_the_same_key_has_the_same_answer_and_one_record(server: Any) -> None:
    answers = [server.post("/v1/decide", BODY, idempotency_key="k-1").content for _ in range(5)]
    assert len(set(answers)) == 1
    assert logged(server, "again-1") == [msgspec.json.decode(answers[0])["decision_id"]]


def test_another_key_another_body_or_no_key_is_another_decision(server: Any) -> None:
    body = BODY.replace(b"again-1", b"again-2")
    other = body.replace(b"web", b"app")
    asked = [
        (body, {"idempotency_key": "k-2"}),
        (body, {"idempotency_key": "k-3"}),
        (other, {"idempotency_key": "k-2"}),
        (body, {}),
    ]
    ids = [server.post("/v1/decide", sent, **headers).json()["decision_id"] for sent, headers in asked]
    assert len(set(ids)) == 4
    assert logged(server, "again-2") == ids


def test_an_answer_whose_worker_died_before_it_was_spooled_is_spooled_by_whoever_gives_it_again(
    server: Any, valkey: embedded.Embedded
) -> None:
    body = BODY.replace(b"again-1", b"again-3")
    record = DecisionRecord("0190r", 1.0, "again-3", None, "web", "plan", [])

    async def die() -> None:
        wire = Wire(connect(valkey.url, 5))
        kept = Kept(b'{"decision_id": "0190r"}', [(encode(record), "again-3")])
        assert await claim(wire, "k-4", body, kept) is kept
        await wire.close()

    asyncio.run(die())
    for _ in range(3):
        assert server.post("/v1/decide", body, idempotency_key="k-4").json() == {"decision_id": "0190r"}
    assert logged(server, "again-3") == ["0190r"]


def test_ids_of_decisions_that_may_come_twice_can_be_told(server: Any) -> None:
    keyed = server.post("/v1/decide", BODY, idempotency_key="k-5").json()["decision_id"]
    plain = server.post("/v1/decide", BODY).json()["decision_id"]
    assert (keyed[12], len(keyed)) == ("r", len(plain))
    assert int(keyed[:12], 16) <= int(plain[:12], 16)
    assert int(plain, 16)

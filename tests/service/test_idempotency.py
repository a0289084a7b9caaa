import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from engine import embedded
from engine.customers.redis.pipeline import RedisPipeline, connect_store
from engine.errors import BadInput
from engine.service.idempotency import PATIENCE, IdempotentAnswers, PreparedAnswer
from engine.service.problems import Refusal
from engine.service.recorder import Payloads
from engine.service.store_health import StoreHealth

BODY = b'{"customer": {"user_id": "again-1"}, "channel": "web", "placements": ["home_hero"]}'
RECORD = (b"a record", "again")


def logged(server: Any, customer: str) -> list[str]:
    return [r.decision_id for r in server.records() if type(r).__name__ == "DecisionRecord" and r.customer == customer]


def test_the_same_request_with_the_same_key_has_the_same_answer_and_one_record(server: Any) -> None:
    answers = [server.post("/v1/decide", BODY, idempotency_key="k-1").content for _ in range(5)]
    assert len(set(answers)) == 1
    assert logged(server, "again-1") == [msgspec.json.decode(answers[0])["decision_id"]]


def test_at_once_they_are_one_decision_too(server: Any) -> None:
    body = BODY.replace(b"again-1", b"again-6")
    with ThreadPoolExecutor(16) as crowd:
        answers = list(crowd.map(lambda _: server.post("/v1/decide", body, idempotency_key="k-6").content, range(16)))
    assert len(set(answers)) == 1
    # who waited may spool the record once more; the collector takes one of each such id
    assert set(logged(server, "again-6")) == {msgspec.json.decode(answers[0])["decision_id"]}


def test_the_same_key_with_another_body_is_refused(server: Any) -> None:
    body = BODY.replace(b"again-1", b"again-2")
    first = server.post("/v1/decide", body, idempotency_key="k-2")
    for other in (body.replace(b"web", b"app"), body.replace(b"again-2", b"again-9")):
        answer = server.post("/v1/decide", other, idempotency_key="k-2")
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert answer.json()["errors"][0]["field"] == "idempotency-key"
    assert server.post("/v1/decide", body, idempotency_key="k-2").content == first.content


def test_another_key_or_none_is_another_decision(server: Any) -> None:
    body = BODY.replace(b"again-1", b"again-3")
    asked: list[dict[str, str]] = [{"idempotency_key": "k-3"}, {"idempotency_key": "k-4"}, {}]
    ids = [server.post("/v1/decide", body, **headers).json()["decision_id"] for headers in asked]
    assert len(set(ids)) == 3
    assert logged(server, "again-3") == ids


def test_what_was_refused_may_be_asked_again(server: Any) -> None:
    bad = BODY.replace(b"web", b"moon")
    assert [server.post("/v1/decide", bad, idempotency_key="k-7").status_code for _ in range(2)] == [400, 400]


def test_ids_of_decisions_that_may_be_logged_twice_are_marked(server: Any) -> None:
    keyed = server.post("/v1/decide", BODY, idempotency_key="k-5").json()["decision_id"]
    plain = server.post("/v1/decide", BODY).json()["decision_id"]
    assert (keyed[12], len(keyed)) == ("r", len(plain))
    assert int(keyed[:12], 16) <= int(plain[:12], 16)
    assert int(plain, 16)


Asking = Callable[[Callable[[Payloads], None]], IdempotentAnswers]


def at_store(url: str, run: Callable[[Asking], Awaitable[None]]) -> None:
    async def main() -> None:
        wire = RedisPipeline(connect_store(url, 5))
        await run(lambda spool: IdempotentAnswers(wire, StoreHealth(wire, 5), spool))
        await wire.close()

    asyncio.run(main())


def kept(answer: bytes) -> Callable[[], Awaitable[PreparedAnswer]]:
    async def make() -> PreparedAnswer:
        return PreparedAnswer(answer, [RECORD])

    return make


def test_records_of_a_worker_that_died_before_it_spooled_them_are_spooled_by_who_answers_again(
    valkey: embedded.Embedded,
) -> None:
    class Died(Exception):
        pass

    def die(_: Payloads) -> None:
        raise Died

    async def run(asking: Asking) -> None:
        spooled: Payloads = []
        with pytest.raises(Died):
            await asking(die).answer_once("died", b"body", kept(b"first"))
        for _ in range(3):
            assert await asking(spooled.extend).answer_once("died", b"body", kept(b"second")) == b"first"
        assert spooled == [RECORD]

    at_store(valkey.url, run)


def test_who_decides_for_too_long_is_overtaken_once_and_answers_the_same(valkey: embedded.Embedded) -> None:
    async def run(asking: Asking) -> None:
        awake, spooled = asyncio.Event(), list[tuple[bytes, str]]()

        async def slow() -> PreparedAnswer:
            await awake.wait()
            return PreparedAnswer(b"slow", [RECORD])

        first = asyncio.create_task(asking(spooled.extend).answer_once("slow", b"body", slow))
        await asyncio.sleep(0.05)
        with pytest.raises(Refusal, match="another body"):
            await asking(spooled.extend).answer_once("slow", b"other", kept(b"other"))
        others = [asking(spooled.extend).answer_once("slow", b"body", kept(f"{n}".encode())) for n in range(4)]
        answers = set(await asyncio.wait_for(asyncio.gather(*others), 20 * PATIENCE))
        awake.set()
        assert {await first} == answers
        assert len(answers) == 1
        assert spooled == [RECORD]

    at_store(valkey.url, run)


def test_a_failure_frees_the_key_at_once(valkey: embedded.Embedded) -> None:
    async def fail() -> PreparedAnswer:
        raise BadInput("channel: 'moon' is not a channel")

    async def run(asking: Asking) -> None:
        asked = asking([].extend)
        with pytest.raises(BadInput):
            await asked.answer_once("failed", b"body", fail)
        assert await asked.answer_once("failed", b"another", kept(b"fine")) == b"fine"

    at_store(valkey.url, run)

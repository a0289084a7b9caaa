"""A begun erasure completes, wherever its process dies and whatever arrives meanwhile; nothing is left behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import pytest
import redis
from msgspec.structs import replace

from engine.claims.claims import Claim, Claims
from engine.claims.pending_exposures import PendingDecision, store_pending
from engine.customer import CustomerIds
from engine.customers.model.events import Accepted, Event
from engine.customers.redis.pipeline import (
    Argument,
    FollowUp,
    RedisPipeline,
    RedisReply,
    Script,
    StoredValues,
    connect_store,
)
from engine.customers.store import ProfileStore
from engine.due.index import DueIndex
from engine.due.sends import Send, SendKey, replace_send
from engine.erasure.profiles import SECOND_SWEEP_SECONDS, erase_profile, finish_erasures
from engine.errors import StoreUnavailable
from engine.hashing import identifier_digest
from engine.keyspace import ERASURES, UNFINISHED_ERASURES, due_lease

NOW = time.time()
T = TypeVar("T")
Step = Callable[[], Awaitable[object]]
NAMES = ("a-secret", "u-secret", "secret@x.de")


class Stepping(RedisPipeline):
    """A wire on which `step` happens before what is asked as number `at`, which `dies` or goes on."""

    def __init__(self, url: str, at: int, step: Step | None = None) -> None:
        super().__init__(connect_store(url, 10))
        self.left = at
        self.step = step

    def send(self, *command: Argument) -> "asyncio.Future[RedisReply]":
        return self._stepping(lambda: super(Stepping, self).send(*command))

    def call(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> "asyncio.Future[RedisReply]":
        return self._stepping(lambda: super(Stepping, self).call(script, keys, arguments))

    def get(self, keys: list[str], read: Callable[[StoredValues], T | FollowUp]) -> "asyncio.Future[T]":
        return self._stepping(lambda: super(Stepping, self).get(keys, read))

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        await self._stepping(lambda: super(Stepping, self).send("PING"))
        async for names in super().scan(pattern):
            yield names

    def _stepping(self, ask: "Callable[[], asyncio.Future[T]]") -> "asyncio.Future[T]":
        self.left -= 1
        if self.left >= 0:
            return ask()
        if self.step is None:
            raise StoreUnavailable("the process died here")
        step, self.step, self.left = self.step, None, 1_000_000

        async def after() -> T:
            await step()
            return await ask()

        return asyncio.ensure_future(after())


async def silent(accepted: list[Accepted]) -> None: ...


def bought(message: str, **ids: str) -> Event:
    return Event("track", message, event="purchase", properties={"revenue": 9.0}, timestamp=NOW, **ids)


async def lived(store: ProfileStore) -> None:
    """A customer of three names, with what was counted for them, decisions to be seen, and messages to be sent.

    One message was drawn as the visitor by a process that died, one waits, and one is leased.
    """
    await store.ingest([bought("m1", anonymous_id="a-secret")], NOW, silent)
    await store.ingest([bought("m2", user_id="u-secret", anonymous_id="a-secret", email="secret@x.de")], NOW, silent)
    found = await store.fetch(CustomerIds(user_id="u-secret"), NOW)
    await Claims(store.pipeline).count(found.key, Claim(id="c", counters=["exposure|*"]), NOW)
    for n, name in enumerate(("u-secret", "a-secret")):
        ids = CustomerIds(user_id="u-secret")
        await store_pending(
            store.pipeline, f"d{n}", PendingDecision(customer=name, keys=["hero"], key=found.key, unit=name, who=ids)
        )
    visitor, index = store.hash_key("anonymous_id", "a-secret"), DueIndex(store.pipeline)
    await index.note([visitor, found.key], NOW)
    message = Send(occurrence="1", state="drawn", channel="email", placement="letter", at=NOW, closes=NOW)
    drawn = replace(message, records=[(b"a-secret", "a-secret")])
    leased = replace(message, state="leased", decision_id="d-leased")
    for key, send in ((visitor, drawn), (found.key, replace(message, state="waiting")), (found.key, leased)):
        place = SendKey(key, f"weekly-{send.state}")
        await index.add("email", place, NOW)
        await replace_send(store.pipeline, place, b"", send, NOW)
    await store.pipeline.send("SET", due_lease("d-leased"), f"{found.key}|weekly-leased")


def left(url: str) -> tuple[dict[bytes, bytes], bytes]:
    """The strings in the store, and the notes and announcements of erasures; nothing else is left of an erased one."""
    with redis.Redis.from_url(url) as client:
        names = [name for name in client.scan_iter() if name not in (ERASURES.encode(), UNFINISHED_ERASURES.encode())]
        texts = {name: client.get(name) or b"" for name in names if client.type(name) == b"string"}
        if set(texts.values()) <= {b"T"}:
            assert [name for name in names if name not in texts] in ([], [b"cp:merges"])
        notes = (
            b" ".join(fields[b"who"] for _, fields in client.xrange(ERASURES))
            + repr(client.hgetall(UNFINISHED_ERASURES)).encode()
        )
        return texts, notes


@pytest.mark.parametrize("known_by", ["a-secret", "secret@x.de"])
def test_an_erasure_is_finished_wherever_it_was_cut_short(redis_url: str, known_by: str) -> None:
    async def run() -> int:
        store = ProfileStore.open(redis_url, timeout=10)
        died = 0
        while True:
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()
            await lived(store)
            dying = ProfileStore(Stepping(redis_url, died))
            done = False
            with suppress(StoreUnavailable):
                await erase_profile(dying, known_by)
                done = True
            await dying.close()
            begun = await store.pipeline.send("EXISTS", UNFINISHED_ERASURES)
            assert await finish_erasures(store, time.time()) == 0, "its process may be alive"
            looked = await finish_erasures(store, time.time() + SECOND_SWEEP_SECONDS)
            assert looked == begun
            texts, notes = left(redis_url)
            if begun:
                assert set(texts.values()) == {b"T"}, died
                assert not any(name.encode() in notes for name in NAMES)
                assert all(identifier_digest(name).encode() in notes for name in NAMES), died
                (late,) = await store.ingest([bought("m3", user_id="u-secret")], NOW, silent)
                assert late.status == "rejected"
            else:
                assert any(b"secret" in value for value in texts.values())
            await finish_erasures(store, time.time() + 3 * SECOND_SWEEP_SECONDS)
            assert not await store.pipeline.send("EXISTS", UNFINISHED_ERASURES)
            if done:
                await store.close()
                return died
            died += 1

    assert asyncio.run(run()) > 8


def test_what_a_decision_keeps_late_goes_with_the_second_look(redis_url: str) -> None:
    async def run() -> None:
        store = ProfileStore.open(redis_url, timeout=10)
        await lived(store)
        found = await store.fetch(CustomerIds(user_id="u-secret"), NOW)
        await erase_profile(store, "u-secret")
        dying = Stepping(redis_url, 1)
        with suppress(StoreUnavailable):
            await store_pending(
                dying,
                "d-late",
                PendingDecision(customer="u-secret", keys=["hero"], key=found.key, unit="u-secret", who=None),
            )
        await dying.close()
        assert any(b"secret" in value for value in left(redis_url)[0].values())
        assert await finish_erasures(store, time.time() + SECOND_SWEEP_SECONDS) == 1
        assert set(left(redis_url)[0].values()) == {b"T"}
        await store.close()

    asyncio.run(run())


def test_a_visitor_who_logs_in_while_they_are_erased_is_not_left(redis_url: str) -> None:
    identify = Event("identify", "m1", traits={"name": "Secret Guest"}, timestamp=NOW, anonymous_id="a-secret")
    login = Event("alias", "m2", user_id="u-1", anonymous_id="a-secret", timestamp=NOW)

    async def run() -> None:
        store = ProfileStore.open(redis_url, timeout=10)
        for at in range(12):
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()
            await store.ingest([identify], NOW, silent)
            erasing = ProfileStore(Stepping(redis_url, at, lambda: store.ingest([login], NOW, silent)))
            await erase_profile(erasing, "a-secret")
            await erasing.close()
            await store.finish_merges(NOW, silent)
            await finish_erasures(store, time.time() + SECOND_SWEEP_SECONDS)
            texts, _ = left(redis_url)
            assert not any(b"ecret" in value for value in texts.values()), at
        await store.close()

    asyncio.run(run())


def test_another_who_took_the_tablet_meanwhile_stays(redis_url: str) -> None:
    async def run() -> None:
        store = ProfileStore.open(redis_url, timeout=10)
        await store.ingest([bought("m1", anonymous_id="tablet")], NOW, silent)
        dying = ProfileStore(Stepping(redis_url, 4))
        with suppress(StoreUnavailable):
            await erase_profile(dying, "tablet")
        await dying.close()
        assert (await store.fetch(CustomerIds(anonymous_id="tablet"), NOW)).is_known
        for n in (1, 2):
            await store.ingest([bought(f"m{n + 1}", user_id=f"u-{n}", anonymous_id="tablet")], NOW, silent)
        assert await finish_erasures(store, time.time() + SECOND_SWEEP_SECONDS) == 1
        assert (await store.fetch(CustomerIds(user_id="u-2"), NOW)).is_known
        await store.close()

    asyncio.run(run())

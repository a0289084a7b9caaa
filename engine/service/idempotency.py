"""A request that is sent again with its `Idempotency-Key` gets the answer it had; the log holds that decision once.

As in the IETF's draft-ietf-httpapi-idempotency-key-header: the key with another body is refused with 422. Of several
that come at once the first decides and the others wait for it; if it takes too long its worker is taken for dead.

The answer is kept with its records before they are in the spool, and without them after. Who finds records does not
know whether the worker that put them there lived to spool them, so it spools them too: `repeatable` ids tell the
collector which decisions may come twice.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Container
from hashlib import blake2b, sha1
from pathlib import Path

import msgspec

from engine import keyspace
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, Script
from engine.errors import StoreUnavailable
from engine.hashing import identifier_digest
from engine.service.problems import Refusal
from engine.service.store_health import StoreHealth

LIFE = 60
"""Seconds; a client that asks again does so at once, and a busy shop makes many answers in a minute."""
PATIENCE = 0.5
"""Seconds for which a request that has begun is waited for."""
LOOK = 0.01
DIGEST = 16
BEGUN, DONE = b"?", b"="

Payloads = list[tuple[bytes, str]]


class PreparedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it was given; `records` (payload, customer) are those that may not be in the log yet.

    It names the `customer`, where it may be kept at all: of the erased, nothing is.
    """

    answer: bytes
    records: Payloads
    customer: str | None = ""


_TEXT = Path(__file__).with_name("idempotency.lua").read_text(encoding="utf-8")
_CLAIM = Script(_TEXT, sha1(_TEXT.encode(), usedforsecurity=False).hexdigest())
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PreparedAnswer).decode


class IdempotentAnswers:
    """The requests that one worker was sent with a key; `spool` takes records, as payload and customer."""

    def __init__(self, wire: RedisPipeline, away: StoreHealth, spool: Callable[[Payloads], None]) -> None:
        self._wire = wire
        self._away = away
        self._spool = spool

    async def once(self, scope: str, body: bytes, make: Callable[[], Awaitable[PreparedAnswer]]) -> bytes:
        """The answer to the request `body` with the key `scope` names: the one it had, or else what `make` makes.

        Raises:
            Refusal: 422 if the key was used for another request.
        """
        if self._away.now:
            return self._only(await make())
        name, request = _name(scope), _digest(body)
        mine = BEGUN + request + os.urandom(8)
        try:
            earlier = await self._begun(name, mine)
            if earlier is not None:
                return self._given(name, request, earlier)
        except StoreUnavailable:
            return self._only(await make())
        try:
            kept = await make()
        except BaseException:
            _unheard(self._wire.call(_CLAIM, [name], [b"", LIFE, mine]))
            raise
        if kept.customer is None:
            _unheard(self._wire.call(_CLAIM, [name], [b"", LIFE, mine]))
            return self._only(kept)
        done = DONE + request + _encode(kept)
        try:
            earlier = await self._put(name, done, BEGUN)
        except StoreUnavailable:
            return self._only(kept)
        return self._given(name, request, earlier or done)

    async def _begun(self, name: str, mine: bytes) -> bytes | None:
        """What another made of the request; None once it is `mine` to make."""
        over = b""
        while (earlier := await self._put(name, mine, over)) is not None:
            if earlier[:1] == DONE or _other(earlier, mine[1:]):
                return earlier
            over = b""
            looks = int(PATIENCE / LOOK)
            for _ in range(looks):
                await asyncio.sleep(LOOK)
                found = await self._wire.get([name], lambda values: values[0])
                if found != earlier:
                    break
            else:
                over = earlier
        return None

    async def _put(self, name: str, value: bytes, over: bytes) -> bytes | None:
        reply = await self._wire.call(_CLAIM, [name], [value, LIFE, over])
        return reply if isinstance(reply, bytes) else None

    def _given(self, name: str, request: bytes, value: bytes) -> bytes:
        if _other(value, request):
            raise Refusal(
                422, "the key was used for another request in the last minute; use a new one", "idempotency-key"
            )
        kept = _decode(value[1 + DIGEST :])
        if kept.records:
            self._spool(kept.records)
            # Not waited for: not knowing it costs a duplicate.
            done = DONE + request + _encode(PreparedAnswer(kept.answer, [], kept.customer))
            _unheard(self._wire.send("SET", name, done, "XX", "KEEPTTL"))
        return kept.answer

    def _only(self, kept: PreparedAnswer) -> bytes:
        """The answer where the store cannot tell of another; it may be made twice."""
        self._spool(kept.records)
        return kept.answer


async def delete_answers(wire: RedisPipeline, who: Container[str]) -> None:
    """Let go of the answers to the erased, by the digests of their names.

    Raises:
        StoreUnavailable: if the store does not answer.
    """
    async for names in wire.scan(keyspace.idempotent_answer("?" * 32)):
        values = await wire.get(names, list) if names else []
        for name, value in zip(names, values, strict=True):
            customer = _decode(value[1 + DIGEST :]).customer if value is not None and value[:1] == DONE else None
            if customer is not None and identifier_digest(customer) in who:
                await wire.send("DEL", name)


def _other(value: bytes, request: bytes) -> bool:
    """Whether what was kept is of another request than the one of this digest."""
    return value[1 : 1 + DIGEST] != request[:DIGEST]


def _unheard(sent: "asyncio.Future[RedisReply]") -> None:
    sent.add_done_callback(lambda future: future.cancelled() or future.exception())


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=DIGEST).digest()


def _name(scope: str) -> str:
    return keyspace.idempotent_answer(blake2b(scope.encode(), digest_size=16).hexdigest())

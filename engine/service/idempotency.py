"""Returns the stored answer when a request is repeated with its `Idempotency-Key`; the log has one decision.

Follows the IETF's draft-ietf-httpapi-idempotency-key-header: a key that comes with another body is refused with 422.

Invariants:

1. All requests with one key and one body get one answer, for `LIFE` seconds, at whichever worker they arrive.
2. That answer's records are in a spool before it is sent, also when the worker that decided died in between: the answer
   is stored together with its records, and a worker that reads an answer with records appends them before it answers.
   So records may be appended twice. Ids made by `mark_repeatable` tell the collector to drop the second copy.
3. The answer to an erased customer is never stored.
4. Without the store every request is decided again: answering in time matters more than repeating the answer.

The entry in Redis (`keyspace.idempotent_answer` of a digest of the caller and the key), DIGEST being that of the body:

| state | value |
|---|---|
| unused | no entry |
| in progress | `?` DIGEST(16) NONCE(8): the worker that wrote this nonce decides |
| answered | `=` DIGEST(16) msgpack of `PreparedAnswer` with its records: they may not be in a spool yet |
| recorded | the same with no records |

| from | when | to |
|---|---|---|
| unused | a request takes the key | in progress |
| in progress | the decision is made; also by a worker that was overtaken, if it is the first to finish | answered |
| in progress | the decision failed, or its customer is erased | unused |
| in progress | nothing for `PATIENCE` seconds: a waiting request takes the worker for dead | in progress, new nonce |
| answered | the records were appended to a spool | recorded |
| answered, recorded | the customer is erased | unused |
| any | `LIFE` seconds | unused |
"""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Container
from hashlib import blake2b, sha1
from pathlib import Path

import msgspec
import structlog

from engine import keyspace
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, Script
from engine.errors import StoreUnavailable, UnreadableValueError
from engine.hashing import identifier_digest
from engine.service.problems import Refusal
from engine.service.recorder import Payloads
from engine.service.store_health import StoreBudget, StoreHealth

LIFE = 60
"""Seconds; a client repeats a request at once, and a busy shop stores many answers in a minute."""
PATIENCE = 0.5
"""Seconds that a request in progress is waited for."""
POLL_SECONDS = 0.01
DIGEST = 16
IN_PROGRESS, ANSWERED = b"?", b"="


class PreparedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """An encoded answer and its `records`, which may not be in a spool yet.

    `customer` finds it for an erasure; None marks the answer to an erased customer, which is not stored.
    """

    answer: bytes
    records: Payloads
    customer: str | None = ""


_TEXT = Path(__file__).with_name("idempotency.lua").read_text(encoding="utf-8")
_REPLACE = Script(_TEXT, sha1(_TEXT.encode(), usedforsecurity=False).hexdigest())
log = structlog.get_logger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PreparedAnswer).decode


class IdempotentAnswers:
    """The keyed requests of one worker; `append` writes encoded records to its spool."""

    def __init__(self, pipeline: RedisPipeline, health: StoreHealth, append: Callable[[Payloads], None]) -> None:
        self._pipeline = pipeline
        self._health = health
        self._append = append

    async def answer_once(
        self,
        scope: str,
        body: bytes,
        prepare: Callable[[], Awaitable[PreparedAnswer]],
        *,
        deadline: float = math.inf,
    ) -> bytes:
        """Answer a request: by the stored answer of its key if there is one, else by the result of `prepare`.

        Args:
            scope: the key together with whose key it is.
            body: the request's bytes; a repetition has the same.
            prepare: decides, and appends nothing: the records are appended here.
            deadline: until when to wait for the store (s, of the event loop's clock). Another request with this key is
                waited for longer, since it is about to answer.

        Raises:
            Refusal: 422 if the key was used for another body.
        """
        if self._health.is_away:
            return self._answer_unstored(await prepare())
        name, digest = _entry_name(scope), _digest(body)
        in_progress = IN_PROGRESS + digest + os.urandom(8)
        try:
            stored = await self._take_key(name, in_progress, deadline)
            if stored is not None:
                return self._answer_stored(name, digest, stored)
        except UnreadableValueError as error:
            log.warning("a stored answer cannot be read; deciding again", error=str(error))
            return self._answer_unstored(await prepare())
        except StoreUnavailable:
            self._free_key(name, in_progress)  # it may have been taken all the same
            return self._answer_unstored(await prepare())
        try:
            prepared = await prepare()
        except BaseException:  # a cancellation too: the next request with this key must not wait for a dead one
            self._free_key(name, in_progress)
            raise
        if prepared.customer is None:
            self._free_key(name, in_progress)
            return self._answer_unstored(prepared)
        answered = ANSWERED + digest + _encode(prepared)
        try:
            # Stored before its records are appended (invariant 2). An overtaker may have answered: then its answer is
            # the key's, and this one is dropped unrecorded.
            async with StoreBudget(deadline):
                stored = await self._replace(name, answered, IN_PROGRESS)
        except StoreUnavailable:
            return self._answer_unstored(prepared)
        return self._answer_stored(name, digest, stored or answered)

    async def _take_key(self, name: str, in_progress: bytes, deadline: float) -> bytes | None:
        """None once `in_progress` is stored and the caller decides; else the answer, or another body's entry."""
        async with StoreBudget(deadline):
            stored = await self._replace(name, in_progress, b"")
        while stored is not None:
            if stored[:1] == ANSWERED or _is_of_another_body(stored, in_progress[1:]):
                return stored
            replaces = b""
            for _ in range(int(PATIENCE / POLL_SECONDS)):
                await asyncio.sleep(POLL_SECONDS)
                if await self._pipeline.get([name], lambda values: values[0]) != stored:
                    break
            else:
                replaces = stored  # exactly this nonce: of many that waited, one overtakes
            stored = await self._replace(name, in_progress, replaces)
        return None

    async def _replace(self, name: str, value: bytes, replaces: bytes) -> bytes | None:
        """Store `value` if the entry is missing or equals `replaces`; else return the stored value."""
        reply = await self._pipeline.call(_REPLACE, [name], [value, LIFE, replaces])
        return reply if isinstance(reply, bytes) else None

    def _free_key(self, name: str, in_progress: bytes) -> None:
        """Delete the entry unless another request took it over; if this fails unawaited, the key waits `PATIENCE`."""
        _ignore_failure(self._pipeline.call(_REPLACE, [name], [b"", LIFE, in_progress]))

    def _answer_stored(self, name: str, digest: bytes, value: bytes) -> bytes:
        """The stored answer of a repeated request; its stored records are appended first (invariant 2)."""
        if _is_of_another_body(value, digest):
            detail = f"the key was used for another body within {LIFE} s; send a new key with a new request"
            raise Refusal(422, detail, "idempotency-key")
        try:
            prepared = _decode(value[1 + DIGEST :])
        except msgspec.DecodeError as error:
            raise UnreadableValueError(f"stored answer: {error}; was it written by a newer version?") from error
        if prepared.records:
            self._append(prepared.records)
            # Not awaited: where this write is lost, the next repetition appends the records again (invariant 2).
            recorded = ANSWERED + digest + _encode(PreparedAnswer(prepared.answer, [], prepared.customer))
            _ignore_failure(self._pipeline.send("SET", name, recorded, "XX", "KEEPTTL"))
        return prepared.answer

    def _answer_unstored(self, prepared: PreparedAnswer) -> bytes:
        """The answer while none can be stored; a repeated request is decided again."""
        self._append(prepared.records)
        return prepared.answer


async def delete_answers(pipeline: RedisPipeline, digests: Container[str]) -> None:
    """Delete the stored answers to erased customers, given the digests of their names. Scans all stored answers.

    Raises:
        StoreUnavailable: if the store does not answer in time.
    """
    async for names in pipeline.scan(keyspace.idempotent_answer("?" * 32)):
        values = await pipeline.get(names, list) if names else []
        for name, value in zip(names, values, strict=True):
            if value is None or value[:1] != ANSWERED:
                continue
            try:
                customer = _decode(value[1 + DIGEST :]).customer
            except msgspec.DecodeError:
                customer = None  # it answers nobody, and may be of anyone
                await pipeline.send("DEL", name)
            if customer is not None and identifier_digest(customer) in digests:
                await pipeline.send("DEL", name)


def _is_of_another_body(value: bytes, digest: bytes) -> bool:
    """Whether a stored value belongs to a request with the same key and another body."""
    return value[1 : 1 + DIGEST] != digest[:DIGEST]


def _ignore_failure(sent: "asyncio.Future[RedisReply]") -> None:
    """Retrieve the exception of a write that nobody awaits, so that asyncio does not log it as lost."""
    sent.add_done_callback(lambda future: future.cancelled() or future.exception())


def _digest(body: bytes) -> bytes:
    """The digest by which bodies are compared."""
    return blake2b(body, digest_size=DIGEST).digest()


def _entry_name(scope: str) -> str:
    """The Redis key of an idempotency key, hashed because the scope contains customer ids."""
    return keyspace.idempotent_answer(blake2b(scope.encode(), digest_size=16).hexdigest())

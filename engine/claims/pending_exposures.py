"""Decisions of which more will be heard, kept for a day: asked for ahead of being seen, or with limited offers."""

from collections.abc import Container

import msgspec

from engine import keyspace
from engine.customer import CustomerIds
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, StoredValues
from engine.customers.redis.stored_entry import TOMBSTONE
from engine.hashing import identifier_digest

LIFE = 86_400


class PendingDecision(msgspec.Struct, frozen=True, array_like=True):
    """For whom it was decided, and the experiments and placements that wait to be seen.

    Where none waits, as they were seen at once, it does not say for whom. `key` is where the customer's claims are;
    `offers` are those by placement that must be claimed yet or heard of again, with the moment of truth and when it
    began. `who` names a customer who was not seen yet, and `unit` is what their variants hang on.
    """

    customer: str
    keys: list[str]
    key: ProfileKey = ""
    offers: dict[str, tuple[str, str | None, float]] = {}
    channel: str = ""
    zone: str = "UTC"
    unit: str = ""
    who: CustomerIds | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PendingDecision).decode


async def store_pending(pipeline: RedisPipeline, decision_id: str, prefetched: PendingDecision) -> None:
    """Keep a decision until it is seen; not where its customer was erased meanwhile.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    await pipeline.send("SET", keyspace.pending_decision(decision_id), _encode(prefetched), "EX", LIFE)
    if not prefetched.customer:
        return
    erased: bool = await pipeline.get([keyspace.profile(prefetched.key)], _erased)
    if erased:  # and `forget` may have looked before
        await pipeline.send("DEL", keyspace.pending_decision(decision_id))


async def fetch_pending(pipeline: RedisPipeline, decision_id: str) -> PendingDecision | None:
    """The decision of this id, if it waits to be seen.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    found: PendingDecision | None = await pipeline.get([keyspace.pending_decision(decision_id)], _read)
    return found


async def delete_pending_of(pipeline: RedisPipeline, who: Container[str]) -> None:
    """Let go of what waits to be seen by the erased, by the digests of their names. Looks at all that waits.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    async for names in pipeline.scan(keyspace.pending_decision("*")):
        values = await pipeline.get(names, list) if names else []
        for name, value in zip(names, values, strict=True):
            of = None if value is None else _decode(value)
            if of is not None and (identifier_digest(of.customer) in who or identifier_digest(of.unit) in who):
                await pipeline.send("DEL", name)


def _erased(values: StoredValues) -> bool:
    return values[0] == TOMBSTONE


def _read(values: StoredValues) -> PendingDecision | None:
    return None if values[0] is None else _decode(values[0])

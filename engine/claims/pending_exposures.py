"""Decisions awaiting exposure or outcome events; stored for 24 h, and a day past the longest hold of their offers.

A decision is pending where it was prefetched and is not exposed yet, or where it shows offers whose claims later events
confirm or release. It is stored once, read by any number of events, and expires or is deleted with its customer.

Invariants: a decision of an erased customer is not stored, in whatever order the erasure and the decision come. One
whose parts were all exposed at once names no customer.

Format in Redis: a string, the msgpack array of `PendingDecision`'s fields in their order.
"""

from collections.abc import Container

import msgspec

from engine import keyspace
from engine.customer import CustomerIds
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, StoredValues
from engine.customers.redis.stored_entry import TOMBSTONE
from engine.errors import UnreadableValueError
from engine.hashing import identifier_digest

LIFE = 86_400
PendingOffer = tuple[str, str | None, float]
"""An offer that a decision shows, with its moment of truth and the moment's begin (s since 1970)."""


class PendingDecision(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The part of a decision that later events need.

    `keys` are the experiments and placements that are not exposed yet; where there is none, `customer` is empty.
    `key` is the profile that the claims belong to. `offers` are, by placement or item of a list, the offers to be
    claimed, confirmed or released. `who` are the identifiers of a customer without an exposure so far, and `unit` is
    the id that their variants were assigned by. `places` hand the items of `offers` over, where places do, by their
    keys.
    """

    customer: str
    keys: list[str]
    key: ProfileKey = ""
    offers: dict[str, PendingOffer] = {}
    channel: str = ""
    zone: str = "UTC"
    unit: str = ""
    who: CustomerIds | None = None
    places: dict[str, str] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PendingDecision).decode


async def store_pending(
    pipeline: RedisPipeline, decision_id: str, pending: PendingDecision, life: float = LIFE
) -> None:
    """Store a pending decision for `life` seconds, unless its customer was erased meanwhile.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    await pipeline.send("SET", keyspace.pending_decision(decision_id), _encode(pending), "EX", int(life))
    if not pending.customer:
        return
    # Looked up after the write: an erasure that scanned before it left the decision behind.
    erased: bool = await pipeline.get([keyspace.profile(pending.key)], _is_erased)
    if erased:
        await pipeline.send("DEL", keyspace.pending_decision(decision_id))


async def fetch_pending(pipeline: RedisPipeline, decision_id: str) -> PendingDecision | None:
    """The pending decision of this id, None if there is none.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    found: PendingDecision | None = await pipeline.get([keyspace.pending_decision(decision_id)], _read)
    return found


async def delete_pending_of(pipeline: RedisPipeline, erased: Container[str]) -> None:
    """Delete the pending decisions of erased customers, by the digests of their ids. Scans all pending decisions.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    async for names in pipeline.scan(keyspace.pending_decision("*")):
        values = await pipeline.get(names, list) if names else []
        for name, value in zip(names, values, strict=True):
            if value is None:
                continue
            try:
                pending = _decode(value)
            except msgspec.DecodeError:  # no exposure can be reported to it, and it may be of anyone
                await pipeline.send("DEL", name)
                continue
            if identifier_digest(pending.customer) in erased or identifier_digest(pending.unit) in erased:
                await pipeline.send("DEL", name)


def _is_erased(values: StoredValues) -> bool:
    return values[0] == TOMBSTONE


def _read(values: StoredValues) -> PendingDecision | None:
    try:
        return None if values[0] is None else _decode(values[0])
    except msgspec.DecodeError as error:
        raise UnreadableValueError(f"pending decision: {error}; was it written by a newer version?") from error

"""Decisions awaiting exposure or outcome events; stored for a day past their longest hold and refund span.

A decision is pending where it was prefetched and is not exposed yet, or where it shows offers whose claims later events
confirm or release. It is stored once, read by any number of events, and expires or is deleted with its customer. What
it holds in stocks and budgets is released first: the decision alone says where that is.

Invariants: a decision of an erased customer is not stored, in whatever order the erasure and the decision come. One
whose parts were all exposed at once names no customer.

Format in Redis: a string, the msgpack array of `PendingDecision`'s fields in their order.
"""

import asyncio
from collections.abc import Container, Mapping

import msgspec

from engine import keyspace
from engine.claims.claims import Claim, Claims, PoolKind, PoolShare
from engine.claims.requirements import claim_id
from engine.customer import CustomerIds
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, StoredValues
from engine.customers.redis.stored_entry import TOMBSTONE
from engine.errors import UnreadableValueError
from engine.hashing import identifier_digest
from engine.vocabulary import split_item

LIFE = 86_400
PendingOffer = tuple[str, str | None, float]
"""An offer that a decision shows, with its moment of truth and the moment's begin (s since 1970)."""


class PendingDecision(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The part of a decision that later events need.

    `keys` are the experiments and placements that are not exposed yet; where there is none, `customer` is empty.
    `key` is the profile that the claims belong to. `offers` are, by placement or item of a list, the offers to be
    claimed, confirmed or released. `who` are the identifiers of a customer without an exposure so far, and `unit` is
    the id that their variants were assigned by. `places` hand the items of `offers` over, where places do, by their
    keys. `pools` are, by offer, the stocks and budgets in which it may have a claim.
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
    pools: dict[str, list[tuple[PoolKind, str]]] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PendingDecision).decode
_BEFORE, _AFTER = keyspace.pending_decision("|").split("|")


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
    """The pending decision with this id; None if there is none.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    found: PendingDecision | None = await pipeline.get([keyspace.pending_decision(decision_id)], _read)
    return found


async def delete_pending_of(
    pipeline: RedisPipeline, keys: Container[ProfileKey], digests: Container[str], now: float
) -> None:
    """Delete the pending decisions of erased customers, and release what they hold. Scans all pending decisions.

    A decision is theirs by the key that its claims belong to or by the digests of its ids. The latter may be those of a
    browser that several people use, so they release nothing. What was confirmed stays spent. May be repeated: a claim
    that was released or whose hold ended has nothing left to release.

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
            if pending.key in keys:
                await _release(pipeline, name.removeprefix(_BEFORE).removesuffix(_AFTER), pending, now)
            elif identifier_digest(pending.customer) not in digests and identifier_digest(pending.unit) not in digests:
                continue
            await pipeline.send("DEL", name)  # after the release: a sweep that dies before finds the claims again


def concerned_offers(pending: PendingDecision, properties: Mapping[str, object]) -> list[PendingOffer]:
    """A decision's offers that an event concerns: of a named placement, and of a list only a named item.

    An item is named by its offer, or by its place as in `home_row[2]`; the learner requires the same.
    """
    offer, placement = properties.get("offer"), properties.get("placement")
    if isinstance(offer, str):
        named = {name: shown for name, shown in pending.offers.items() if shown[0] == offer}
        return [named[placement]] if isinstance(placement, str) and placement in named else [*named.values()]
    if isinstance(placement, str):
        return [pending.offers[placement]] if placement in pending.offers else []
    return [shown for name, shown in pending.offers.items() if not split_item(name)[1]]


async def release_if_erased(pipeline: RedisPipeline, decision_id: str, pending: PendingDecision, now: float) -> None:
    """Release an exposure's new claims if its customer was erased between the look-up and the claim.

    Looked up after the claim: an erasure that swept before it had nothing to release.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    if not pending.pools:
        return
    erased: bool = await pipeline.get([keyspace.profile(pending.key)], _is_erased)
    if erased:
        await _release(pipeline, decision_id, pending, now)


async def _release(pipeline: RedisPipeline, decision_id: str, pending: PendingDecision, now: float) -> None:
    """Release the claims of a decision in stocks and budgets; its customer's counters are deleted with the profile."""
    claims = Claims(pipeline)
    held = [
        Claim(id=claim_id(decision_id, offer), shares=[PoolShare(pool=kind, name=name) for kind, name in pools])
        for offer, pools in pending.pools.items()
    ]
    await asyncio.gather(*(claims.release(pending.key, claim, now) for claim in held))


def _is_erased(values: StoredValues) -> bool:
    return values[0] == TOMBSTONE


def _read(values: StoredValues) -> PendingDecision | None:
    try:
        return None if values[0] is None else _decode(values[0])
    except msgspec.DecodeError as error:
        raise UnreadableValueError(f"pending decision: {error}; was it written by a newer version?") from error

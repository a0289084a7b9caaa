"""Unique coupon codes of an offer: imported, drawn once, redeemed or revoked; no two customers see the same code.

| state of a code | draw | redeem | release | undo | revoke |
|---|---|---|---|---|---|
| free | drawn | | | | revoked |
| drawn | | redeemed | drawn: it stays with its customer | free, if it was never shown and no claim waits | revoked |
| redeemed | | | | | redeemed |
| revoked | | | | | revoked |

A customer who is shown the offer again gets their own code again, until it is redeemed or revoked. What was shown and
then refused is not given to another: its first customer may have noted it. Only a code that left no answer goes back.

A login merges customers. The code of the merged one becomes that of the customer when they are shown the offer next and
have none: a merge writes no coupons, so it cannot fail or stop half way by them.

A claim is reserved, then shown just before the answer, or undone where the answer does not show it. Decisions of one
customer at the same moment have claims on one code. So a code goes back with the last claim that waits for its answer,
and an event that names the code stands for the claim that was shown last, never for one that is undone.

Format in Redis, all keys of an offer in one hash slot:

- a hash: `c:CODE` the state; `k:CODE` the claim that showed the code last; `r:CODE` the message that redeemed it, and
  `b:CODE` that this message is stored; `w:KEY` the code of the customer at KEY; `h:ID` and `d:ID` the code of a claim,
  drawn and redeemed; `u:ID` marks a claim that is not shown yet, `n:CODE` counts those of a code; `imported`,
  `redeemed` and `revoked` count.
- a sorted set of claim ids by when they are forgotten: a day after the hold. The code stays where it is. A released
  claim is there until then too: a refused offer may be bought later.
- a list of free codes, drawn in the order of their import.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from engine import keyspace
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, load_script

AT_ONCE = 1000
"""Codes that one call of the script takes."""
_COUPON = load_script(Path(__file__).with_name("coupon.lua"))


class CustomerCode(msgspec.Struct, frozen=True, kw_only=True):
    """The code of a customer for an offer; `state` is drawn, redeemed or revoked."""

    offer: str
    code: str
    state: str


class CouponCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The codes of one offer: free, with customers, redeemed and revoked; `imported` is their sum."""

    offer: str
    imported: int
    free: int
    drawn: int
    redeemed: int
    revoked: int


def change_coupon(pipeline: RedisPipeline, offer: str, arguments: Sequence[str]) -> "asyncio.Future[RedisReply]":
    """One action on the codes of an offer, with the arguments of `coupon.lua`.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    return pipeline.call(_COUPON, keyspace.coupons(offer), tuple(arguments))


async def import_codes(pipeline: RedisPipeline, offer: str, codes: Sequence[str], now: float) -> int:
    """Add codes to an offer; returns the number of new ones. Importing a code again adds none."""
    await pipeline.send("SADD", keyspace.COUPON_OFFERS, offer)
    new = 0
    for start in range(0, len(codes), AT_ONCE):
        reply = await change_coupon(pipeline, offer, ["import", repr(now), *codes[start : start + AT_ONCE]])
        new += reply if isinstance(reply, int) else 0
    return new


async def revoke_code(pipeline: RedisPipeline, offer: str, code: str, now: float) -> str:
    """Revoke a free or drawn code; returns its former state, empty for an unknown code."""
    return _text(await change_coupon(pipeline, offer, ["revoke", repr(now), code]))


async def redeem_code(pipeline: RedisPipeline, offer: str, code: str, message_id: str, now: float) -> str:
    """Redeem a code for an event; returns the claim that showed it last, empty if it cannot be redeemed."""
    return _text(await change_coupon(pipeline, offer, ["redeem", repr(now), code, message_id]))


async def return_code(pipeline: RedisPipeline, offer: str, code: str, message_id: str, now: float) -> None:
    """Undo the redemption of a code by this event; does nothing if another event redeemed it or it is confirmed."""
    await change_coupon(pipeline, offer, ["undo_redeem", repr(now), code, message_id])


async def count_codes(pipeline: RedisPipeline, offer: str, now: float) -> CouponCounts:
    """The numbers of codes of an offer by state."""
    reply = await change_coupon(pipeline, offer, ["count", repr(now)])
    if not isinstance(reply, list):
        raise TypeError(f"coupon.lua answered {reply!r}")
    free, imported, redeemed, revoked = (int(_text(value)) for value in reply)
    drawn = imported - free - redeemed - revoked
    return CouponCounts(offer=offer, imported=imported, free=free, drawn=drawn, redeemed=redeemed, revoked=revoked)


async def show_codes(pipeline: RedisPipeline, claims: Mapping[str, str], now: float) -> dict[str, str]:
    """The codes of claims, by offer, for an answer that shows them; `claims` are claim ids by offer."""
    found = await asyncio.gather(
        *(change_coupon(pipeline, offer, ["show", repr(now), claim, "", ""]) for offer, claim in claims.items())
    )
    return {offer: _text(code) for offer, code in zip(claims, found, strict=True) if code}


async def read_codes(
    pipeline: RedisPipeline, offer: str, key: ProfileKey, absorbed: Sequence[ProfileKey] = ()
) -> list[CustomerCode]:
    """An offer's codes of the customer at `key` and of those `absorbed`; without merges usually one.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    codes, *_ = keyspace.coupons(offer)
    owners = [key, *await merged_into(pipeline, key, absorbed)]
    owned = await asyncio.gather(*(pipeline.send("HGET", codes, f"w:{owner}") for owner in owners))
    names = list(dict.fromkeys(_text(code) for code in owned if code is not None))
    states = await asyncio.gather(*(pipeline.send("HGET", codes, f"c:{code}") for code in names))
    return [CustomerCode(offer=offer, code=code, state=_text(state)) for code, state in zip(names, states, strict=True)]


async def merged_into(pipeline: RedisPipeline, key: ProfileKey, absorbed: Sequence[ProfileKey]) -> list[ProfileKey]:
    """The profiles absorbed by the customer at `key` whose entries still lead there.

    A browser that was shared too widely is a customer of its own again, and keeps its code.
    """
    if not absorbed:
        return []
    values = await pipeline.get([keyspace.profile(one) for one in absorbed], list)
    here = tuple(mark + key.encode() for mark in (b">", b"M"))
    return [one for one, value in zip(absorbed, values, strict=True) if value is not None and value.startswith(here)]


async def offers_with_codes(pipeline: RedisPipeline) -> list[str]:
    """The offers for which codes were ever imported."""
    reply = await pipeline.send("SMEMBERS", keyspace.COUPON_OFFERS)
    return sorted(map(_text, reply)) if isinstance(reply, list | set) else []


async def forget_customers(pipeline: RedisPipeline, erased: Iterable[ProfileKey]) -> None:
    """Delete the codes' links to erased customers. The codes stay used: no other customer gets them.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    fields = [f"w:{key}" for key in erased]
    if fields:
        for offer in await offers_with_codes(pipeline):
            await pipeline.send("HDEL", keyspace.coupons(offer)[0], *fields)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

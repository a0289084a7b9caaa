"""Claims on limits that must never be exceeded: a customer's caps, and shared stocks and budgets.

States of one claim in one pool, a stock or a budget (`pool.lua`):

| state              | claim       | confirm     | release   | hold ends | after a day |
|--------------------|-------------|-------------|-----------|-----------|-------------|
| none               | claimed [1] | confirmed   | none      |           |             |
| claimed (`h:ID`)   | claimed     | confirmed   | released  | expired   |             |
| confirmed (`d:ID`) | confirmed   | confirmed   | confirmed |           | forgotten   |

A refund leaves a confirmed claim confirmed, with an amount of 0, and a claimed one to be confirmed with that amount
(`f:ID`): a later confirmation spends nothing. With `refunds` a claim is forgotten after that time instead of a day.

From `none` a claim is refused where too little is left. [1] With `hold` 0 it is confirmed at once.
Released and expired claims leave nothing behind: they are `none` again, and their amount is back. A forgotten claim
stays in `spent`. On caps a claim has two states: counted under its id, or not.

Invariants:

- No claim raises `spent + held` of a pool above its level or limit, and none adds to a cap's window beyond its limit.
  `count` may: it records what already happened.
- A claim counts once under its id, however often it is made, confirmed or released.
- A claim is granted whole. What a refused claim got elsewhere is given back in a second round trip; where that fails,
  holds expire. A crash may leave an offer unshown for a while, never shown once too often.

Format in Redis (`engine/keyspace.py` has the keys):

- counters of a customer, in the customer's hash slot: msgpack map from counter to [(time in s since 1970, claim)],
  where a claim is the 6-byte BLAKE2b digest of its id, in hex. A counter is stored until its newest entry
  is older than 400 days, the longest window that `check` allows: however many other offers a customer met, no cap and
  no moment forgets. A counter `zone|NAME` has one entry: the latest that was counted while the customer's time zone
  was NAME (`decision/windows.py`). Only counters that a rule of the plan reads are written, so their number has a
  bound.
- a pool, in a hash slot of its own: hash of `level` (stocks only), `spent`, `held`, and `h:ID` and `d:ID` with the
  amount of each claim. Amounts are whole ten-thousandths, so that sums are exact. Where refunds give back, `o:DIGEST`
  has the claims that an order confirmed, one on a line, and `q:ID` the order's digest.
- its holds: sorted set of claim ids by the end of the hold, or of the day for which a confirmed claim is remembered.
"""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal, cast

import msgspec
from msgspec.structs import replace

from engine import keyspace
from engine.catalog.plan.places import shelf_name
from engine.claims.coupons import change_coupon, count_codes, merged_into, show_codes
from engine.customer import Counts
from engine.customers.redis.counts import decode_counts
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, load_script
from engine.customers.redis.stored_entry import KEY_DIGITS
from engine.errors import StoreUnavailable
from engine.vocabulary import DAY

UNIT = 10_000  # stored per 1.0 of an amount
LIFE = 400 * DAY
COUNTER_ENTRIES = 64
MOVES = 4
NEWLY_CLAIMED = 2  # pool.lua's reply where the claim was neither claimed nor confirmed before
SECURED = 60.0  # seconds in which the confirmation of a claim in several pools must finish

PoolKind = Literal["stock", "shelf", "budget", "coupon"]
PoolAction = Literal["reserve", "secure", "confirm", "release", "undo", "give_back", "level"]
DenialReason = Literal["cap", "stock", "budget", "coupon", "erased"]

_CLAIMS = load_script(Path(__file__).with_name("claims.lua"))
_POOL = load_script(Path(__file__).with_name("pool.lua"))


class CapCheck(msgspec.Struct, frozen=True, array_like=True):
    """At most `limit` entries of a counter such as `exposure|tag:loyalty` later than `since` (s since 1970)."""

    counter: str
    limit: int
    since: float


class PoolShare(msgspec.Struct, frozen=True, kw_only=True):
    """`amount` of a stock or budget, granted while at least `least` is left, and held for `hold` seconds.

    A `shelf` is the stock of one place; its name is `PLACE/SKU`. A `coupon` is a code of an offer (`coupons.py`).

    With `hold` 0 a claim is confirmed at once. `limit` is the plan's for a budget, None for a stock, whose level the
    shop sets. A budget may be that of a `period` from `begins` to `ends` (s since 1970). Its confirmed claims can be
    refunded for `refunds` seconds.
    """

    pool: PoolKind
    name: str
    amount: float = 1.0
    least: float = 0.0
    limit: float | None = None
    hold: float = 0.0
    period: str = ""
    begins: float = 0.0
    ends: float = math.inf
    is_even: bool = False
    refunds: float = 0.0

    @property
    def counter(self) -> str:
        """The name of the pool in the store; for a budget by period that of the period."""
        return f"{self.name}@{self.period}" if self.period else self.name

    def limit_at(self, now: float) -> float | None:
        """The limit at `now`: with an even pace the elapsed share of the period."""
        if self.limit is None or not self.is_even:
            return self.limit
        return self.limit * min(max((now - self.begins) / (self.ends - self.begins), 0.0), 1.0)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The requirements of one offer: all `caps` hold, all `counters` count it, all `shares` are granted.

    `id` names decision and offer; a claim counts once under its id. `keep_entries` is how many entries its counters
    store at least; `zone` is the customer's time zone, if counting is to mark it.
    """

    id: str
    caps: list[CapCheck] = []
    counters: list[str] = []
    shares: list[PoolShare] = []
    keep_entries: int = COUNTER_ENTRIES
    zone: str = ""


class Denial(msgspec.Struct, frozen=True):
    """The reason of a refused claim, with the counter of the first failed cap, or the stock or budget.

    Of the stock of one place the reason is `stock`, and the name `PLACE/SKU`.
    """

    reason: DenialReason
    name: str


class _CountedClaim(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A claim as `claims.lua` reads it."""

    id: str
    caps: list[CapCheck]
    counters: list[str]
    release: bool
    keep_entries: int
    zone: str


class Claims:
    """The claims in one Redis. Every method raises StoreUnavailable if Redis does not answer in time."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self._pipeline = pipeline

    async def claim(
        self, key: ProfileKey, claims: Sequence[Claim], now: float, absorbed: Sequence[ProfileKey] = ()
    ) -> list[Denial | None]:
        """The denial of each claim on the customer at `key`, None if granted; claims are counted in order.

        Takes one round trip, and a second to give back the parts of refused claims. Where a coupon is claimed, it may
        be the one of a profile that was `absorbed`: to look at those takes a round trip before.
        """
        shares = [(index, share) for index, claim in enumerate(claims) for share in claim.shares]
        if absorbed:
            has_coupons = any(share.pool == "coupon" for _, share in shares)
            absorbed = await merged_into(self._pipeline, key, absorbed) if has_coupons else ()
        reserving = [
            self._change("reserve", share, claims[index].id, now, key, absorbed=absorbed) for index, share in shares
        ]
        denials = await self._count(key, [_counted(claim) for claim in claims], now)
        if not shares:
            return denials
        replies = await asyncio.gather(*reserving)
        for (index, share), reply in zip(shares, replies, strict=True):
            if not reply and denials[index] is None:
                denials[index] = Denial(denial_reason(share.pool), share.name)
        refused = [claim for claim, denial in zip(claims, denials, strict=True) if denial is not None and claim.shares]
        if refused:
            # Only what this call claimed is undone: a claim confirmed earlier was sold, whatever the caps allow now.
            undone = [
                self._change("undo" if reply == NEWLY_CLAIMED else "release", share, claims[index].id, now, key)
                for (index, share), reply in zip(shares, replies, strict=True)
                if denials[index] is not None
            ]
            await self._count(key, [_counted(claim, caps=(), release=True) for claim in refused], now)
            await asyncio.gather(*undone)
        return denials

    async def count(self, key: ProfileKey, claim: Claim, now: float) -> None:
        """Count an event that already happened, regardless of caps: a redemption, a refusal, a late exposure."""
        await self._count(key, [_counted(claim, caps=())], now)

    async def confirm(self, claim: Claim, now: float, order: str = "") -> bool:
        """Confirm a claim in all of its pools or in none; an expired hold is confirmed only if enough is left.

        Pools are in different hash slots, so no script spans them: a claim in several is first secured in each. Budgets
        that can be refunded remember the claim by the id of its `order`.
        """
        if len(claim.shares) > 1:
            secured = [replace(share, hold=SECURED) for share in claim.shares]
            replies = await asyncio.gather(*(self._change("secure", share, claim.id, now) for share in secured))
            if not all(replies):
                new = [share for share, reply in zip(secured, replies, strict=True) if reply == NEWLY_CLAIMED]
                await asyncio.gather(*(self._change("release", share, claim.id, now) for share in new))
                return False
        digest = order_digest(order)
        confirming = (self._change("confirm", share, claim.id, now, order=digest) for share in claim.shares)
        return all(await asyncio.gather(*confirming))

    async def refund(self, share: PoolShare, claim_ids: Iterable[str], now: float) -> None:
        """Return the amounts of confirmed claims to their budget, each once, while the budget remembers them."""
        await asyncio.gather(*(self._pool("give_back", share, id_, now) for id_ in claim_ids))

    async def find_order(self, share: PoolShare, order: str) -> list[str]:
        """The ids of the claims that an order confirmed in a budget, while the budget remembers them."""
        reply = await self._pipeline.send("HGET", pool_key(share), f"o:{order_digest(order)}")
        return reply.decode().split("\n") if isinstance(reply, bytes) else []

    async def release(self, key: ProfileKey, claim: Claim, now: float, *, is_unseen: bool = False) -> None:
        """Release a claim and remove it from its counters; in pools that confirmed it, it stays confirmed.

        A coupon code that `is_unseen` is free again; any other stays with its customer and can still be redeemed.
        """
        actions = ["undo" if share.pool == "coupon" and is_unseen else "release" for share in claim.shares]
        released = [
            self._change(cast("PoolAction", action), share, claim.id, now, key)
            for action, share in zip(actions, claim.shares, strict=True)
        ]
        await self._count(key, [_counted(claim, caps=(), release=True)], now)
        await asyncio.gather(*released)

    async def set_stock(self, sku: str, level: float, now: float, place: str | None = None) -> None:
        """Set the level of a stock, or of a place's stock, as counted at `now`, including amounts on hold."""
        await self._pool("level", replace(stock_share(sku, place), amount=level), "", now)

    async def read_left(self, share: PoolShare, now: float = math.inf) -> float:
        """The amount of a pool that is neither spent nor held; expired holds count until the next claim."""
        reply = await self._pipeline.send("HMGET", pool_key(share), "level", "spent", "held")
        if not isinstance(reply, list):
            raise TypeError(f"HMGET answered {reply!r}")
        level, spent, held = (float(value or 0) / UNIT for value in reply)
        limit = share.limit_at(now)
        return (level if limit is None else limit) - spent - held

    async def read_remaining(self, share: PoolShare, now: float) -> float:
        """The amount of a pool that is neither spent nor held at `now`; writes nothing."""
        if share.pool == "coupon":
            return (await count_codes(self._pipeline, share.name, now)).free
        name = pool_key(share)
        expired = self._pipeline.send("ZRANGEBYSCORE", f"{name}:holds", "-inf", repr(now))
        left, ended = await asyncio.gather(self.read_left(share, now), expired)
        if not isinstance(ended, list) or not ended:
            return left
        held = await self._pipeline.send("HMGET", name, *(f"h:{_text(claim)}" for claim in ended))
        if not isinstance(held, list):
            raise TypeError(f"HMGET answered {held!r}")
        return left + sum(float(_text(amount)) for amount in held if amount is not None) / UNIT

    async def show_codes(self, claims: Mapping[str, str], now: float) -> dict[str, str]:
        """The coupon codes of claims, by offer, for an answer that shows them; `claims` are ids by offer."""
        return await show_codes(self._pipeline, claims, now)

    async def read_counts(self, key: ProfileKey) -> Counts:
        """The times (s since 1970) of the entries of each of a customer's counters."""
        return await self._pipeline.get([keyspace.counters(key)], lambda values: decode_counts(values[0]))

    async def _count(self, key: ProfileKey, claims: Sequence[_CountedClaim], now: float) -> list[Denial | None]:
        checked = [claim for claim in claims if claim.caps or claim.counters]
        if not checked:
            return [None] * len(claims)
        packed = msgspec.msgpack.encode((now, int(LIFE * 1000), checked))
        for _ in range(MOVES):
            reply = await self._pipeline.call(_CLAIMS, (keyspace.counters(key), keyspace.profile(key)), (packed,))
            if isinstance(reply, list):
                failed = iter(reply)
                return [_denial(c.caps, next(failed)) if c.caps or c.counters else None for c in claims]
            if not isinstance(reply, bytes) or reply[:1] == b"T":
                return [Denial("erased", "") for _ in claims]
            key = reply[1 : 1 + KEY_DIGITS].decode()  # the customer was merged: claim on the merged profile
        raise StoreUnavailable(f"a customer moved {MOVES} times while offers were claimed for them; ask again")

    def _change(
        self,
        action: PoolAction,
        share: PoolShare,
        id_: str,
        now: float,
        key: ProfileKey = "",
        *,
        absorbed: Sequence[ProfileKey] = (),
        order: str = "",
    ) -> "asyncio.Future[RedisReply]":
        """One transition of a claim in a pool, for the customer at `key`."""
        if share.pool != "coupon":
            return self._pool(action, share, id_, now, order if share.refunds else "")
        arguments = (action, repr(now), id_, key, repr(share.hold + DAY), *absorbed)
        return change_coupon(self._pipeline, share.name, arguments)

    def _pool(
        self, action: PoolAction, share: PoolShare, id_: str, now: float, order: str = ""
    ) -> "asyncio.Future[RedisReply]":
        name, limit_now = pool_key(share), share.limit_at(now)
        # Rounded down where it grows: a pace is never exceeded, not even by a ten-thousandth.
        limit = "" if limit_now is None else math.floor(limit_now * UNIT + 1e-6)
        arguments = (
            action,
            repr(now),
            int(LIFE * 1000),
            id_,
            round(share.amount * UNIT),
            round(share.least * UNIT) if action == "reserve" else 0,
            limit,
            repr(share.hold),
            repr(max(DAY, share.refunds)),
            order,
        )
        return self._pipeline.call(_POOL, (name, f"{name}:holds"), arguments)


def _counted(claim: Claim, *, caps: Sequence[CapCheck] | None = None, release: bool = False) -> _CountedClaim:
    return _CountedClaim(
        id=_short(claim.id),
        caps=claim.caps if caps is None else list(caps),
        counters=claim.counters,
        release=release,
        keep_entries=claim.keep_entries,
        zone=claim.zone,
    )


def _short(claim_id: str) -> str:
    """The start of a claim's id, long enough to be unique among a customer's claims."""
    return blake2b(claim_id.encode(), digest_size=6).hexdigest()


def _denial(caps: Sequence[CapCheck], failed: RedisReply) -> Denial | None:
    return Denial("cap", caps[failed - 1].counter) if isinstance(failed, int) and failed else None


def stock_share(sku: str, place: str | None = None) -> PoolShare:
    """One item of a SKU's stock, or of its stock at a place."""
    return PoolShare(pool="stock", name=sku) if place is None else PoolShare(pool="shelf", name=shelf_name(place, sku))


def order_digest(order: str) -> str:
    """The digest by which a budget remembers an order; empty without an order."""
    return blake2b(order.encode(), digest_size=12).hexdigest() if order else ""


def denial_reason(pool: PoolKind) -> DenialReason:
    """The reason for a claim that a pool of this kind refused."""
    return "stock" if pool == "shelf" else pool


def _text(value: bytes | int | None) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def pool_key(share: PoolShare) -> str:
    """The Redis key of a stock or budget."""
    return keyspace.pool(share.pool, share.counter)

"""What must never be exceeded, claimed atomically: caps on a customer, stock and budgets for all of them.

All claims of a request travel together. Caps are counted in the customer's hash slot, each stock and budget in its
own; where one of them is refused, what the same claim got from the others is given back, and what could not be given
back expires. So a crash may leave an offer unshown for a while, never shown once too often.
"""

import asyncio
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import msgspec

from engine import keyspace
from engine.customer import Counts
from engine.customers.redis.counts import decode_counts
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, load_script
from engine.customers.redis.stored_entry import KEY_DIGITS
from engine.errors import StoreUnavailable
from engine.vocabulary import DAY

UNIT = 10_000  # amounts are kept as whole ten-thousandths, so sums are exact
LIFE = 400 * DAY
COUNTER_ENTRIES = 64
COUNTERS = 256
MOVES = 4
NEWLY_TAKEN = 2  # pool.lua's reply to an amount that the claim did not hold or own before
SECURED = 60.0  # seconds, for a confirmation of several to be done

PoolKind = Literal["stock", "budget"]
PoolAction = Literal["reserve", "secure", "confirm", "release", "undo", "level"]
DenialReason = Literal["cap", "stock", "budget", "erased"]

_CLAIMS = load_script(Path(__file__).with_name("claims.lua"))
_POOL = load_script(Path(__file__).with_name("pool.lua"))


class CapCheck(msgspec.Struct, frozen=True, array_like=True):
    """At most `limit` of what `counter` counts (`exposure|tag:loyalty`, say) later than `since` (s since 1970)."""

    counter: str
    limit: int
    since: float


class PoolShare(msgspec.Struct, frozen=True):
    """`amount` of a stock or budget, held for `hold` seconds (0: taken at once) while at least `least` is left.

    A budget's `limit` is the plan's; a stock's (None) is the level that was last told.
    """

    pool: PoolKind
    name: str
    amount: float = 1.0
    least: float = 0.0
    limit: float | None = None
    hold: float = 0.0


class Claim(msgspec.Struct, frozen=True):
    """What one offer needs: every cap holds, then every counter counts it; and its share of stock and budget.

    Under the same `id` (decision, placement and offer) a claim counts once, however often it is made. Its counters keep
    the newest `most`.
    """

    id: str
    caps: list[CapCheck] = []
    counters: list[str] = []
    shares: list[PoolShare] = []
    keep_entries: int = COUNTER_ENTRIES


class Denial(msgspec.Struct, frozen=True):
    """Why a claim was not granted: the first cap's counter, or the stock or budget."""

    reason: DenialReason
    name: str


class Claims:
    """The claims behind `pipeline`. Every method raises StoreUnavailable where Redis does not answer in time."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self._pipeline = pipeline

    async def claim(self, key: ProfileKey, claims: Sequence[Claim], now: float) -> list[Denial | None]:
        """None for each claim granted to the customer at `key` at `now`; several are counted in their order.

        One round trip; a second gives back what a claim got that was refused elsewhere.
        """
        takes = [(index, take) for index, claim in enumerate(claims) for take in claim.shares]
        taking = [self._pool("reserve", take, claims[index].id, now) for index, take in takes]
        denials = await self._count(
            key, [(_short(c.id), c.caps, c.counters, False, c.keep_entries) for c in claims], now
        )
        if not takes:
            return denials
        replies = await asyncio.gather(*taking)
        for (index, take), reply in zip(takes, replies, strict=True):
            if not reply and denials[index] is None:
                denials[index] = Denial(take.pool, take.name)
        lost = [claim for claim, denial in zip(claims, denials, strict=True) if denial is not None and claim.shares]
        if lost:
            # Only what this call took anew is undone: a claim confirmed earlier was sold, whatever the caps say now.
            undone = [
                self._pool("undo" if reply == NEWLY_TAKEN else "release", take, claims[index].id, now)
                for (index, take), reply in zip(takes, replies, strict=True)
                if denials[index] is not None
            ]
            await self._count(
                key, [(_short(claim.id), (), claim.counters, True, claim.keep_entries) for claim in lost], now
            )
            await asyncio.gather(*undone)
        return denials

    async def count(self, key: ProfileKey, claim: Claim, now: float) -> None:
        """Count what happened to the customer whatever the caps say: a redemption, a refusal, an exposure seen late."""
        await self._count(key, [(_short(claim.id), (), claim.counters, False, claim.keep_entries)], now)

    async def confirm(self, claim: Claim, now: float) -> bool:
        """Take for good what was held, all or nothing; after its hold expired, only if there is still enough.

        Each stock and budget has a hash slot of its own, so several are first made sure of in a round trip of its own.
        """
        if len(claim.shares) > 1:
            sure = [msgspec.structs.replace(take, hold=SECURED) for take in claim.shares]
            replies = await asyncio.gather(*(self._pool("secure", take, claim.id, now) for take in sure))
            if not all(replies):
                new = [take for take, reply in zip(sure, replies, strict=True) if reply == NEWLY_TAKEN]
                await asyncio.gather(*(self._pool("release", take, claim.id, now) for take in new))
                return False
        return all(await asyncio.gather(*(self._pool("confirm", take, claim.id, now) for take in claim.shares)))

    async def release(self, key: ProfileKey, claim: Claim, now: float) -> None:
        """Give back what a claim holds and counted; what was confirmed stays."""
        released = [self._pool("release", take, claim.id, now) for take in claim.shares]
        await self._count(key, [(_short(claim.id), (), claim.counters, True, claim.keep_entries)], now)
        await asyncio.gather(*released)

    async def set_stock(self, sku: str, level: float, now: float) -> None:
        """The level of a stock as counted by the shop at `now`; what is held is not in it yet."""
        await self._pool("level", PoolShare("stock", sku, level), "", now)

    async def read_left(self, take: PoolShare) -> float:
        """How much of a stock or budget is neither gone nor held; a lapsed hold counts until the next claim."""
        reply = await self._pipeline.send("HMGET", pool_key(take), "level", "spent", "held")
        if not isinstance(reply, list):
            raise TypeError(f"HMGET answered {reply!r}")
        level, spent, held = (float(value or 0) / UNIT for value in reply)
        return (level if take.limit is None else take.limit) - spent - held

    async def read_remaining(self, take: PoolShare, now: float) -> float:
        """How much of a stock or budget is neither gone nor held at `now`; reads only."""
        name = pool_key(take)
        lapsed = self._pipeline.send("ZRANGEBYSCORE", f"{name}:holds", "-inf", repr(now))
        left, ended = await asyncio.gather(self.read_left(take), lapsed)
        if not isinstance(ended, list) or not ended:
            return left
        held = await self._pipeline.send("HMGET", name, *(f"h:{_text(one)}" for one in ended))
        if not isinstance(held, list):
            raise TypeError(f"HMGET answered {held!r}")
        return left + sum(float(_text(amount)) for amount in held if amount is not None) / UNIT

    async def read_counts(self, key: ProfileKey) -> Counts:
        """When what was counted for the customer happened, by counter, as `since` windows see it."""
        return await self._pipeline.get([keyspace.counters(key)], lambda values: decode_counts(values[0]))

    async def _count(
        self, key: ProfileKey, claims: Sequence[tuple[str, Sequence[CapCheck], list[str], bool, int]], now: float
    ) -> list[Denial | None]:
        asked = [claim for claim in claims if claim[1] or claim[2]]
        if not asked:
            return [None] * len(claims)
        packed = msgspec.msgpack.encode((now, int(LIFE * 1000), COUNTERS, asked))
        for _ in range(MOVES):
            reply = await self._pipeline.call(_CLAIMS, (keyspace.counters(key), keyspace.profile(key)), (packed,))
            if isinstance(reply, list):
                failed = iter(reply)
                return [_denied(claim[1], next(failed)) if claim[1] or claim[2] else None for claim in claims]
            if not isinstance(reply, bytes) or reply[:1] == b"T":
                return [Denial("erased", "") for _ in claims]
            key = reply[1 : 1 + KEY_DIGITS].decode()
        raise StoreUnavailable(f"a customer moved {MOVES} times while they were claimed for; ask again")

    def _pool(self, verb: PoolAction, take: PoolShare, id_: str, now: float) -> "asyncio.Future[RedisReply]":
        name = pool_key(take)
        limit = "" if take.limit is None else round(take.limit * UNIT)
        arguments = (
            verb,
            repr(now),
            int(LIFE * 1000),
            id_,
            round(take.amount * UNIT),
            round(take.least * UNIT) if verb == "reserve" else 0,
            limit,
            repr(take.hold),
        )
        return self._pipeline.call(_POOL, (name, f"{name}:holds"), arguments)


def _short(claim_id: str) -> str:
    """Enough of a claim's id to tell it from the others on one customer."""
    return blake2b(claim_id.encode(), digest_size=6).hexdigest()


def _denied(caps: Sequence[CapCheck], failed: RedisReply) -> Denial | None:
    return Denial("cap", caps[failed - 1].counter) if isinstance(failed, int) and failed else None


def _text(value: bytes | int | None) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def pool_key(take: PoolShare) -> str:
    """Where a stock or budget is stored."""
    return keyspace.pool(take.pool, take.name)

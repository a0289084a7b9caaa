"""Moves the shadow prices of stocks and budgets that must last, and publishes them to the decision servers.

The price of a unit rises while a pool is used faster than it can last until its end, and falls while it is used slower
(`policies.Pacing`). It moves every `INTERVAL` seconds, by what the store says is left and by the worth of the showings
since the last move. Prices are in the table `prices` of the learner's file; the learner of partition 0 moves them.
"""

import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from engine.catalog.plan.plan import Plan
from engine.claims.claims import UNIT, PoolShare, pool_key
from engine.claims.pacing import expected_worth, paced_pools, pools_by_offer, prices_by_offer, update_pacing
from engine.journal import stream
from engine.journal.records import LearnerRecord, UntracedDecision
from engine.learn.teach import Learnt
from engine.snapshots.publish import publish_prices
from policies import Pacing

INTERVAL = 0.25
"""Seconds between two moves of a price; the decision servers read the prices as often."""
_pacing = msgspec.json.Decoder(Pacing)


class PriceMover:
    """Moves the prices in the learner's file, one for each pool of the plan."""

    def __init__(self, db: sqlite3.Connection, plan: Plan) -> None:
        self._db = db
        self._pools = paced_pools(plan)
        self._selections = plan.policies
        self._of_offer = pools_by_offer(self._pools)
        self._worth: dict[str, list[float]] = {}
        self._last_move = float("-inf")

    def observe(self, records: Iterable[LearnerRecord], learnt: Mapping[str, Learnt]) -> None:
        """Record the worth of each showing of a scarce offer, which scales the moves of its price."""
        if not self._of_offer:
            return
        for record in records:
            for row in record.rows if isinstance(record, UntracedDecision) else ():
                key = (row.policy or "").rpartition("@")[0]
                selection = self._selections.get(key)
                if row.variant in self._of_offer and selection and row.variant in selection.arms and key in learnt:
                    worth = expected_worth(selection, learnt[key].policy, row.variant, row.context)
                    for name in self._of_offer[row.variant]:
                        self._worth.setdefault(name, []).append(worth)

    def move(self, client: stream.StreamClient, now: float) -> bool:
        """Move and publish the prices; False before `INTERVAL` is over. `now` is in seconds since 1970.

        Raises:
            redis.RedisError: if the store does not answer; the prices stay, and move the next time.
        """
        if now < self._last_move + INTERVAL or not (self._pools or self._stored()):
            return False
        prices, before = {}, self._stored()
        for name, pool in self._pools.items():
            left = units_left(client, pool.share, now)
            if left is not None and pool.begins <= now < pool.ends:
                units = max(left, 0.0) / pool.share.amount
                prices[name] = update_pacing(before.get(name), pool, units, now, self._worth.get(name, []))
        # StoredSnapshot before stored: if the store is away, the next call moves from the same prices again.
        publish_prices(client, prices_by_offer(self._pools, prices))
        rows = [(name, msgspec.json.encode(price)) for name, price in prices.items()]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM prices")
        self._db.executemany("INSERT INTO prices VALUES (?, ?)", rows)
        self._db.execute("COMMIT")
        self._worth.clear()
        self._last_move = now
        return True

    def _stored(self) -> dict[str, Pacing]:
        """The stored pacing state by pool: `stock:SKU` or `budget:OFFER`."""
        return {name: _pacing.decode(blob) for name, blob in self._db.execute("SELECT pool, pacing FROM prices")}


def units_left(client: stream.StreamClient, take: PoolShare, now: float) -> float | None:
    """The amount of a stock or budget that is neither spent nor on hold at `now` (s since 1970).

    None if the stock of a SKU was never set. Holds that have ended count as left although no claim has released them
    yet.
    """
    key = pool_key(take)
    level, spent, held = (float(value or 0) / UNIT for value in client.hmget(key, "level", "spent", "held"))
    if take.limit is None and not client.hexists(key, "level"):
        return None
    ended = client.zrangebyscore(f"{key}:holds", "-inf", repr(now))
    lapsed = client.hmget(key, *(f"h:{_decode(member)}" for member in ended)) if ended else []
    released = sum(float(amount) for amount in lapsed if amount is not None) / UNIT
    return (level if take.limit is None else take.limit) - spent - held + released


def _decode(member: object) -> str:
    """A member of a Redis reply as text."""
    return member.decode() if isinstance(member, bytes) else str(member)
